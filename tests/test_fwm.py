"""FWM: the equations written naively, runs of the authors' programs, what the paper proves, and the fused step."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from engram.policies import FWM, LSTM, Policy, fwm_kernel, fwm_memory, make_core
from engram.policies.actions import Categorical
from engram.policies.encoders import FlatEncoder
from engram.policies.fwm_memory import Entry, Query

GOLDEN = Path(__file__).parent / "golden"


def fwm(name="fwm", input_size=5, dtype=torch.float64, **choices):
    """Wider weights than initial ones, so that the memory fills and is rescaled."""
    torch.manual_seed(0)
    core = make_core(name, input_size, **{"hidden_size": 6, "memory_size": 4, **choices}).to(dtype)
    with torch.no_grad():
        for parameter in core.parameters():
            parameter.mul_(2)
    return core


def random_inputs(core, steps=9, batch_size=3, scale=1.0):
    torch.manual_seed(1)
    dtype = core.output.weight.dtype
    state = core.State(*(0.2 * torch.randn_like(leaf) for leaf in core.initial_state(batch_size)))
    return scale * torch.randn(steps, batch_size, core.input_size, dtype=dtype), state


def random_entry(steps=(), width=4, scale=1.0):
    """Keys, values and rates as a random network could make them, leading [*steps, 3]."""
    keys = (scale * torch.randn(3, *steps, 3, width, dtype=torch.float64)).tanh()
    return Entry(*keys, torch.rand(*steps, 3, dtype=torch.float64))


def random_query(width=4, num_chains=2, num_reads=2):
    n, e = torch.randn(3, num_chains, width).double(), torch.randn(3, num_chains, num_reads, width).double()
    return Query(n.tanh(), e.tanh())


# --- the equations, again -------------------------------------------------------------------------------------------


def literal(core, xs, state):
    """The paper's equations for a sequence of one row; the memory is [k1, k2, v] or, of concatenated keys, [k, v]."""
    config, (h, c, memory) = core.config, (leaf[0] for leaf in state)
    l, d, C, N = config.hidden_size, config.memory_size, config.num_chains, config.num_reads
    tensor_keys = config.key == "tensor"
    write_bias, read_bias, output_bias = (
        module.bias if config.bias else torch.zeros(len(module.weight)).double()
        for module in (core.write, core.read, core.output)
    )
    memory = memory.T.reshape(d, d, d) if tensor_keys else memory.T
    scale = 1 / d if config.write_scale is None else config.write_scale

    def lookup(key1, key2):
        if tensor_keys:
            return torch.einsum("i,j,ijm->m", key1, key2, memory)
        return torch.einsum("i,im->m", torch.cat([key1, key2]), memory)

    ys = []
    for x in xs[:, 0]:
        gates = core.lstm.weight_ih @ x + core.lstm.bias_ih + core.lstm.weight_hh @ h
        if config.two_biases:
            gates = gates + core.lstm.bias_hh
        i, f, g, o = gates.split(l)
        c = torch.sigmoid(f + config.forget_bias) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)

        written = core.write.weight @ h + write_bias
        key1, key2, value = written[: 3 * d].tanh().split(d)
        beta = torch.sigmoid(written[3 * d] + config.beta_offset)
        change = value - lookup(key1, key2)
        if tensor_keys:
            memory = memory + scale * beta * torch.einsum("i,j,m->ijm", key1, key2, change)
        else:
            memory = memory + scale * beta * torch.einsum("i,m->im", torch.cat([key1, key2]), change)
        if memory.norm() > 1:
            memory = memory / memory.norm()

        asked, reads, magnitudes, last_reads = (core.read.weight @ h + read_bias).split(d), [], [], []
        assert len(asked) == C * (1 + N)
        for chain in range(C):
            n, *e = asked[chain * (1 + N) : (chain + 1) * (1 + N)]
            n = n.tanh() if config.query_activation == "tanh" else n
            for partner in e:
                n = lookup(n, partner if config.query_activation == "none" else partner.tanh())
                magnitudes.append((n.square().mean() + 1e-5).sqrt().log10()[None])
                n = (n - n.mean()) / (n.var(correction=0) + 1e-5).sqrt()
                reads.append(n)
            last_reads.append(n)
        y = core.output.weight @ torch.cat(last_reads) + output_bias
        if config.residual:
            y = h + y
        if config.readout_size is not None:
            first, _, second = core.readout
            seen = torch.cat([h, *reads, *magnitudes])
            y = y + second.weight @ (first.weight @ seen + first.bias).clamp(min=0) + second.bias
        ys.append(y)
    return torch.stack(ys)[:, None], (h[None], c[None], memory.reshape(-1, d).T[None])


