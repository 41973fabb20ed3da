"""What every core of the registry promises, at tiny sizes and mostly in float64."""

import copy
from contextlib import contextmanager, suppress
from functools import partial
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import functional_call
from torch.testing import assert_close

import engram.policies.core
from engram.policies import (
    CORES,
    FWM,
    MLP,
    MNM,
    RMC,
    STM,
    ConvLSTM,
    core_config,
    delta_rule,
    fwm_memory,
    fwp_stack,
    gru,
    lstm,
    make_core,
    stm,
)

D, T, B = 3, 7, 3
NAN = float("nan")

SMALL = {
    FWM.Config: {"memory_size": 3, "num_reads": 2},
    MLP.Config: {"hidden_size": 16},  # of 4, all may be silent
    MNM.Config: {"output_size": 5, "memory_size": 3, "num_heads": 2, "write_scale": 1.0},
    RMC.Config: {"num_slots": 3, "head_size": 3, "num_heads": 2, "key_size": 2},
    ConvLSTM.Config: {"channels": 2, "width": 3},
    STM.Config: {"memory_size": 3, "slots": 2, "sam_steps": 1},
}
"""sizes for the tests, where those of a configuration cut down to 4 will not do: widths should differ"""

FWP_NAMES = [name for name, config in CORES.items() if isinstance(config, fwp_stack.FastWeightProgrammer.Config)]
FWP_SIZES = {"hidden_size": 4, "num_heads": 2, "ff_size": 6}
SMALL |= {type(CORES[name]): FWP_SIZES for name in FWP_NAMES}

CASES = [(name, {}) for name in CORES] + [("fwm", {"key": "concat"}), ("fwm", {"write_scale": 3.0, "residual": False})]
CASES += [("fwm", {"num_chains": 2, "readout_size": 5})]
CASES += [
    ("delta-delta-net", {"slow_base": True}),
    ("rmc", {"gate": "unit", "num_blocks": 2, "attention_scale": "qkv"}),
    ("rmc", {"gate": "none", "mlp_layers": 1, "input_rows": 3}),
    ("jbfw", {"inner_steps": 2}),
    ("mnm", {"rate": "layers", "feedback": "tanh", "memory_output": "tanh"}),
    ("mnm-g", {"rate": "learned", "memory_output": "tanh", "two_biases": False, "forget_bias": 1.0}),
    ("mnm-g", {"num_layers": 1, "recall_steps": 3, "recall_decay": 0.5}),
    ("convlstm", {"width": 1, "kernel_size": 3}),
    ("plastic", {"rule": "hebb", "modulation": "rate"}),
    ("plastic-homogeneous", {"rule": "hebb"}),
    ("stm", {"alpha1": 0.8, "alpha2": -0.7, "alpha3": 0.6, "learn_initial": False}),
    ("stm", {"alpha1": 0.9, "alpha2": 0.8, "alpha1_on": "sam", "gates": False, "write": "f1f2"}),
]
"""every core, and choices that lead another way through one"""

