"""RMC: the equations written naively, a run of the authors' program, symmetries and bounds of the memory."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from engram.policies import RMC, make_core, rmc_kernel

GOLDEN = Path(__file__).parent / "golden"
SIZES = {"num_slots": 3, "head_size": 4, "num_heads": 2}
CHOICES = [
    {"gate": "unit"},
    {"gate": "memory", "num_blocks": 3, "forget_bias": 2.0, "input_bias": -0.3},
    {"gate": "none", "num_blocks": 2, "mlp_layers": 1},
    {"key_size": 5, "mlp_layers": 3, "attention_scale": "qkv"},
    {"num_slots": 1},
    {"gate": "unit", "input_rows": 5, "num_blocks": 2},
]


def rmc(input_size=5, **choices):
    """Parameters away from their initial values, so that no bias is zero and no gain one."""
    torch.manual_seed(0)
    core = make_core("rmc", input_size, **SIZES | choices).double()
    with torch.no_grad():
        for parameter in core.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return core


def random_inputs(core, steps=6, batch_size=2, scale=1.0):
    torch.manual_seed(1)
    state = core.State(*(leaf + 0.5 * torch.randn_like(leaf) for leaf in core.initial_state(batch_size)))
    return scale * torch.randn(steps, batch_size, core.input_size).double(), state


# --- the equations, again -------------------------------------------------------------------------------------------


def norm(module, rows):
    centred = rows - rows.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * module.weight + module.bias


def literal(core, x, memory):
    """One step of one sequence, a head and a query at a time: x [D], memory [N, W]."""
    config, N = core.config, len(memory)
    rows = [core.input.weight @ part + core.input.bias for part in x.view(config.input_rows, -1)]
    attended = torch.stack([*memory, *rows])
    key_size, value_size = config.key_size or config.head_size, config.head_size
    maps = []
    for block in core.blocks:
        heads = norm(block.qkv_norm, attended @ block.qkv.weight.T + block.qkv.bias).chunk(config.num_heads, dim=1)
        read = torch.zeros_like(attended)
        maps.append(torch.zeros(config.num_heads, len(attended), len(attended)).double())
        for head, qkv in enumerate(heads):
            query, key, value = qkv[:, :key_size], qkv[:, key_size : 2 * key_size], qkv[:, 2 * key_size :]
            width = key_size if config.attention_scale == "key" else 2 * key_size + value_size
            for i in range(len(attended)):
                scores = torch.stack([query[i] @ other / width**0.5 for other in key])
                weights = scores.exp() / scores.exp().sum()
                read[i, head * value_size : (head + 1) * value_size] = weights @ value
                maps[-1][head, i] = weights
        attended = norm(block.attended_norm, attended + read)
        hidden = attended
        for depth, layer in enumerate(core.mlp):
            hidden = (hidden if depth == 0 else hidden.clamp(min=0)) @ layer.weight.T + layer.bias
        attended = norm(block.mlp_norm, hidden + attended)
    new = attended[:N]
    if config.gate != "none":
        gates = core.gate_input.weight @ torch.cat(rows) + core.gate_input.bias
        gates = gates + memory.tanh() @ core.gate_memory.weight.T + core.gate_memory.bias
        size = gates.shape[1] // 2
        i, f = (gates[:, :size] + config.input_bias).sigmoid(), (gates[:, size:] + config.forget_bias).sigmoid()
        new = i * new.tanh() + f * memory
    return new, torch.stack(maps)


@pytest.mark.parametrize("choices", CHOICES, ids=str)
def test_the_equations(choices):
    core = rmc(**choices)
    xs, state = random_inputs(core, batch_size=1)
    memory, ys, maps = state.memory[0], [], []
    with torch.no_grad():
        for x in xs[:, 0]:
            memory, attention = literal(core, x, memory)
            ys.append(memory.flatten())
            maps.append(attention)
    output = core(xs, state, None, ("attention",))
    assert_close(output.report["attention"][:, 0], torch.stack(maps), rtol=1e-10, atol=1e-12)
    for found in (output, core(xs, state)):
        assert_close(found.ys[:, 0], torch.stack(ys), rtol=1e-10, atol=1e-12)
        assert_close(found.state.memory[0], memory, rtol=1e-10, atol=1e-12)


# --- the authors' program -------------------------------------------------------------------------------------------


def golden_parameters(run, prefix=""):
    names = {"input": "{}_in", "blocks.0.qkv": "{}_qkv_0", "mlp.0": "{}_mlp_0", "mlp.1": "{}_mlp_1"}
    names |= {"gate_input": "{}_gate_x", "gate_memory": "{}_gate_m"}
    parameters = {}
    for ours, theirs in names.items():
        parameters[f"{ours}.weight"] = torch.from_numpy(run[prefix + theirs.format("W")])
        parameters[f"{ours}.bias"] = torch.from_numpy(run[prefix + theirs.format("b")])
    for ours, theirs in {"qkv_norm": "ln_qkv_0", "attended_norm": "ln_attn_0", "mlp_norm": "ln_mlp_0"}.items():
        parameters[f"blocks.0.{ours}.weight"] = torch.from_numpy(run[f"{prefix}{theirs}_gain"])
        parameters[f"blocks.0.{ours}.bias"] = torch.from_numpy(run[f"{prefix}{theirs}_bias"])
    return parameters


@pytest.mark.parametrize("form", ["forward", "loop"])
def test_the_released_program(form):
    """Outputs, memories, gates, and gradients of sum(G y) to everything, as it gave them in float64."""
    run = np.load(GOLDEN / "rmc__A__s0.npz")
    core = make_core("rmc", 5, num_slots=4, head_size=3, num_heads=2, gate="unit").double()
    core.load_state_dict(golden_parameters(run))
    xs = torch.from_numpy(run["x"]).requires_grad_()
    memory = torch.from_numpy(run["M0"])
    assert_close(core.initial_state(3).memory, memory, rtol=0, atol=0)
    memory.requires_grad_()
    if form == "forward":
        output = core(xs, RMC.State(memory))
    else:
        output = core(xs, RMC.State(memory), None, ("gate_i", "gate_f"))
        for name, gate in (("gate_i", "input_gate"), ("gate_f", "forget_gate")):
            assert_close(output.report[name], torch.from_numpy(run[gate]), rtol=1e-10, atol=1e-10)
    assert_close(output.ys, torch.from_numpy(run["y"]), rtol=1e-10, atol=1e-10)
    assert_close(output.ys.unflatten(2, (4, 6)), torch.from_numpy(run["M"]), rtol=1e-10, atol=1e-10)
    assert_close(output.state.memory, torch.from_numpy(run["M_T"]), rtol=1e-10, atol=1e-10)

    (output.ys * torch.from_numpy(run["G"])).sum().backward()
    wanted = golden_parameters(run, "grad_")
    wanted |= {"x": torch.from_numpy(run["grad_x"]), "memory": torch.from_numpy(run["grad_M0"])}
    found = dict(core.named_parameters()) | {"x": xs, "memory": memory}
    assert found.keys() == wanted.keys()
    for key, gradient in wanted.items():
        assert (found[key].grad - gradient).abs().max() <= 1e-8 * gradient.abs().max(), key


@pytest.mark.parametrize(("gate", "expected"), [("memory", 499_204), ("unit", 761_344), ("none", 498_176)])
@pytest.mark.parametrize("num_slots", [4, 8])
def test_number_of_parameters(gate, expected, num_slots):
    """BoxWorld's core reads 650 features; more slots need no more parameters."""
    with torch.device("meta"):
        core = make_core("rmc", 650, gate=gate, num_slots=num_slots, head_size=64)
    assert sum(parameter.numel() for parameter in core.parameters()) == expected
    assert core.output_size == num_slots * 256