@pytest.mark.parametrize(
    ("name", "choices"),
    [
        ("fwm", {}),
        ("fwm", {"num_reads": 1}),
        ("fwm", {"num_reads": 2, "residual": False}),
        ("fwm", {"num_reads": 5, "readout_size": 7}),
        ("fwm", {"num_chains": 3}),
        ("fwm", {"num_chains": 2, "num_reads": 2, "readout_size": 7, "key": "concat"}),
        ("fwm", {"num_chains": 2, "num_reads": 1, "readout_size": 7, "query_activation": "none"}),
        ("fwm", {"write_scale": 2.0}),
        ("fwm", {"key": "concat"}),
        ("fwm", {"key": "concat", "num_reads": 1, "write_scale": 1.0, "query_activation": "none", "bias": False}),
        ("fwm-metarl", {}),
        ("fwm-catbabi", {}),
        ("fwm-lm", {}),
        ("fwm-paper", {}),
    ],
)
def test_the_equations(name, choices):
    core = fwm(name, **choices)
    xs, state = random_inputs(core, batch_size=1)
    ys, last = literal(core, xs, state)
    for output in (core(xs, state), core.loop(xs, state, None, ())):
        assert_close(output.ys, ys, rtol=1e-9, atol=1e-10)
        assert_close(tuple(output.state), last, rtol=1e-9, atol=1e-10)


# --- the authors' programs ------------------------------------------------------------------------------------------


def golden_parameters(run, prefix=""):
    """The arrays of a run under the names of our parameters."""

    def stacked(*names):
        return torch.cat([torch.from_numpy(run[prefix + name]) for name in names])

    parameters = {
        "lstm.weight_ih": stacked("W_ih"),
        "lstm.weight_hh": stacked("W_hh"),
        "lstm.bias_ih": stacked("b_lstm" if "b_lstm" in run else "b_ih"),
        "write.weight": stacked("W_write", "W_beta"),
        "write.bias": stacked("b_write", "b_beta"),
        "read.weight": stacked("W_n", "W_e"),
        "read.bias": stacked("b_n", "b_e"),
        "output.weight": stacked("W_o"),
        "output.bias": stacked("b_o"),
    }
    return parameters if "b_lstm" in run else parameters | {"lstm.bias_hh": stacked("b_hh")}


def golden_memory(array):
    """[..., k1, k2, v] -> [..., v, k1 k2]"""
    return torch.from_numpy(array).flatten(-3, -2).transpose(-1, -2)