FWM_SIZES = {"hidden_size": 4, "memory_size": 3, "num_reads": 3}
STM_SIZES = {"memory_size": 4, "slots": 2, "relation_size": 3, "read_size": 3, "mlp_size": 5, "output_size": 3}
RMC_SIZES = {"num_slots": 3, "head_size": 2, "num_heads": 2, "num_blocks": 2}
MNM_SIZES = {"hidden_size": 4, "output_size": 3, "memory_size": 3, "num_heads": 2}
# fmt: off
GOLDEN = [
    # name, choices, outputs [-1, 0, :4], sum of the outputs and sums of squares of the leaves of the last state
    ("lstm", {"hidden_size": 4},
     [0.11274101, 0.21901589, 0.05905209, -0.10244866], [1.45955497, 0.11083756, 1.12410032]),
    ("fwm", FWM_SIZES,
     [-0.25742750, -0.15029482, -0.15519069, -0.02990733], [-5.60077435, 0.11083756, 1.12410032, 0.01532214]),
    ("fwm-metarl", FWM_SIZES,
     [-0.25722935, -0.14827682, -0.15752998, -0.02944328], [-5.60034935, 0.11083756, 1.12410032, 0.01532214]),
    ("fwm", FWM_SIZES | {"query_activation": "tanh-e"},
     [-0.25738212, -0.14984399, -0.15571442, -0.02980247], [-5.60067683, 0.11083756, 1.12410032, 0.01532214]),
    ("fwm-lm", FWM_SIZES,
     [-0.23994919, 0.03538920, -0.36968396, 0.01199088], [-5.56105344, 0.11083756, 1.12410032, 0.13091883]),
    ("fwm", FWM_SIZES | {"key": "concat"},
     [-0.28335773, -0.50495305, 0.24703997, -0.10202494], [-5.88965464, 0.11083756, 1.12410032, 0.12660506]),
    ("linear-transformer", FWP_SIZES,
     [0.21938077, 0.51419949, -0.48859289, -0.11312067], [5.25448683, 28.02975216]),
    ("delta-net", FWP_SIZES,
     [0.40270596, 0.55980133, -0.49671985, -0.41535853], [4.84027011, 4.36553846]),
    ("rdn", FWP_SIZES,
     [0.20225880, 0.92352320, 0.30550477, 0.60387762], [21.55667023, 6.26225876, 3.00629255]),
    ("delta-mlp", FWP_SIZES,
     [-0.11329054, 0.05915537, 0.26552121, -0.13263767], [4.30470632, 7.62625420, 0.72452229]),
    ("delta-delta-net", FWP_SIZES,
     [0.12696885, 0.68463975, -0.50755495, -0.36239094], [4.67692636, 6.78728849, 0.71675962]),
    ("delta-lstm", FWP_SIZES,
     [0.28408016, 0.56910884, -0.44671058, -0.36738223],
     [5.12025374, 6.53540290, 9.77893416, 0.55190584, 1.90527842]),
    ("plastic", {"hidden_size": 4, "rule": "hebb"},
     [0.34133872, 0.43060612, 0.38069181, -0.67020130], [5.46896485, 2.43135056, 0.22644801]),
    ("plastic", {"hidden_size": 4},
     [0.34523085, 0.43432616, 0.38057567, -0.67385772], [5.47280447, 2.44206640, 0.30296852]),
    ("plastic-clip", {"hidden_size": 4},
     [0.35021513, 0.43437029, 0.38057567, -0.67389515], [5.47779544, 2.44562148, 0.34213435]),
    ("stm", STM_SIZES,
     [-0.34275194, -0.37560481, 0.01043943], [-5.61478877, 1.17728503, 10.90719333]),
    ("rmc", RMC_SIZES | {"gate": "unit"},
     [1.87002248, -0.52977256, -0.17255970, -0.33884410], [16.44406171, 15.20918138]),
    ("rmc", RMC_SIZES,
     [0.89769852, -0.62637626, -0.04121277, -0.39144250], [6.66155912, 6.82765631]),
    ("rmc", RMC_SIZES | {"gate": "none"},
     [2.37593113, -0.92486816, 0.15503051, -0.70551298], [21.43097648, 42.16526355]),
    ("jbfw", {"hidden_size": 4},
     [2.55061847, 0, 0, 0], [17.53791985, 7.62722881, 73.65929813]),
    ("mnm-g", MNM_SIZES,
     [-0.46003156, -0.31104938, -0.07990657], [-6.96705045, 0.07980717, 1.15885256, 0.00047638, 0, 4.43407545]),
    ("mnm-p", MNM_SIZES,
     [-0.45671519, -0.30291105, -0.07907612], [-6.85283082, 0.07905191, 1.15711565, 0.00023002, 0, 3.94752363]),
]
# fmt: on
"""of `test_golden_run`; computed once from the papers' equations by a program that shares nothing with this one"""


@pytest.fixture(params=CASES, ids=lambda case: "-".join([case[0], *map(str, case[1].values())]), scope="module")
def case(request):
    return request.param


@pytest.fixture
def core(case):
    return small_core(case)


