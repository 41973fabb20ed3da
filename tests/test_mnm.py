"""MNM: the equations written naively, its numbers, what the paper says of its memory, options and sizes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from engram.policies import MNM, make_core

RULES = ["perceptron", "gradient"]


def mnm(rule="perceptron", input_size=5, dtype=torch.float64, **choices):
    """Writes at a scale that changes what is read."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 6, "output_size": 7, "memory_size": 4, "num_heads": 2, "write_scale": 1.0}
    return make_core("mnm", input_size, **sizes | {"rule": rule} | choices).to(dtype)


def random_inputs(core, steps=9, batch_size=3):
    torch.manual_seed(1)
    dtype = core.output.weight.dtype
    state = core.State(*(leaf + 0.2 * torch.randn_like(leaf) for leaf in core.initial_state(batch_size)))
    return torch.randn(steps, batch_size, core.input_size, dtype=dtype), state


def random_pairs(core, batch_size=3):
    """Write keys and values [B, H, d], and rates [B, L], as the LSTM could make them."""
    torch.manual_seed(2)
    config = core.config
    keys, values = torch.randn(2, batch_size, config.num_heads, config.memory_size, dtype=torch.float64).tanh()
    return keys, values, torch.rand(batch_size, config.num_layers, dtype=torch.float64)


def random_memory(core, batch_size=3):
    return torch.randn_like(core.initial_state(batch_size).memory) / core.config.memory_size**0.5


def gradients(core, output):
    weights = torch.linspace(-1, 1, output.ys.numel(), dtype=output.ys.dtype).view_as(output.ys)
    total = (weights * output.ys).sum() + sum(x.sum() for x in output.report.values()) + output.state.memory.sin().sum()
    return torch.autograd.grad(total, [*core.parameters()], materialize_grads=True)


# --- the equations, again -------------------------------------------------------------------------------------------


def literal(core, xs, state):
    """The paper's equations for a sequence of one row, a head at a time; autograd takes the gradient of Eq. 3.

    Returns outputs [T, 1, Y], meta losses [T, 1], the last h, c, read and memory.
    """
    config = core.config
    h, c, read, recent, memory = (leaf[0] for leaf in state)
    d, H, L, m = config.memory_size, config.num_heads, config.num_layers, config.hidden_size
    scale = 2 / (H * d) if config.write_scale is None else config.write_scale

    def run(layers, key):
        zs = [key]
        for l, weights in enumerate(layers, 1):
            zs.append(weights @ zs[-1])
            if l < L or config.memory_output == "tanh":
                zs[-1] = zs[-1].tanh()
        return zs

    pairs = [[(k[i], v[i]) for i in range(H)] for k, v in recent]  # latest first
    ys, losses = [], []
    for x in xs[:, 0]:
        gates = core.lstm.weight_ih @ torch.cat([x, read]) + core.lstm.bias_ih + core.lstm.weight_hh @ h
        if config.two_biases:
            gates = gates + core.lstm.bias_hh
        i, f, g, o = gates.split(m)
        c = torch.sigmoid(f + config.forget_bias) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)

        vectors = torch.tanh(core.interaction.weight @ h + core.interaction.bias)
        read_keys, write_keys, values = (chunk.split(d) for chunk in vectors[: 3 * H * d].split(H * d))
        if config.rate == "learned":
            rates = torch.sigmoid(core.rate.bias)
        else:
            rates = torch.sigmoid(core.rate.weight @ vectors[3 * H * d :] + core.rate.bias)
        rates = rates.expand(L)

        layers = list(memory)
        if config.rule == "gradient":
            with torch.enable_grad():
                leaves = [weights.detach().requires_grad_() for weights in layers]
                error = sum((run(leaves, k)[-1] - v).square().sum() for k, v in zip(write_keys, values, strict=True))
                slopes = torch.autograd.grad(error / 2, leaves)
        else:
            slopes = [torch.zeros(d, d, dtype=torch.float64) for _ in range(L)]
            for key, value in zip(write_keys, values, strict=True):
                zs = run(layers, key)
                for l in range(L):
                    target = core.feedback[l].weight @ value + core.feedback[l].bias
                    if config.feedback == "tanh" and l < L - 1:
                        target = target.tanh()
                    slopes[l] = slopes[l] + torch.outer(zs[l + 1] - target, zs[l])
        memory = torch.stack([layers[l] - scale * rates[l] * slopes[l] for l in range(L)])

        read = sum(run(memory, key)[-1] for key in read_keys) / H
        pairs = [list(zip(write_keys, values, strict=True)), *pairs][: config.recall_steps]
        loss = 0
        for tau, written in enumerate(pairs):
            for key, value in written:
                loss = loss + config.recall_decay**tau * (run(memory, key)[-1] - value).square().sum() / (H * d)
        ys.append(core.output.weight @ torch.cat([h, read]) + core.output.bias)
        losses.append(loss)
    return torch.stack(ys)[:, None], torch.stack(losses)[:, None], (h[None], c[None], read[None], memory[None])