@pytest.mark.parametrize("form", ["forward", "step"])
@pytest.mark.parametrize(
    ("file", "name"), [("metarl", "fwm-metarl"), ("lm_awd", "fwm-lm"), ("catbabi_cell", "fwm-catbabi")]
)
def test_the_released_programs(file, name, form):
    """Outputs, states, and gradients of sum(G y) to everything, as the authors' modules gave them in float64."""
    run = np.load(GOLDEN / f"fwm_{file}__A__s0.npz")
    core = make_core(name, 6, hidden_size=8, memory_size=4).double()
    core.load_state_dict(golden_parameters(run))
    xs = torch.from_numpy(run["x"]).requires_grad_()
    state = core.State(torch.from_numpy(run["h0"]), torch.from_numpy(run["c0"]), golden_memory(run["F0"]).contiguous())
    for leaf in state:
        leaf.requires_grad_()
    if form == "forward":
        ys, last, report = core(xs, state, None, ("memory_norm",))
        if "F_norm_before_rescale" in run:
            norms = torch.from_numpy(run["F_norm_before_rescale"])
            assert_close(report["memory_norm"], norms, rtol=1e-10, atol=1e-10)
    else:
        last, ys = state, []
        for x, memory in zip(xs, run["F"], strict=True):
            y, last, _ = core.step(x, last)
            ys.append(y)
            assert_close(last.memory, golden_memory(memory), rtol=1e-10, atol=1e-10)
        ys = torch.stack(ys)
    expected = torch.from_numpy(run["h_T"]), torch.from_numpy(run["c_T"]), golden_memory(run["F_T"])
    assert_close(ys, torch.from_numpy(run["y"]), rtol=1e-10, atol=1e-10)
    assert_close(tuple(last), expected, rtol=1e-10, atol=1e-10)

    (ys * torch.from_numpy(run["G"])).sum().backward()
    wanted = golden_parameters(run, "grad_") | {"x": torch.from_numpy(run["grad_x"])}
    wanted |= {"h": torch.from_numpy(run["grad_h0"]), "c": torch.from_numpy(run["grad_c0"])}
    wanted |= {"memory": golden_memory(run["grad_F0"])}
    found = dict(core.named_parameters()) | {"x": xs} | state._asdict()
    assert found.keys() == wanted.keys()
    for key, gradient in wanted.items():
        assert (found[key].grad - gradient).abs().max() <= 1e-8 * gradient.abs().max(), key


@pytest.mark.parametrize(("core", "expected"), [(False, 10_801), (True, 10_933)])
def test_number_of_parameters(core, expected):
    """Of the core and of the agent that the released meta-RL program makes: 17 inputs, 3 actions and a value."""
    module = make_core("fwm-metarl", 17)
    if core:
        module = Policy(FlatEncoder((17,)), module, Categorical(3))
    assert sum(parameter.numel() for parameter in module.parameters()) == expected


def test_sizes_on_catbabi():
    """33.3k numbers of state, and the core's share of 694k parameters (Schlag et al. 2021, Table 1)."""
    with torch.device("meta"):
        core = make_core("fwm-catbabi", 256)
    assert sum(leaf[0].numel() for leaf in core.initial_state(1)) == 33_280
    assert sum(parameter.numel() for parameter in core.parameters()) == 591_585


# --- what the paper proves ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["tensor", "concat"])
def test_a_read_after_a_write(key):
    """At the written key: (1 - g) old + g new, with g = rate |k|^2; Theorem B.1 is the case of |k| = 1."""
    torch.manual_seed(0)
    memory = 0.05 * torch.randn(3, 4, 16 if key == "tensor" else 8, dtype=torch.float64)
    entry = random_entry(scale=0.3)
    address = fwm_memory.address(entry.key1, entry.key2, key)
    g = entry.rate * address.square().sum(1)
    _, after, diagnosed = fwm_memory.step(memory, entry, random_query(), key)
    assert (diagnosed["memory_norm"] < 1).all()
    assert_close(diagnosed["write_strength"], g)
    old, new = (torch.einsum("bma,ba->bm", m, address) for m in (memory, after))
    assert_close(new, (1 - g[:, None]) * old + g[:, None] * entry.value)