@pytest.fixture(autouse=True, scope="module")
def _short_chunks():
    """Lets sequences of T steps take more than one chunk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fwm_memory, "CHUNK", 3)
        patch.setattr(delta_rule, "CHUNK", 3)
        patch.setattr(delta_rule, "TABLE", 3)
        patch.setattr(stm, "CHUNK", 3)
        yield


def small_core(case, dtype=torch.float64):
    name, choices = case
    config = core_config(name)
    sizes = {field: min(value, 4) for field, value in vars(config).items() if type(value) is int}
    torch.manual_seed(0)
    return make_core(name, D, **sizes | SMALL.get(type(config), {}) | choices).to(dtype)


def random_inputs(core, steps=T):
    """xs [steps, B, D] and a state away from the initial one, with gradient; the same at every call."""
    torch.manual_seed(1)
    initial = core.initial_state(B)
    state = type(initial)(*((leaf + torch.randn_like(leaf)).detach().requires_grad_() for leaf in initial))
    return torch.randn(steps, B, D, dtype=next(core.parameters()).dtype, requires_grad=True), state


def some_starts():
    """Row 0 starts in the middle; row 1 at once and last; row 2 nowhere. [T, B]"""
    starts = torch.zeros(T, B, dtype=torch.bool)
    starts[4, 0] = starts[0, 1] = starts[T - 1, 1] = True
    return starts


def start_patterns():
    """All of bool [1 .. T, B]."""
    return st.integers(1, T).flatmap(
        lambda steps: st.lists(st.booleans(), min_size=steps * B, max_size=steps * B).map(
            lambda flat: torch.tensor(flat).view(steps, B)
        )
    )


def stepped(core, xs, state, starts, report=(), donate=False):
    """What `forward` has to equal: a reset and a step for each x."""
    outputs = []
    for x, start in zip(xs, starts, strict=True):
        outputs.append(core.step(x, core.reset(state, start), report, donate))
        state = outputs[-1].state
    return (
        torch.stack([output.ys for output in outputs]),
        state,
        {name: torch.stack([output.report[name] for output in outputs]) for name in report},
    )


def pick(state, index):
    return type(state)(*(leaf[index] for leaf in state))


def clone(state):
    return type(state)(*(leaf.detach().clone() for leaf in state))


def gradients(core, output, *others):
    """To the parameters and `others`, of a fixed random combination of everything differentiable in `output`."""
    ys, state, reports = output
    generator = torch.Generator().manual_seed(2)
    parts = [ys, *state, *(reports[name] for name in core.aux_losses if name in reports)]
    total = sum((torch.randn(x.shape, dtype=x.dtype, generator=generator) * x).sum() for x in parts)
    return torch.autograd.grad(total, [*core.parameters(), *others], retain_graph=True, materialize_grads=True)


def same(actual, expected):
    assert_close(tuple(actual), tuple(expected), rtol=1e-9, atol=1e-10)


# --- forward is the recurrence --------------------------------------------------------------------------------------


@settings(max_examples=10, deadline=None)
@given(starts=start_patterns())
def test_forward_is_a_loop_of_step(case, starts):
    core = small_core(case)
    xs, state = random_inputs(core, len(starts))
    report = core.aux_losses + core.diagnostics
    expected, output = stepped(core, xs, state, starts, report), core(xs, state, starts, report)
    same(output, expected)
    same(gradients(core, output, xs, *state), gradients(core, expected, xs, *state))
    without_reports = core(xs, state, starts)
    same(without_reports[:2], expected[:2])
    same(gradients(core, without_reports, xs, *state), gradients(core, (*expected[:2], {}), xs, *state))


def test_no_starts(core):
    xs, state = random_inputs(core)
    nowhere = torch.zeros(T, B, dtype=torch.bool)
    output, expected = core(xs, state), stepped(core, xs, state, nowhere)
    same(output, expected)
    same(gradients(core, output, xs, *state), gradients(core, expected, xs, *state))


def test_where_looking_at_the_starts_would_wait(core, monkeypatch):
    """On a device the branches that skip work are not taken."""
    for module in (engram.policies.core, gru, lstm, fwm_memory, delta_rule, fwp_stack, stm):
        monkeypatch.setattr(module, "may_be_any", lambda mask: True)
    for starts in (torch.zeros(T, B, dtype=torch.bool), torch.ones(T, B, dtype=torch.bool), some_starts()):
        xs, state = random_inputs(core)
        output, expected = core(xs, state, starts), stepped(core, xs, state, starts)
        same(output, expected)
        same(gradients(core, output, xs, *state), gradients(core, expected, xs, *state))


def test_gradients_are_those_of_differences(core):
    xs, state = random_inputs(core, 3)
    starts = torch.tensor([[False, True, False], [False] * B, [True, False, False]])
    names = [name for name, _ in core.named_parameters()]

    def function(xs, *leaves):
        given, parameters = leaves[: len(state)], leaves[len(state) :]
        output = functional_call(
            core, dict(zip(names, parameters, strict=True)), (xs, type(state)(*given), starts, core.aux_losses)
        )
        return output.ys, *output.state, *output.report.values()

    assert torch.autograd.gradcheck(function, (xs, *state, *core.parameters()), fast_mode=True)


def test_float32(case):
    """Close to float64, or as close as the literal loop: some recurrences magnify what is rounded at each step."""
    core = small_core(case, torch.float32)
    xs, state = random_inputs(core)
    ys, looped = (form(xs, state, some_starts(), ()).ys for form in (core, core.loop))
    exact = copy.deepcopy(core).double()
    expected = exact(xs.double(), type(state)(*(leaf.double() for leaf in state)), some_starts()).ys
    assert ys.dtype == torch.float32
    assert (ys - expected).abs().max() < 1e-4 * expected.abs().max() + 2 * (looped - expected).abs().max()


def test_any_memory_layout(case):
    """Strided inputs and states, as slices of a larger batch are; without gradient too."""
    for dtype, enabled in ((torch.float64, True), (torch.float32, False)):
        core = small_core(case, dtype)
        xs, state = random_inputs(core)

        def strided(x):
            return torch.stack([x, x], dim=-1)[..., 0]

        with torch.set_grad_enabled(enabled):
            for length in (1, T):
                expected = core(xs[:length], state, some_starts()[:length])
                given = type(state)(*map(strided, state))
                assert_close(tuple(core(strided(xs[:length]), given, some_starts()[:length])), tuple(expected))


# --- episodes, cuts, rows, time -------------------------------------------------------------------------------------


@settings(max_examples=5, deadline=None)
@given(starts=start_patterns())
def test_an_episode_is_a_sequence_of_its_own(case, starts):
    """Row by row: outputs, last states and summed gradients of parameters and inputs."""
    core = small_core(case)
    xs, state = random_inputs(core, len(starts))
    output = core(xs, state, starts)
    ys = torch.empty_like(output.ys)
    lasts = []
    for b in range(B):
        cuts = sorted({0, *starts[:, b].nonzero()[:, 0].tolist(), len(starts)})
        for begin, end in pairwise(cuts):
            before = core.initial_state(1) if starts[begin, b] else pick(state, slice(b, b + 1))
            ys[begin:end, b : b + 1], last, _ = core(xs[begin:end, b : b + 1], before)
        lasts.append(last)
    last = type(state)(*(torch.cat(leaves) for leaves in zip(*lasts, strict=True)))
    same(output, (ys, last, {}))
    same(gradients(core, output, xs, *state), gradients(core, (ys, last, {}), xs, *state))


def test_a_sequence_may_be_cut_anywhere(core):
    xs, state = random_inputs(core)
    starts, whole = some_starts(), core(xs, state, some_starts())
    for cut in range(1, T):
        ys, between, _ = core(xs[:cut], state, starts[:cut])
        more, last, _ = core(xs[cut:], between, starts[cut:])
        parts = torch.cat([ys, more]), last, {}
        same(parts, whole)
        same(gradients(core, parts, xs, *state), gradients(core, whole, xs, *state))


def test_rows_are_independent(core):
    xs, state = random_inputs(core)
    starts, output = some_starts(), core(xs, state, some_starts())
    order = torch.tensor([2, 0, 1])
    permuted = core(xs[:, order], pick(state, order), starts[:, order])
    same(permuted, (output.ys[:, order], pick(output.state, order), {}))
    for b in range(B):
        row = slice(b, b + 1)
        same(core(xs[:, row], pick(state, row), starts[:, row]), (output.ys[:, row], pick(output.state, row), {}))
    *from_state, from_xs = torch.autograd.grad(output.ys[:, 0].sum(), [*state, xs], materialize_grads=True)
    assert not from_xs[:, 1:].any()
    assert not any(leaf[1:].any() for leaf in from_state)


def test_outputs_remember_their_episode_and_nothing_else(core):
    xs, state = random_inputs(core)
    starts, ys = some_starts(), core(xs, state, some_starts()).ys
    weights = torch.randn_like(ys)
    for t in range(T):
        for b in range(B):
            begin = max([0, *starts[: t + 1, b].nonzero()[:, 0].tolist()]) if state else t  # mlp remembers nothing
            *from_state, from_xs = torch.autograd.grad(
                (weights[t, b] * ys[t, b]).sum(), [*state, xs], retain_graph=True, materialize_grads=True
            )
            reached = from_xs[:, b].any(dim=1).tolist()
            assert reached == [begin <= s <= t for s in range(T)]
            assert any(leaf[b].any() for leaf in from_state) == (len(state) > 0 and not starts[: t + 1, b].any())


@pytest.mark.parametrize("way", ["forward", "forward float32", "step float32"])
@pytest.mark.parametrize("start", [0, 1, 2, 4])
def test_nan_ends_with_its_episode(case, start, way):
    """Planted in a leaf of row 1, it is gone where row 1 starts and never gets into another row."""
    core = small_core(case, torch.float32 if "float32" in way else torch.float64)
    run = partial(stepped, core) if "step" in way else core
    xs, state = random_inputs(core)
    starts = torch.zeros(T, B, dtype=torch.bool)
    starts[start, 1] = starts[start + 1, 0] = True
    with torch.no_grad():
        expected = run(xs, clone(state), starts)
        for field in range(len(state)):
            poisoned = clone(state)
            poisoned[field][1] = NAN
            ys, last, _ = run(xs, poisoned, starts)
            hidden = torch.zeros(T, B, 1, dtype=torch.bool)
            hidden[:start, 1] = True
            assert_close(ys.masked_fill(hidden, 0), expected[0].masked_fill(hidden, 0))
            assert_close(tuple(last), tuple(expected[1]))


# --- what is left alone ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_inputs_are_left_alone(case, dtype):
    core = small_core(case, dtype)
    xs, state = random_inputs(core)
    starts = some_starts()
    for enabled in (True, False):
        with torch.set_grad_enabled(enabled):
            for length in (1, T):
                given = xs.detach().clone(), clone(state), starts.clone()
                core(given[0][:length], given[1], given[2][:length])
                core(given[0][:length], given[1])
                core.loop(given[0][:length], given[1], None, ())
                core.step(given[0][0], given[1])
                core.reset(given[1], starts[0])
                assert_close(given, (xs.detach(), clone(state), starts), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_donating_the_state_changes_no_result(case, dtype):
    core = small_core(case, dtype)
    xs, state = random_inputs(core)
    for length in (1, 2, T):
        starts = some_starts()[:length]
        with torch.no_grad():
            expected = core(xs[:length], clone(state), starts)
            assert_close(core(xs[:length], clone(state), starts, donate=True), expected)
            expected = stepped(core, xs[:length], clone(state), starts)
            assert_close(stepped(core, xs[:length], clone(state), starts, donate=True), expected)
        expected, output = core(xs[:length], state, starts), core(xs[:length], state, starts, donate=True)
        assert_close(gradients(core, output, xs, *state), gradients(core, expected, xs, *state))


def test_donating_a_state_spares_what_else_was_given(case):
    """Earlier outputs, of which a state may be a part, and the initial state that the module makes."""
    core = small_core(case, torch.float32)
    xs, _ = random_inputs(core)
    starts = torch.tensor([[True, False, True]])
    before = copy.deepcopy(core.state_dict())
    with torch.no_grad():
        for report in (), core.diagnostics:  # a sequence at once, and step by step
            ys, state, _ = core(xs, core.initial_state(B))
            kept, expected = ys.clone(), core(xs[:1], clone(state), starts, report)
            assert_close(core(xs[:1], state, starts, report, donate=True), expected)
            assert_close(ys, kept, rtol=0, atol=0)
        ys, state, _ = core.step(xs[0], core.initial_state(B))
        kept = ys.clone()
        core(xs[:1], state, starts, donate=True)
        assert_close(ys, kept, rtol=0, atol=0)
        expected = core(xs[:1], clone(core.initial_state(B)), starts)
        assert_close(core(xs[:1], core.initial_state(B), starts, donate=True), expected)
    assert_close(dict(core.state_dict()), dict(before), rtol=0, atol=0)


def test_donating_one_state_for_all_rows(case):
    """Expanded, its rows share their numbers, of which each row needs its own."""
    core = small_core(case, torch.float32)
    xs, state = random_inputs(core)
    with torch.no_grad():
        expanded = type(state)(*(leaf[:1].expand_as(leaf) for leaf in state))
        expected = core(xs[:1], clone(expanded))
        assert_close(core(xs[:1], expanded, donate=True), expected)


def test_states_share_no_numbers(core):
    """Neither the leaves of a state with each other or with parameters, nor the last state with the outputs."""
    before = copy.deepcopy(core.state_dict())
    with torch.no_grad():
        state = core.initial_state(B)
        for number, leaf in enumerate(state):
            leaf.fill_(number)
        assert all((leaf == number).all() for number, leaf in enumerate(state))
        assert_close(dict(core.state_dict()), dict(before), rtol=0, atol=0)
        xs, state = random_inputs(core)
        for length in (1, T):
            for starts in (None, some_starts()[-length:]):
                ys, last, _ = core(xs[:length], clone(state), starts)
                expected = clone(last)
                ys.fill_(NAN)
                assert_close(last, expected, rtol=0, atol=0)


def test_second_derivatives_are_right_or_refused(core):
    xs, state = random_inputs(core)

    def second(form):
        (first,) = torch.autograd.grad(form(xs, state, some_starts(), ()).ys.sum(), xs, create_graph=True)
        return torch.autograd.grad(first.square().sum(), xs)

    expected = found = second(core.loop)
    with suppress(RuntimeError):
        found = second(core)
    assert_close(found, expected)


def test_no_second_derivative():
    xs = torch.randn(T, B, D, requires_grad=True)
    core = make_core("gru", D)
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(core(xs, core.initial_state(B)).ys.sum(), xs, create_graph=True)


def test_defaults_of_torch_do_not_matter(case):
    core = small_core(case, torch.float32)
    xs, state = random_inputs(core)
    with torch.no_grad():
        expected = [core(xs[:length], state) for length in (1, T)]
        for default in torch.device("meta"), _default_dtype(torch.float64):
            with default:
                assert_close([core(xs[:length], state) for length in (1, T)], expected, rtol=0, atol=0)


@contextmanager
def _default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def test_starts_that_change_before_the_backward_pass(core):
    """Torch says so, or the gradients do not mind."""
    xs, state = random_inputs(core)
    starts = some_starts()
    expected = gradients(core, core(xs, state, starts), xs, *state)
    output = core(xs, state, starts)
    starts.fill_(True)
    try:
        found = gradients(core, output, xs, *state)
    except RuntimeError as error:
        assert "modified by an inplace operation" in str(error)  # noqa: PT017 -- one of two ways
    else:
        same(found, expected)


def test_the_module_keeps_no_state(core):
    xs, state = random_inputs(core)
    before = copy.deepcopy(core.state_dict())
    first, second = core(xs, state, some_starts()), core(xs, state, some_starts())
    assert_close(first, second, rtol=0, atol=0)
    assert_close(dict(core.state_dict()), dict(before), rtol=0, atol=0)


# --- types of numbers -----------------------------------------------------------------------------------------------


def test_autocast_leaves_a_core_alone(case):
    core = small_core(case, torch.float32)
    xs, state = random_inputs(core)
    half = xs.detach().bfloat16()
    for length in (1, T):
        starts = some_starts()[:length]
        expected = core(xs[:length], state, starts)
        rounded = core(half[:length].float(), state, starts)
        with torch.autocast("cpu", torch.bfloat16):
            output = core(xs[:length], state, starts)
            assert_close(core(half[:length], state, starts), rounded, rtol=0, atol=0)
        assert_close(output, expected, rtol=0, atol=0)
        assert_close(gradients(core, output, xs), gradients(core, expected, xs))


def test_a_core_of_half_precision(case):
    core = small_core(case, torch.bfloat16)
    xs, state = random_inputs(core)
    for length in (1, T):
        output = core(xs[:length], state, some_starts()[:length])
        assert all(x.dtype == torch.bfloat16 and x.isfinite().all() for x in (output.ys, *output.state))
        assert all(x.isfinite().all() for x in gradients(core, output, xs))


@pytest.mark.parametrize("name", ["delta-net", "fwm", "gru", "jbfw", "mnm-g", "plastic", "rdn", "rmc"])
def test_torch_compile(name):
    """It traces the torch form, as it cannot see through a compiled kernel."""
    core = small_core((name, {}), torch.float32)
    xs, state = random_inputs(core)
    compiled = torch.compile(core, backend="eager")
    with torch.no_grad():
        assert_close(compiled(xs[:1], state), core(xs[:1], state))
        assert_close(compiled(xs[:3], state), core(xs[:3], state))


# --- states and reports ---------------------------------------------------------------------------------------------


def test_shapes(core):
    initial = core.initial_state(5)
    for leaf, one in zip(initial, core.initial_state(1), strict=True):
        assert leaf.shape == (5, *one.shape[1:])
        assert_close(leaf, one.expand_as(leaf), rtol=0, atol=0)
        assert leaf.dtype == torch.float64
    ys, state, _ = core(torch.randn(T, 5, D, dtype=torch.float64), initial)
    assert ys.shape == (T, 5, core.output_size)
    assert type(state) is type(initial)
    assert [leaf.shape for leaf in state] == [leaf.shape for leaf in initial]
    assert core.input_size == D


def test_reports(core):
    xs, state = random_inputs(core)
    names = core.aux_losses + core.diagnostics
    assert ("memory_norm" in names) == bool(state)
    everything = core(xs, state, some_starts(), names)
    assert tuple(everything.report) == names
    same(everything[:2], core(xs, state, some_starts())[:2])
    for name in names:
        report = core(xs, state, some_starts(), (name,)).report
        assert tuple(report) == (name,)
        same([report[name]], [everything.report[name]])
        assert report[name].requires_grad == (name in core.aux_losses)
        assert report[name].shape[:2] == (T, B)
        assert report[name].dim() == 2 or name in core.diagnostics
        assert report[name].isfinite().all()


# --- numbers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["forward", "step"])
@pytest.mark.parametrize(("name", "choices", "last_outputs", "sums"), GOLDEN)
def test_golden_run(name, choices, last_outputs, sums, form):
    """The j-th parameter is 0.4 sin(1 + 0.37 j + 0.71 n) over its entries n, 1 more for the gains of layer norms; row 1
    starts before the third step."""
    core = make_core(name, 3, **choices).double()
    with torch.no_grad():
        for j, parameter in enumerate([*core.parameters(), *(layer for memory in core.buffers() for layer in memory)]):
            n = torch.arange(parameter.numel(), dtype=torch.float64).view_as(parameter)
            parameter.copy_(0.4 * torch.sin(1 + 0.37 * j + 0.71 * n))
        for module in core.modules():
            if isinstance(module, torch.nn.LayerNorm):
                module.weight += 1
    t, b, i = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in (4, 2, 3)), indexing="ij")
    xs = torch.sin(0.5 + 0.9 * t + 1.3 * b + 0.41 * i).double()  # as the program that made the numbers had them
    starts = torch.zeros(4, 2, dtype=torch.bool)
    starts[2, 1] = True
    run = core if form == "forward" else partial(stepped, core)
    ys, state, _ = run(xs, core.initial_state(2), starts)
    numbers = [*ys[3, 0, :4].tolist(), ys.sum().item(), *(leaf.square().sum().item() for leaf in state)]
    assert numbers == pytest.approx([*last_outputs, *sums], rel=2e-8, abs=1e-7)


# --- errors ---------------------------------------------------------------------------------------------------------


def message(call):
    """Of the ValueError that `call` raises, which has to be one line."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 -- its callers look at the message
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("inputs", "got"),
    [
        (torch.zeros(T, B, D + 1, dtype=torch.float64), f"torch.float64 [{T}, {B}, {D + 1}]"),
        (torch.zeros(B, D, dtype=torch.float64), f"torch.float64 [{B}, {D}]"),
        (torch.zeros(0, B, D, dtype=torch.float64), f"torch.float64 [0, {B}, {D}]"),
        (torch.zeros(T, 0, D, dtype=torch.float64), f"torch.float64 [{T}, 0, {D}]"),
        (torch.zeros(T, B, D), f"torch.float32 [{T}, {B}, {D}]"),
        (torch.zeros(T, B, D, dtype=torch.int64), f"torch.int64 [{T}, {B}, {D}]"),
    ],
)
def test_wrong_inputs(core, inputs, got):
    assert message(lambda: core(inputs, core.initial_state(B))) == (
        f"{type(core).__name__} reads torch.float64 inputs [T, B, {D}] of at least one step in one row, got {got}"
    )