OPTIONS = [
    {},
    {"num_layers": 1},
    {"num_layers": 2, "num_heads": 1},
    {"num_heads": 3, "write_scale": None, "two_biases": False, "forget_bias": 0.75},
    {"memory_output": "tanh"},
    {"rate": "layers"},
    {"rate": "learned"},
    {"feedback": "tanh"},
    {"stop_target": True},
    {"recall_steps": 3, "recall_decay": 0.5},
]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("choices", OPTIONS, ids=str)
def test_the_equations(rule, choices):
    core = mnm(rule, **choices)
    xs, state = random_inputs(core, batch_size=1)
    ys, loss, last = literal(core, xs, state)
    for output in (core(xs, state, None, ("meta_loss",)), core.loop(xs, state, None, ("meta_loss",))):
        assert_close(output.ys, ys, rtol=1e-9, atol=1e-10)
        assert_close(output.report["meta_loss"], loss, rtol=1e-9, atol=1e-10)
        assert_close((*output.state[:3], output.state.memory), last, rtol=1e-9, atol=1e-10)


GOLDEN = {
    "gradient": (
        [1.47685959, 1.48325347, 1.47396239],
        [0.08890071, 0.08959839, 0.08941087, 0.09498357, 0.09672903, 0.08252071, 0.09201925, 0.08175736],
    ),
    "perceptron": (
        [1.25880195, 1.26424718, 1.42447448],
        [0.09538883, 0.09628846, 0.09617776, 0.10148776, 0.10374969, 0.08864990, 0.09832286, 0.08730718],
    ),
}
"""sums of squares of the layers of the last memory, and meta losses, of the run of `test_cores.test_golden_run`"""


@pytest.mark.parametrize("form", ["forward", "loop"])
@pytest.mark.parametrize("rule", RULES)
def test_golden_meta_loss(rule, form):
    sizes = {"hidden_size": 4, "output_size": 3, "memory_size": 3, "write_scale": None}
    core = mnm(rule, input_size=3, **sizes)
    with torch.no_grad():
        for j, tensor in enumerate([*core.parameters(), *core.initial_memory]):
            n = torch.arange(tensor.numel(), dtype=torch.float64).view_as(tensor)
            tensor.copy_(0.4 * torch.sin(1 + 0.37 * j + 0.71 * n))
    t, b, i = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in (4, 2, 3)), indexing="ij")
    xs = torch.sin(0.5 + 0.9 * t + 1.3 * b + 0.41 * i)
    starts = torch.zeros(4, 2, dtype=torch.bool)
    starts[2, 1] = True
    run = core if form == "forward" else core.loop
    _, last, report = run(xs, core.initial_state(2), starts, ("meta_loss",))
    squares, losses = GOLDEN[rule]
    assert last.memory.square().sum((0, 2, 3)).tolist() == pytest.approx(squares, abs=2e-8)
    assert report["meta_loss"].flatten().tolist() == pytest.approx(losses, abs=2e-8)


# --- what a write does ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("memory_output", ["linear", "tanh"])
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), rate=st.floats(1e-4, 1e-2))
def test_the_gradient_rule_reduces_the_error(memory_output, seed, rate):
    core = mnm("gradient", memory_output=memory_output, write_scale=None)
    keys, values, _ = random_pairs(core)
    torch.manual_seed(seed)
    memory = random_memory(core)

    def error(memory):
        return (core.activations(memory, keys)[-1] - values).square().sum((1, 2))

    after = core.write(memory, keys, values, torch.full((3, 3), rate, dtype=torch.float64))
    assert (error(after) < error(memory)).all()