@pytest.mark.parametrize("shared", ["key1", "key2", "neither"])
def test_one_orthogonal_key_protects_a_memory(shared):
    """An address with the other key in common reads what it read before."""
    torch.manual_seed(0)
    memory, entry = 0.05 * torch.randn(3, 4, 16).double(), random_entry(scale=0.3)
    away = [key @ (torch.eye(4).double() - torch.ones(4, 4) / 4) for key in torch.randn(2, 3, 4).double()]
    key1, key2 = (torch.ones(3, 4).double() * size for size in (0.3, 0.5))
    entry = entry._replace(key1=key1, key2=key2)
    other = fwm_memory.address(key1 if shared == "key1" else away[0], key2 if shared == "key2" else away[1], "tensor")[
        ..., None
    ]
    _, after, diagnosed = fwm_memory.step(memory, entry, random_query(), "tensor")
    assert (diagnosed["memory_norm"] < 1).all()
    assert not torch.allclose(after, memory)
    assert_close(after @ other, memory @ other)


@pytest.mark.parametrize("form", ["step", "sequence"])
@pytest.mark.parametrize("d", [3, 6])
def test_capacity(form, d):
    """d * d associations under orthonormal pairs of keys are all recalled; in dual form, over several chunks."""
    torch.manual_seed(0)
    key1, key2 = (torch.linalg.qr(torch.randn(d, d).double())[0] for _ in range(2))
    first, second = torch.cartesian_prod(torch.arange(d), torch.arange(d)).T
    values = torch.randn(d * d, d).double()
    values /= 1.01 * values.norm()  # all of them together have norm < 1, so that none is ever scaled down
    entries = Entry(key1[first][:, None], key2[second][:, None], values[:, None], torch.ones(d * d, 1).double())
    queries = Query(torch.zeros(d * d, 1, 1, d).double(), torch.zeros(d * d, 1, 1, 1, d).double())
    memory = torch.zeros(1, d, d * d).double()
    if form == "sequence":
        _, memory, _ = fwm_memory.sequence(memory, entries, queries, None, "tensor")
    else:
        for t in range(d * d):
            entry, query = Entry(*(x[t] for x in entries)), Query(*(x[t] for x in queries))
            _, memory, _ = fwm_memory.step(memory, entry, query, "tensor")
    recalled = fwm_memory.address(key1[first], key2[second], "tensor") @ memory[0].T
    assert_close(recalled, values)


def test_an_erased_memory_has_norm_zero():
    """The dual form sums up the change of each write; the sum must not fall below zero."""
    torch.manual_seed(0)
    keys = F.normalize(torch.randn(2, 1, 100, 4).double(), dim=-1).expand(2, 2, 100, 4)
    values = torch.stack([0.5 * torch.randn(100, 4).double().tanh(), torch.zeros(100, 4).double()])
    entries = Entry(*keys, values, torch.ones(2, 100).double())
    queries = Query(torch.zeros(2, 100, 1, 4).double(), torch.zeros(2, 100, 1, 1, 4).double())
    _, memory, report = fwm_memory.sequence(torch.zeros(100, 4, 16).double(), entries, queries, None, "tensor")
    assert_close(report["memory_norm"][0], values[0].norm(dim=1))
    assert_close(report["memory_norm"][1], torch.zeros(100).double(), rtol=0, atol=1e-7)
    assert_close(memory, torch.zeros_like(memory), rtol=0, atol=1e-7)


@settings(max_examples=15, deadline=None)
@given(
    exponent=st.floats(-2, 4),
    write_scale=st.sampled_from([None, 1.0, 5.0]),
    key=st.sampled_from(["tensor", "concat"]),
    seed=st.integers(0, 1000),
)
def test_memory_is_bounded(exponent, write_scale, key, seed):
    """No inputs, and no state before them, take it beyond norm 1."""
    core = fwm(write_scale=write_scale, key=key)
    torch.manual_seed(seed)
    xs = 10**exponent * torch.randn(6, 3, 5, dtype=torch.float64)
    state = core.State(*(torch.randn_like(leaf) for leaf in core.initial_state(3)))
    for output in (core(xs, state), core.loop(xs, state, None, ())):
        assert (output.state.memory.flatten(1).norm(dim=1) <= 1 + 1e-12).all()
        assert output.ys.isfinite().all()