def test_wrong_states(core):
    xs, state = random_inputs(core)
    assert "continues from" in message(lambda: core(xs, tuple(state)))
    assert "got tuple" in message(lambda: core(xs, tuple(state)))
    if not state:  # nothing in it to be of a wrong shape
        return
    assert f"state.{state._fields[0]} must be torch.float64 [{B}, " in message(
        lambda: core(xs, core.initial_state(B + 1))
    )
    narrow = type(state)(*(leaf.float() for leaf in state))
    assert f"got torch.float32 {list(state[0].shape)}" in message(lambda: core(xs, narrow))
    field = state._fields[-1]
    wider = state._replace(**{field: torch.cat([state[-1], state[-1]], dim=-1)})
    assert f"must be torch.float64 {list(state[-1].shape)}, got torch.float64 {list(wider[-1].shape)}" in message(
        lambda: core(xs, wider)
    )


@pytest.mark.parametrize(
    ("starts", "got"),
    [(torch.zeros(T, B), f"torch.float32 [{T}, {B}]"), (torch.zeros(T, 1, dtype=torch.bool), f"torch.bool [{T}, 1]")],
)
def test_wrong_episode_starts(core, starts, got):
    xs, state = random_inputs(core)
    assert message(lambda: core(xs, state, starts)).endswith(f"reads episode_starts as bool [{T}, {B}], got {got}")


def test_wrong_reports(core):
    xs, state = random_inputs(core)
    text = message(lambda: core(xs, state, None, ("nonsense",)))
    assert "'nonsense'" in text
    assert str(core.aux_losses + core.diagnostics) in text


@pytest.mark.parametrize("name", CORES)
def test_wrong_configurations(name):
    """Sizes are integers of at least 1, other numbers are finite, and a choice among names takes only those."""
    odd = {int: (0, -1, 1.5, "3"), float: (NAN, float("inf"), "3"), bool: (2, "no"), str: ("nonsense", 3)}
    for field, value in vars(core_config(name)).items():
        for wrong in odd.get(type(value), ()):
            assert f"{field}={wrong!r}, but it must be" in message(partial(make_core, name, D, **{field: wrong}))
    for wrong in (0, -1):
        assert message(partial(make_core, name, wrong)).endswith(f"at least one number, got input_size={wrong}")
    text = message(lambda: make_core(name, D, hiden_size=3))
    assert repr(name) in text
    assert "hiden_size" in text
    assert ", ".join(vars(core_config(name))) in text


def test_unknown_core():
    assert message(lambda: make_core("lsmt", D)) == f"no core is called 'lsmt'; choose from {', '.join(CORES)}"