def test_the_gradient_rule_does_not_write_what_it_knows():
    core = mnm("gradient")
    keys, _, rates = random_pairs(core)
    memory = random_memory(core)
    assert_close(core.write(memory, keys, core.activations(memory, keys)[-1], rates), memory, rtol=0, atol=0)


def test_one_layer_is_a_delta_rule():
    """With targets that are the values, both rules are."""
    cores = [mnm(rule, num_layers=1) for rule in RULES]
    with torch.no_grad():
        cores[0].feedback[0].weight.copy_(torch.eye(4))
        cores[0].feedback[0].bias.zero_()
    keys, values, rates = random_pairs(cores[0])
    memory = random_memory(cores[0])
    old = torch.einsum("bij,bhj->bhi", memory[:, 0], keys)
    delta = torch.einsum("bhi,bhj->bij", values - old, keys)
    expected = memory + rates[:, :, None, None] * delta[:, None]
    for core in cores:
        assert_close(core.write(memory, keys, values, rates), expected)


def test_the_perceptron_rule_is_local():
    """What a layer becomes depends on no later layer; by the gradient rule it does."""
    for rule, local in (("perceptron", True), ("gradient", False)):
        core = mnm(rule)
        keys, values, rates = random_pairs(core)
        memory = random_memory(core)
        other = memory.clone()
        other[:, 2] += 1
        first, second = core.write(memory, keys, values, rates), core.write(other, keys, values, rates)
        assert torch.equal(first[:, :2], second[:, :2]) == local


@pytest.mark.parametrize("rule", RULES)
def test_heads_have_no_order(rule):
    core = mnm(rule, num_heads=3)
    keys, values, rates = random_pairs(core)
    memory, order = random_memory(core), [2, 0, 1]
    expected = core.write(memory, keys, values, rates)
    assert_close(core.write(memory, keys[:, order], values[:, order], rates), expected)
    assert not torch.allclose(core.write(memory, keys[:, order], values, rates), expected)
    xs, state = random_inputs(core)
    expected = core(xs, state)
    with torch.no_grad():
        for tensor in (core.interaction.weight, core.interaction.bias):
            rows = tensor[:12].unflatten(0, (3, 4))  # of the read keys
            tensor[:12] = rows[order].flatten(0, 1)
    assert_close(core(xs, state), expected)


@pytest.mark.parametrize("rule", RULES)
def test_closed_it_writes_nothing(rule):
    core = mnm(rule)
    with torch.no_grad():
        core.rate.weight.zero_()
        core.rate.bias.fill_(-torch.inf)
    xs, state = random_inputs(core)
    for run in (core, core.loop):
        _, last, report = run(xs, state, None, ("read_keys", "read", "rate"))
        assert_close(last.memory, state.memory, rtol=0, atol=0)
        assert not report["rate"].any()
        for keys, read in zip(report["read_keys"], report["read"], strict=True):
            assert_close(core.activations(state.memory, keys)[-1].mean(1), read)


@pytest.mark.parametrize(("write_scale", "bounded"), [(None, True), (1.0, False)])
@pytest.mark.parametrize("rule", RULES)
def test_the_scale_of_writes(rule, write_scale, bounded):
    """Saturated pairs at rate 1/2 leave the memory of the paper's size bounded, unless Eq. 4 is taken literally."""
    core = mnm(rule, memory_size=100, num_heads=3, write_scale=write_scale)
    torch.manual_seed(3)
    memory, rates = core.initial_state(1).memory, torch.full((1, 3), 0.5, dtype=torch.float64)
    with torch.no_grad():
        for pair in torch.randn(40, 2, 1, 3, 100, dtype=torch.float64).sign():
            memory = core.write(memory, *pair, rates)
    norms = torch.linalg.vector_norm(memory, dim=(2, 3))
    assert (norms < 10).all() == bounded