def test_without_output_weights_it_is_its_lstm():
    core = fwm()
    xs, state = random_inputs(core)
    for parameter in core.output.parameters():
        torch.nn.init.zeros_(parameter)
    output = core(xs, state)
    ys, (h, c), _ = core.lstm(xs, LSTM.State(state.h, state.c))
    assert_close((output.ys, output.state.h, output.state.c), (ys, h, c), rtol=0, atol=0)


def test_the_lstm_never_sees_the_memory():
    core = fwm()
    xs, state = random_inputs(core)
    state.memory.requires_grad_()
    _, last, _ = core(xs, state)
    assert not torch.autograd.grad(
        last.h.sum() + last.c.sum(), state.memory, allow_unused=True, materialize_grads=True
    )[0].any()
    other = core(xs, state._replace(memory=2 * state.memory)).state
    assert_close((other.h, other.c), (last.h, last.c), rtol=0, atol=0)


@pytest.mark.parametrize("key", ["tensor", "concat"])
@pytest.mark.parametrize(("write_scale", "bounded"), [(0.01, False), (3.0, True)])
def test_long_sequences_take_several_chunks(write_scale, bounded, key):
    """In which the memory is never scaled down, or often, in the first steps of an episode too."""
    core = fwm(write_scale=write_scale, key=key)
    steps = 2 * fwm_memory.CHUNK + 7
    xs, state = random_inputs(core, steps, scale=3)
    state = core.State(*(leaf / 2 for leaf in state))
    starts = torch.rand(steps, 3) < torch.tensor([0.0, 0.05, 0.3])
    expected, output = core.loop(xs, state, starts, core.diagnostics), core(xs, state, starts, core.diagnostics)
    assert_close(tuple(output), tuple(expected), rtol=1e-8, atol=1e-9)
    assert (output.report["memory_norm"] > 1).any() == bounded
    assert (output.report["memory_norm"][starts] > 1).any() == bounded
    weights = torch.randn_like(output.ys)
    found, wanted = (torch.autograd.grad((weights * o.ys).sum(), [*core.parameters()]) for o in (output, expected))
    for gradient, other in zip(found, wanted, strict=True):
        assert (gradient - other).abs().max() <= 1e-8 * other.abs().max()


def test_writes_that_overshoot_do_not_overflow():
    """In float32 the factors by which a chunk of steps scales its memory down have no product."""
    narrow, wide = fwm(write_scale=100.0, dtype=torch.float32), fwm(write_scale=100.0)
    xs, _ = random_inputs(narrow, fwm_memory.CHUNK, scale=3)
    output = narrow(xs, narrow.initial_state(3), None, ("memory_norm",))
    expected = wide.loop(xs.double(), wide.initial_state(3), None, ())
    assert (output.report["memory_norm"].double().prod(0) > torch.finfo(torch.float32).max).all()
    assert_close(output.ys.double(), expected.ys, rtol=1e-3, atol=1e-3)
    found, wanted = (
        torch.autograd.grad(o.ys.sum(), [*core.parameters()]) for core, o in ((narrow, output), (wide, expected))
    )
    for gradient, other in zip(found, wanted, strict=True):
        assert (gradient - other).abs().max() <= 1e-2 * other.abs().max()


def test_reads_are_reported_chain_by_chain():
    core = fwm(num_chains=2, num_reads=2)
    xs, state = random_inputs(core)
    _, last, report = core(xs, state, None, ("read_n", "read_e"))
    asked = core.read(last.h).tanh().unflatten(-1, (2, 3, -1))
    assert_close(report["read_n"][-1, :, :, 0], asked[:, :, 0])
    assert_close(report["read_e"][-1], asked[:, :, 1:])
    address = fwm_memory.address(report["read_n"][-1, :, :, 0], report["read_e"][-1, :, :, 0], "tensor")
    found = torch.einsum("bma,bca->bcm", last.memory, address)
    assert_close(report["read_n"][-1, :, :, 1], F.layer_norm(found, found.shape[-1:]))