def test_initial_weights():
    """Normal with deviation 1 / sqrt(fan in), cut at two of them."""
    core = make_core("rmc", 9, head_size=64)
    for module in (core.input, core.blocks[0].qkv, core.mlp[1]):
        std = module.in_features**-0.5
        assert 1.9 * std < module.weight.abs().max() <= 2 * std
        assert module.weight.std().item() == pytest.approx(0.88 * std, rel=0.05)  # of the cut distribution
        assert not module.bias.any()


# --- symmetries and bounds ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("choices", CHOICES, ids=str)
def test_compiled_operations_are_those_of_other_devices(monkeypatch, choices):
    """Values and gradients, of parameters and inputs, with episodes ending."""
    core = rmc(**choices)
    xs, state = random_inputs(core, batch_size=3)
    xs.requires_grad_()
    starts = torch.rand(6, 3) < 0.2

    def run():
        ys, last, _ = core(xs, state, starts)
        loss = ys.square().sum() + last.memory.sin().sum()
        return [ys, *last, *torch.autograd.grad(loss, [xs, *core.parameters()])]

    calls, attend = [], rmc_kernel.attend
    monkeypatch.setattr(rmc_kernel, "attend", lambda *args: calls.append(1) or attend(*args))
    compiled = run()
    assert len(calls) == 6 * core.config.num_blocks
    monkeypatch.setattr("engram.policies.rows.compiles", lambda *_: False)
    for plain, expected in zip(run(), compiled, strict=True):
        assert_close(plain, expected, rtol=1e-9, atol=1e-10)
    assert len(calls) == 6 * core.config.num_blocks, "no more"