# --- sequences ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
def test_undoing_many_writes(rule):
    """The backward pass has to find the memory of every step again, and what episodes that ended had in theirs."""
    core = mnm(rule)
    xs, state = random_inputs(core, steps=200)
    starts = torch.rand(200, 3) < torch.tensor([0.0, 0.02, 0.3])
    expected = core.loop(xs, state, starts, ("meta_loss",))
    wanted = gradients(core, expected)
    output = core(xs, state, starts, ("meta_loss",))
    assert_close(tuple(output), tuple(expected), rtol=1e-9, atol=1e-10)
    for gradient, other in zip(gradients(core, output), wanted, strict=True):
        assert (gradient - other).abs().max() <= 1e-10 * other.abs().max()

    narrow = mnm(rule, dtype=torch.float32)
    output = narrow(xs.float(), core.State(*(leaf.float() for leaf in state)), starts, ("meta_loss",))
    for gradient, other in zip(gradients(narrow, output), wanted, strict=True):
        assert (gradient - other).abs().max() <= 1e-3 * other.abs().max()


def test_gradients_may_be_taken_twice():
    core = mnm()
    xs, state = random_inputs(core)
    ys = core(xs, state).ys
    first, second = (torch.autograd.grad(ys.sum(), [*core.parameters()], retain_graph=True) for _ in range(2))
    assert_close(first, second, rtol=0, atol=0)


# --- the compiled step ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("choices", [{}, {"num_layers": 1}, {"num_layers": 4, "memory_output": "tanh"}], ids=str)
@pytest.mark.parametrize("rule", RULES)
def test_compiled_step(rule, choices):
    """Equal to the literal one, which computes whenever a gradient is wanted, and in place if the memory is donated."""
    core = mnm(rule, dtype=torch.float32, num_heads=3, memory_size=9, **choices)
    xs, state = random_inputs(core)
    expected = core.step(xs[0], state, core.diagnostics)
    before = state.memory.clone()
    with torch.no_grad():
        for donate in (False, True):
            found = core.step(xs[0], state, core.diagnostics, donate)
            assert_close(tuple(found), tuple(expected), rtol=1e-4, atol=1e-5)
            assert (found.state.memory is state.memory) == donate
            assert torch.equal(state.memory, before) != donate


@pytest.mark.parametrize("rule", RULES)
def test_acting(rule):
    """Many compiled steps, with episodes ending, against the literal recurrence in float64."""
    core, wide = mnm(rule, dtype=torch.float32), mnm(rule)
    xs, state = random_inputs(core, 60)
    starts = torch.rand(60, 3) < 0.1
    with torch.no_grad():
        expected = wide.loop(xs.double(), MNM.State(*(leaf.double() for leaf in state)), starts, ())
        initial, ys, last = core.initial_memory.clone(), [], state
        for x, start in zip(xs, starts, strict=True):
            y, last, _ = core(x[None], last, start[None], donate=True)
            ys.append(y)
        assert last.memory.data_ptr() == state.memory.data_ptr()
    assert_close(torch.cat(ys).double(), expected.ys, rtol=1e-3, atol=1e-4)
    assert_close(last.memory.double(), expected.state.memory, rtol=1e-3, atol=1e-4)
    assert_close(core.initial_memory, initial, rtol=0, atol=0)


def test_one_environment_does_not_write_into_the_initial_memory():
    core = mnm(dtype=torch.float32)
    xs, _ = random_inputs(core, batch_size=1)
    before = core.initial_memory.clone()
    with torch.no_grad():
        core(xs[:1], core.initial_state(1), donate=True)
    assert_close(core.initial_memory, before, rtol=0, atol=0)


# --- the meta loss and the initial memory ---------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["forward", "loop"])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("stop_target", [False, True])
def test_what_the_meta_loss_moves(rule, stop_target, form):
    """Without writes, the rows of the interaction that make values are moved only as targets."""
    core = mnm(rule, stop_target=stop_target)
    with torch.no_grad():
        core.rate.bias.fill_(-torch.inf)
    xs, _ = random_inputs(core)
    run = core if form == "forward" else core.loop
    loss = run(xs, core.initial_state(3), None, ("meta_loss",)).report["meta_loss"]
    (gradient,) = torch.autograd.grad(loss.sum(), core.interaction.weight)
    assert gradient[8:16].any(dim=1).all()  # write keys, 2 heads of 4
    assert gradient[16:24].any() != stop_target


@pytest.mark.parametrize("rule", RULES)
def test_stopping_the_target_in_both_forms(rule):
    core = mnm(rule, stop_target=True)
    xs, state = random_inputs(core)
    found, wanted = (gradients(core, run(xs, state, None, ("meta_loss",))) for run in (core, core.loop))
    assert_close(found, wanted, rtol=1e-9, atol=1e-10)