def test_the_magnitude_of_a_read_tells_what_was_never_written():
    """Normalised, a read of next to nothing is as large as any; its magnitude shows."""
    torch.manual_seed(0)
    keys = torch.linalg.qr(torch.randn(8, 8).double()).Q[:, None]  # [8, 1, d], orthonormal
    entry = Entry(keys[0], keys[1], keys[2], torch.ones(1).double())
    asked = Query(keys[None, 0].expand(1, 3, 8), keys[[1, 2, 0]][None])  # the pair that was written, and two others
    reads, _, _ = fwm_memory.step(torch.zeros(1, 8, 64).double(), entry, asked, "tensor")
    magnitude = fwm_memory.magnitude(reads)[0, :, 0]
    assert magnitude[0].item() == pytest.approx(np.log10(8**-0.5), abs=1e-4)
    assert_close(magnitude[1:], torch.full((2,), -2.5).double(), rtol=0, atol=1e-6)


def test_reports_are_what_was_written_and_asked():
    core = fwm(write_scale=3.0)
    xs, state = random_inputs(core)
    _, last, report = core(xs, state, None, core.diagnostics)
    written, asked = core.write(last.h), core.read(last.h)
    d = core.config.memory_size
    assert_close(report["key1"][-1], written[:, :d].tanh())
    assert_close(report["key2"][-1], written[:, d : 2 * d].tanh())
    assert_close(report["beta"][-1], torch.sigmoid(written[:, -1] + 1))
    length = report["key1"].norm(dim=-1) * report["key2"].norm(dim=-1)
    assert_close(report["write_strength"], 3 * report["beta"] * length.square())
    assert_close(report["read_n"][-1, :, 0, 0], asked[:, :d].tanh())
    assert_close(report["read_e"][-1].flatten(1), asked[:, d:].tanh())
    second = fwm_memory.address(report["read_n"][-1, :, 0, 0], report["read_e"][-1, :, 0, 0], "tensor")
    assert_close(report["read_n"][-1, :, 0, 1], F.layer_norm(torch.einsum("bma,ba->bm", last.memory, second), (d,)))
    assert_close(last.memory.flatten(1).norm(dim=1), report["memory_norm"][-1].clamp(max=1))
    assert (report["memory_norm"] > 1).any()


def test_the_paper_has_no_biases():
    """Neither of the projections nor in the write strength, and writes at full scale (Eqs. 2 to 8)."""
    core = fwm("fwm-paper")
    assert {name for name, _ in core.named_parameters() if "bias" in name} == {"lstm.bias_ih", "lstm.bias_hh"}
    xs, state = random_inputs(core)
    _, last, report = core(xs, state, None, ("beta", "key1", "key2", "write_strength"))
    assert_close(report["beta"][-1], torch.sigmoid(last.h @ core.write.weight[-1]))
    length = report["key1"].norm(dim=-1) * report["key2"].norm(dim=-1)
    assert_close(report["write_strength"], report["beta"] * length.square())