@pytest.mark.parametrize("choices", CHOICES, ids=str)
def test_slots_have_no_order(choices):
    core = rmc(**choices)
    xs, state = random_inputs(core)
    order = torch.randperm(core.config.num_slots)
    expected = core(xs, state)
    permuted = core(xs, RMC.State(state.memory[:, order]))
    assert_close(permuted.state.memory, expected.state.memory[:, order])
    assert_close(permuted.ys, expected.ys.unflatten(2, (core.config.num_slots, -1))[:, :, order].flatten(2))


def test_equal_slots_stay_equal():
    core = rmc(gate="unit", num_blocks=2)
    xs, state = random_inputs(core)
    memory = state.memory.clone()
    memory[:, 2] = memory[:, 0]
    last = core(xs, RMC.State(memory)).state.memory
    assert_close(last[:, 2], last[:, 0])
    assert (last[:, 1] - last[:, 0]).abs().max() > 1e-3


def test_closed_gates_keep_the_memory():
    core = rmc(forget_bias=1e4, input_bias=-1e4)
    xs, state = random_inputs(core)
    assert_close(core(xs, state).state, state, rtol=0, atol=0)


def test_unit_gates_with_equal_rows_are_memory_gates():
    memory, unit = rmc(gate="memory"), rmc(gate="unit")
    parameters = memory.state_dict()
    for name in ("gate_input.weight", "gate_input.bias", "gate_memory.weight", "gate_memory.bias"):
        parameters[name] = parameters[name].repeat_interleave(8, dim=0)
    unit.load_state_dict(parameters)
    xs, state = random_inputs(memory)
    assert_close(unit(xs, state), memory(xs, state))


@settings(max_examples=20, deadline=None)
@given(exponent=st.floats(-2, 4), gate=st.sampled_from(["memory", "unit"]), seed=st.integers(0, 1000))
def test_a_gated_memory_grows_by_one_at_most(exponent, gate, seed):
    core = rmc(gate=gate)
    torch.manual_seed(seed)
    memory = 3 * torch.randn(4, 3, 8, dtype=torch.float64)
    xs = 10**exponent * torch.randn(1, 4, 5, dtype=torch.float64)
    assert (core(xs, RMC.State(memory)).state.memory.abs() <= memory.abs() + 1 + 1e-12).all()


def test_without_gates_slots_are_normalised():
    core = rmc(gate="none", num_blocks=2)
    xs, state = random_inputs(core)
    last = core.blocks[-1].mlp_norm
    rows = (core(xs, state).ys.unflatten(2, (3, 8)) - last.bias) / last.weight
    assert rows.mean(-1).abs().max() < 1e-12
    assert (rows.var(-1, correction=0) <= 1).all()


def test_reports():
    core = rmc(num_blocks=2, gate="unit", input_rows=5)
    xs, state = random_inputs(core)
    report = core(xs, state, None, core.diagnostics).report
    assert report["attention"].shape == (6, 2, 2, 2, 8, 8)
    assert_close(report["attention"].sum(-1), torch.ones(6, 2, 2, 2, 8).double())
    assert_close(report["memory_norm"], core(xs, state).ys.unflatten(2, (3, 8)).norm(dim=3))
    assert report["gate_i"].shape == report["gate_f"].shape == (6, 2, 3, 8)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"gate": "output"}, "gate='output', but it must be memory, unit or none"),
        ({"key_size": 0}, "key_size=0, but it must be an integer of at least 1 or none"),
        ({"num_heads": 0}, "num_heads=0, but it must be an integer of at least 1"),
        (
            {"num_slots": 9},
            "num_slots=9, but it must be at most num_heads * head_size = 8: slots beyond that would stay equal "
            "to each other",
        ),
        ({"input_rows": 2}, "input_rows=2, but it must be a divisor of the input size 5"),
    ],
)
def test_wrong_choices(choices, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 -- compared below
        make_core("rmc", 5, **SIZES | choices)
    assert str(caught.value) == f"RMC.Config: {message}"