def test_the_meta_loss_recalls_no_step_before_the_episode():
    core, longer = mnm(), mnm(recall_steps=3)
    xs, _ = random_inputs(core)
    starts = torch.ones(9, 3, dtype=torch.bool)
    expected = core(xs, core.initial_state(3), starts, ("meta_loss",)).report
    assert_close(longer(xs, longer.initial_state(3), starts, ("meta_loss",)).report, expected)
    more = longer(xs, longer.initial_state(3), None, ("meta_loss",)).report["meta_loss"]
    assert (more[1:] > core(xs, core.initial_state(3), None, ("meta_loss",)).report["meta_loss"][1:]).all()


def test_the_initial_memory_is_drawn_once():
    core, same = mnm(), mnm()
    assert_close(core.initial_memory, same.initial_memory, rtol=0, atol=0)
    torch.manual_seed(1)
    other = make_core("mnm", 5, **vars(core.config)).double()
    assert not torch.equal(core.initial_memory, other.initial_memory)
    assert core.initial_memory.abs().max() <= 1 / 4**0.5
    xs, _ = random_inputs(core)
    optimizer = torch.optim.SGD(core.parameters(), lr=0.1)
    core(xs, core.initial_state(3)).ys.square().sum().backward()
    optimizer.step()
    assert_close(core.initial_memory, same.initial_memory, rtol=0, atol=0)
    other.load_state_dict(core.state_dict())
    assert_close(other(xs, other.initial_state(3)), core(xs, core.initial_state(3)), rtol=0, atol=0)


# --- reports, sizes, errors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["forward", "loop"])
def test_reports_are_what_was_written_and_read(form):
    core = mnm(rate="layers")
    xs, state = random_inputs(core)
    run = core if form == "forward" else core.loop
    _, last, report = run(xs, state, None, core.aux_losses + core.diagnostics)
    before = run(xs[:-1], state, None, ()).state.memory
    vectors = core.interaction(last.h).tanh()
    assert_close(report["read_keys"][-1].flatten(1), vectors[:, :8])
    assert_close(report["write_keys"][-1].flatten(1), vectors[:, 8:16])
    assert_close(report["values"][-1].flatten(1), vectors[:, 16:24])
    assert_close(report["rate"][-1], core.rate(vectors[:, 24:]).sigmoid())
    assert_close(report["read"][-1], last.read)
    assert_close(report["memory_norm"][-1], last.memory.flatten(2).norm(dim=2))
    keys, values = report["write_keys"][-1], report["values"][-1]
    assert_close(last.memory, core.write(before, keys, values, report["rate"][-1]))
    recalled = core.activations(last.memory, keys)[-1]
    assert_close(report["meta_loss"][-1], (recalled - values).square().mean((1, 2)))
    assert (report["meta_loss"] > 0).all()


@pytest.mark.parametrize(
    ("name", "input_size", "choices", "expected"),
    [
        ("mnm-p", 17, {}, 546_801),
        ("mnm-g", 17, {}, 516_501),
        # of 1.1M on catbAbI (Schlag et al. 2021, Table 1), without the 2 * 51,200 of embedding and output
        ("mnm", 256, {"hidden_size": 256, "output_size": 256}, 1_109_929 - 102_400),
        ("mnm", 256, {"hidden_size": 256, "output_size": 256, "two_biases": False}, 1_108_905 - 102_400),
    ],
)
def test_number_of_parameters(name, input_size, choices, expected):
    core = make_core(name, input_size, **choices)
    assert sum(parameter.numel() for parameter in core.parameters()) == expected


def test_size_of_the_state():
    """30.5k numbers on catbAbI (Schlag et al. 2021, Table 1), which do not count what was read."""
    state = make_core("mnm", 256, hidden_size=256).initial_state(2)
    assert sum(leaf[0].numel() for leaf in state) - state.read[0].numel() == 30_512


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"rule": "hebb"}, "MNM.Config: rule='hebb', but it must be perceptron or gradient"),
        ({"rate": "vector"}, "MNM.Config: rate='vector', but it must be shared, layers or learned"),
        ({"num_layers": 0}, "MNM.Config: num_layers=0, but it must be an integer of at least 1"),
    ],
)
def test_wrong_choices(choices, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        MNM.Config(**choices)