def test_initial_weights():
    """Write and read: uniform within sqrt(6 / (l + d)), whatever their number of rows."""
    core = make_core("fwm", 5, hidden_size=40, memory_size=14)
    for module in (core.write, core.read):
        assert 0.32 < module.weight.abs().max() <= 1 / 3
        assert module.weight.std().item() == pytest.approx(1 / 27**0.5, rel=0.1)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"key": "concatenate"}, "FWM.Config: key='concatenate', but it must be tensor or concat"),
        ({"num_reads": 0}, "FWM.Config: num_reads=0, but it must be an integer of at least 1"),
    ],
)
def test_wrong_choices(choices, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        FWM.Config(**choices)


# --- the fused step -------------------------------------------------------------------------------------------------


def random_step(batch_size, d, num_chains, num_reads, strided=False):
    """Arguments of a step in float32, after others that have filled the memory."""
    torch.manual_seed(0)
    keys = torch.randn(batch_size, 3 * d).tanh().split(d, dim=1)
    if not strided:
        keys = [key.contiguous() for key in keys]
    memory = torch.randn(batch_size, d, d * d)
    memory *= torch.linspace(0, 1.5, batch_size)[:, None, None] / memory.flatten(1).norm(dim=1)[:, None, None]
    query = Query(torch.randn(batch_size, num_chains, d).tanh(), torch.randn(batch_size, num_chains, num_reads, d))
    return memory, Entry(*keys, torch.rand(batch_size)), query


@pytest.mark.parametrize(
    ("batch_size", "d", "num_chains", "num_reads", "strided"),
    [(7, 4, 1, 3, True), (1, 5, 1, 1, False), (3, 16, 2, 2, False), (5, 4, 3, 1, True)],
)
def test_fused_step(batch_size, d, num_chains, num_reads, strided):
    """Equal to the literal one, which computes where gradients may be wanted, and in place if the memory is donated."""
    memory, entry, query = random_step(batch_size, d, num_chains, num_reads, strided)
    read, after, diagnosed = fwm_memory.step(memory, entry, query, "tensor", donate=True)
    assert after is not memory
    before = memory.clone()
    for donate in (False, True):
        with torch.no_grad():
            found = fwm_memory.step(memory, entry, query, "tensor", donate)
        assert_close(found[:2], (read, after), rtol=1e-4, atol=2e-5)
        assert_close(found[2], diagnosed, rtol=1e-4, atol=2e-5)
        assert (found[1] is memory) == donate
        assert torch.equal(memory, before) != donate


def test_fused_acting():
    """Many steps of acting, with episodes ending, against the literal recurrence in float64."""
    core = fwm(dtype=torch.float32)
    xs, state = random_inputs(core, 60)
    starts = torch.rand(60, 3) < 0.1
    with torch.no_grad():
        expected = fwm().loop(xs.double(), FWM.State(*(leaf.double() for leaf in state)), starts, ())
        ys, last = [], state
        for x, start in zip(xs, starts, strict=True):
            y, last, _ = core(x[None], last, start[None], donate=True)
            ys.append(y)
    assert_close(torch.cat(ys).double(), expected.ys, rtol=1e-3, atol=1e-4)
    assert_close(last.memory.double(), expected.state.memory, rtol=1e-3, atol=1e-4)


def test_fused_step_keeps_nan_to_its_row():
    memory, entry, query = random_step(4, 4, 2, 2)
    with torch.no_grad():
        expected, after, _ = fwm_memory.step(memory, entry, query, "tensor")
        memory[2, 1, 3] = torch.nan
        read, poisoned, _ = fwm_memory.step(memory, entry, query, "tensor")
    assert read[2].isnan().all()
    assert poisoned[2, 1].isnan().all()
    others = [0, 1, 3]
    assert_close((read[others], poisoned[others]), (expected[others], after[others]), rtol=0, atol=0)


@pytest.mark.parametrize("reaches_back", [False, True])
def test_compiled_scan_is_the_scan_of_other_devices(monkeypatch, reaches_back):
    """Values and gradients of the two implementations of the sequential part of the dual form."""
    core = make_core("fwm", 3, hidden_size=4, memory_size=3, write_scale=2.0).double()  # bounded at many steps
    xs = torch.randn(9, 5, 3, dtype=torch.float64, requires_grad=True)
    starts = torch.rand(9, 5) < 0.2
    starts[0] = not reaches_back
    state = FWM.State(*(0.5 * torch.randn_like(leaf) for leaf in core.initial_state(5)))

    def run():
        ys, last, _ = core(xs, state, starts)
        loss = ys.square().sum() + last.memory.sin().sum()
        return [ys, *last, *torch.autograd.grad(loss, [xs, *core.parameters()])]

    compiled = run()
    monkeypatch.setattr(fwm_kernel, "scan", fwm_memory._scan)
    monkeypatch.setattr(fwm_kernel, "scan_backward", fwm_memory._scan_backward)
    for got, expected in zip(run(), compiled, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-11)
