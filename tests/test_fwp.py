"""Fast weight programmers: the equations written naively, runs of the authors' programs, and what the papers say."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from engram.policies import delta_rule, fwp_kernel, key_maps, make_core, rows

GOLDEN = Path(__file__).parent / "golden"
NAMES = ("linear-transformer", "delta-net", "delta-rnn", "delta-lstm", "delta-mlp", "delta-delta-net", "rdn")
W, A, STEPS, B = 6, 2, 9, 3


def fwp(name, input_size=5, dtype=torch.float64, **choices):
    """Wider slow weights than initial ones, so that the memories matter."""
    torch.manual_seed(0)
    core = make_core(name, input_size, **{"hidden_size": W, "num_heads": A, "ff_size": 7, **choices}).to(dtype)
    with torch.no_grad():
        for layer in core.layers:
            layer.slow.weight.mul_(3)
    return core


def random_inputs(core, steps=STEPS, batch_size=B):
    torch.manual_seed(1)
    dtype = core.input.weight.dtype
    state = core.State(*(0.3 * torch.randn_like(leaf) for leaf in core.initial_state(batch_size)))
    xs = torch.randn(steps, batch_size, core.input_size, dtype=dtype, requires_grad=True)
    return xs, state


# --- the equations, again -------------------------------------------------------------------------------------------


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def layer_norm(x, norm):
    gain, offset = (p.detach().numpy() for p in (norm.weight, norm.bias))
    return (x - x.mean()) / np.sqrt(x.var() + 1e-5) * gain + offset


def phi(x, name):
    if name == "softmax":
        return softmax(x)
    if name == "l2":
        x = x * sigmoid(x)
        return x / np.sqrt((x * x).sum())
    x = np.where(x > 0, x + 1, np.exp(np.minimum(x, 0)))
    return x / (x.sum() + 1e-5)


def delta(matrix, key, value, beta):
    return matrix + beta * np.outer(key, value - matrix.T @ key)


def cut(p, *sizes):
    parts = np.split(p, np.cumsum(sizes))
    assert len(parts[-1]) == 0
    return parts[:-1]


def naive_head(name, config, layer, head, p, state):
    """One step of one head: its program [P] and its leaves -> output [d], new leaves."""
    d = W // A
    f = lambda x: phi(x, config.phi)  # noqa: E731
    if name == "linear-transformer":
        q, k, v = cut(p, d, d, d)
        M = state[0] + np.outer(f(k), v)
        return M.T @ f(q), [M]
    if name == "delta-net":
        q, k, v, b = cut(p, d, d, d, 1)
        M = delta(state[0], f(k), v, sigmoid(b))
        return M.T @ f(q), [M]
    if name == "delta-rnn":
        q, k, v, k2, v2, b, b2 = cut(p, d, d, d, d, d, 1, 1)
        M, R = delta(state[0], f(k), v, sigmoid(b)), delta(state[1], softmax(k2), v2, sigmoid(b2))
        o = M.T @ f(q) + R.T @ softmax(state[2])
        return o, [M, R, o]
    if name == "rdn":
        q, k, v, b = cut(p, d, d, d, 1)
        s = np.tanh(state[1])
        Rq, Rk, Rv, r = (x.detach().numpy()[head] for x in layer.fast.parameters())
        M = delta(state[0], f(k + s @ Rk), v + s @ Rv, sigmoid(b + r @ s))
        o = M.T @ f(q + s @ Rq)
        return o, [M, o]
    if name == "delta-delta-net":
        q, k, v, b = cut(p, d, d, 3 * d + 1, 1)
        base = layer.fast.base.detach().numpy()[head] if config.slow_base else 0
        M = delta(base + state[0], f(k), v, sigmoid(b))
        q, k, v, b = cut(M.T @ f(q), d, d, d, 1)
        M2 = delta(state[1], f(k), v, sigmoid(b))
        return M2.T @ f(q), [M - base, M2]
    if name == "delta-mlp":
        g, *parts = cut(p, d, *config.fast_blocks * [d, 4 * d, 1, 4 * d, d, 1])
        Ms, Ns = [], []
        for j, norm in enumerate(layer.fast):
            k, v, b, k2, v2, b2 = parts[6 * j : 6 * j + 6]
            Ms.append(delta(state[0][j], f(k), v, sigmoid(b)))
            Ns.append(delta(state[1][j], f(k2), v2, sigmoid(b2)))
            g = g + Ns[-1].T @ f(Ms[-1].T @ f(layer_norm(g, norm)))
        return g, [np.stack(Ms), np.stack(Ns)]
    vectors, betas = cut(p, 15 * d, 6)
    Ms, Rs, zs, a = [], [], [], []
    h, c = state[2:]
    for g in range(3):
        q, k, v, k2, v2 = cut(vectors[5 * d * g : 5 * d * (g + 1)], d, d, d, d, d)
        b, b2 = sigmoid(betas[2 * g : 2 * g + 2])
        Ms.append(delta(state[0][g], f(k), v, b))
        Rs.append(delta(state[1][g], softmax(k2), v2, b2))
        zs.append(Ms[-1].T @ f(q))
        a.append(zs[-1] + Rs[-1].T @ (h if config.version == "v1" else softmax(h)))
    update = a[1] if config.version == "v4" else sigmoid(a[1])
    c = sigmoid(a[0]) * update + (1 - sigmoid(a[0])) * c
    h = sigmoid(a[2]) * c
    h = {"v1": softmax(h), "v3": h + zs[1]}.get(config.version, h)
    return h, [np.stack(Ms), np.stack(Rs), h, c]


def naive(name, core, xs, state):
    """Row by row, step by step, layer by layer, head by head."""
    config = core.config
    state = [leaf.detach().numpy().copy() for leaf in state]
    ys = np.empty((*xs.shape[:2], W))

    def linear(module, x):
        y = module.weight.detach().numpy() @ x
        return y if module.bias is None else y + module.bias.detach().numpy()

    for t, b in np.ndindex(*xs.shape[:2]):
        z = linear(core.input, xs[t, b].detach().numpy())
        for l, layer in enumerate(core.layers):
            p = linear(layer.slow, layer_norm(z, layer.norm)).reshape(A, -1)
            outputs = []
            for head in range(A):
                o, new = naive_head(name, config, layer, head, p[head], [leaf[b, l, head] for leaf in state])
                outputs.append(o)
                for leaf, value in zip(state, new, strict=True):
                    leaf[b, l, head] = value
            scale = (W // A) ** -0.5 if config.out_scale == "rsqrt" else 1
            z = z + linear(layer.out, scale * np.concatenate(outputs))
            z = z + linear(layer.ff_out, np.maximum(linear(layer.ff_in, layer_norm(z, layer.ff_norm)), 0))
        ys[t, b] = z
    return torch.from_numpy(ys), tuple(map(torch.from_numpy, state))


@pytest.mark.parametrize(
    ("name", "choices"),
    [(name, {}) for name in NAMES]
    + [("delta-lstm", {"version": version}) for version in ("v1", "v2", "v3")]
    + [("delta-mlp", {"fast_blocks": 2}), ("delta-net", {"phi": "l2", "out_scale": "rsqrt"}), ("rdn", {"phi": "l2"})]
    + [("delta-rnn", {"phi": "elu1-sum", "num_layers": 3}), ("delta-delta-net", {"slow_base": True})],
)
def test_the_equations(name, choices, monkeypatch):
    monkeypatch.setattr(delta_rule, "CHUNK", 4)
    monkeypatch.setattr(delta_rule, "TABLE", 2)
    core = fwp(name, **choices)
    xs, state = random_inputs(core)
    ys, last = naive(name, core, xs, state)
    with torch.no_grad():
        quietly = core(xs, state)
    for output in (core(xs, state), core.loop(xs, state, None, ()), quietly):
        assert_close(output.ys, ys, rtol=1e-9, atol=1e-10)
        assert_close(tuple(output.state), last, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(
    ("name", "choices"),
    [("delta-rnn", {})]
    + [("delta-lstm", {"version": version}) for version in ("v1", "v2", "v3", "v4")]
    + [("rdn", {"phi": phi}) for phi in key_maps.PHIS],
)
def test_compiled_recurrence(name, choices, monkeypatch):
    """It is what other devices compute: values and gradients, from any state, with episodes that start anywhere."""
    core = fwp(name, **choices)
    xs, state = random_inputs(core)
    leaves = [x.requires_grad_() for x in (xs, *state)]
    starts = torch.zeros(STEPS, B, dtype=torch.bool)
    starts[4, 0] = starts[0, 1] = starts[STEPS - 1, 1] = True

    def passed():
        ys, last, _ = core(xs, state, starts)
        total = sum(x.sin().sum() for x in (ys, *last))
        return ys, *last, *torch.autograd.grad(total, [*leaves, *core.parameters()])

    kernels, run = [], rows.run
    monkeypatch.setattr(rows, "run", lambda kernel, *args: kernels.append(kernel) or run(kernel, *args))
    compiled, num_layers = passed(), core.config.num_layers
    assert len(kernels) == 2 * num_layers * (1 if name == "rdn" else 2), "both ways; where M is apart, of both"
    kernels.clear()
    monkeypatch.setattr(rows, "compiles", lambda *_: False)
    monkeypatch.setattr(delta_rule, "TABLE", 4)
    assert_close(compiled, passed(), rtol=1e-9, atol=1e-10)
    assert not kernels


# --- the authors' programs ------------------------------------------------------------------------------------------

LSTM_PARTS = [f"{kind}_{g}" for g in "iuo" for kind in ("q", "k", "v", "rk", "rv")]
LSTM_PARTS += [f"{kind}_{g}" for g in "iuo" for kind in ("beta", "rbeta")]
PARTS = {
    "linear-transformer": ["q", "k", "v"],
    "delta-net": ["q", "k", "v", "beta"],
    "delta-rnn": ["q", "k", "v", "rk", "rv", "beta", "rbeta"],
    "rdn": ["q", "k", "v", "beta"],
    "delta-lstm": LSTM_PARTS,
    "delta-mlp": ["q", "k_0a", "v_0a", "beta_0a", "k_0b", "v_0b", "beta_0b"],
    "delta-delta-net": ["q", "k", "v", "beta"],
}
"""order of a head's rows in a program; in the files each part is an array of its own"""


def golden(file):
    with np.load(GOLDEN / f"{file}__A__s0.npz") as run:
        return {name: torch.from_numpy(run[name]) for name in run.files if name != "config_json"}


def golden_parameters(run, name, layer, prefix=""):
    """The arrays of one layer of a run under the names of our parameters."""
    slow = torch.cat([run[f"{prefix}W_{part}"] for part in PARTS[name]], dim=1).flatten(0, 1)
    found = {f"layers.{layer}.slow.weight": slow}
    for ours, theirs in (
        ("norm.weight", "ln_gain"), ("norm.bias", "ln_bias"), ("out.weight", "W_out"), ("ff_norm.weight", "ff_ln_gain"),
        ("ff_norm.bias", "ff_ln_bias"), ("ff_in.weight", "ff_W1"), ("ff_in.bias", "ff_b1"), ("ff_out.weight", "ff_W2"),
        ("ff_out.bias", "ff_b2"), ("fast.0.weight", "fast_ln_0_gain"), ("fast.0.bias", "fast_ln_0_bias"),
    ):  # fmt: skip
        if prefix + theirs in run:
            found[f"layers.{layer}.{ours}"] = run[prefix + theirs]
    if name == "rdn":
        for ours, theirs in (("query", "R_q"), ("key", "R_k"), ("value", "R_v")):
            found[f"layers.{layer}.fast.{ours}"] = run[prefix + theirs].mT
        found[f"layers.{layer}.fast.beta"] = run[prefix + "R_beta"][:, 0]
    return found


def stack_parameters(run, name, prefix=""):
    found = {"input.weight": run[f"{prefix}W_in"], "input.bias": run[f"{prefix}b_in"]}
    for layer in range(2):
        found |= golden_parameters(run, name, layer, f"{prefix}L{layer}_")
    return found


def assert_gradients(core, loss, expected, xs, grad_xs, tolerance):
    """To 1e-8 of the largest entry, or to `tolerance`."""
    names = list(expected)
    parameters = dict(core.named_parameters())
    found = torch.autograd.grad(loss, [xs, *(parameters[name] for name in names)])
    for name, gradient, other in zip(["xs", *names], found, [grad_xs, *expected.values()], strict=True):
        assert (gradient - other).abs().max() <= max(1e-8, tolerance) * other.abs().max(), name


@pytest.mark.parametrize(
    ("file", "name", "leaves", "tolerance"),
    [
        ("fwp_stack_delta", "delta-net", ["W"], 1e-10),
        ("fwp_stack_rdn", "rdn", ["W", "rec"], 1e-10),
        ("fwp_stack_delta_rnn", "delta-rnn", ["W", "R", "rec"], 1e-5),  # their softmax divides by the sum + 1e-6
    ],
)
def test_golden_stack(file, name, leaves, tolerance):
    """The agent of the RL program: a whole sequence, and steps with resets and no gradients between them."""
    run = golden(file)
    parameters = stack_parameters(run, name)
    sizes = {"hidden_size": 6, "num_heads": 2, "ff_size": 7, "num_layers": 2}
    core = make_core(name, 5, **sizes).double()
    core.load_state_dict(parameters)
    xs = run["x"].requires_grad_()
    ys, last, _ = core(xs, core.State(*(run[f"{leaf}0"].transpose(0, 1) for leaf in leaves)))
    assert_close(ys, run["y"], rtol=0, atol=tolerance)
    assert_close(tuple(last), tuple(run[f"{leaf}_T"].transpose(0, 1) for leaf in leaves), rtol=0, atol=tolerance)
    gradients = stack_parameters(run, name, "gradtrue_")
    assert_gradients(core, (run["G"] * ys).sum(), gradients, xs, run["gradtrue_x"], tolerance)

    stepwise = make_core(name, 5, **sizes, bptt="step").double()
    stepwise.load_state_dict(parameters)
    starts = run["done"].bool()
    ys, last, _ = stepwise(xs, stepwise.initial_state(3), starts)
    assert_close(ys, run["y_reset"], rtol=0, atol=tolerance)
    assert_close(tuple(last), tuple(run[f"{leaf}_T_reset"].transpose(0, 1) for leaf in leaves), rtol=0, atol=tolerance)
    gradients = stack_parameters(run, name, "gradstep_")
    assert_gradients(stepwise, (run["G"] * ys).sum(), gradients, xs, run["gradstep_x"], tolerance)


@pytest.mark.parametrize(
    ("file", "name", "choices", "tolerance"),
    [
        ("fwp_layer_lt", "linear-transformer", {}, 1e-10),
        ("fwp_lm_layer_delta_lstm_v1", "delta-lstm", {"version": "v1"}, 1e-10),
        ("fwp_lm_layer_delta_lstm_v3", "delta-lstm", {"version": "v3", "out_scale": "rsqrt"}, 1e-5),
        ("fwp_lm_layer_delta_lstm_v4", "delta-lstm", {"out_scale": "rsqrt"}, 1e-5),
        ("fwp_lm_layer_delta_mlp", "delta-mlp", {}, 1e-10),
        ("fwp_lm_layer_delta_delta", "delta-delta-net", {}, 1e-10),
    ],
)
def test_golden_layer(file, name, choices, tolerance, monkeypatch):
    """One layer without its feed-forward part, between an input layer that does nothing and no output layer."""
    run = golden(file)
    if name == "delta-lstm":
        monkeypatch.setattr(key_maps, "SUM_EPS", 0)
    width = run["x"].shape[2]
    core = make_core(name, width, hidden_size=width, num_heads=2, num_layers=1, ff_size=1, **choices).double()
    parameters = golden_parameters(run, name, 0)
    nothing = {"input.weight": torch.eye(width), "input.bias": torch.zeros(width)}
    nothing |= {"layers.0.out.weight": torch.eye(width)} if "W_out" not in run else {}
    nothing |= {f"layers.0.ff_out.{kind}": torch.zeros_like(p) for kind, p in core.layers[0].ff_out.named_parameters()}
    core.load_state_dict(core.state_dict() | nothing | parameters)
    xs = run["x"].requires_grad_()
    state = core.initial_state(3)
    if name == "linear-transformer":
        state = core.State(run["W0"][:, None])
    ys, last, _ = core(xs, state)
    if "lm_layer" in file:  # where the residual is the normalised input
        ys = ys - xs + core.layers[0].norm(xs)
    assert_close(ys, run["y"], rtol=0, atol=tolerance)
    if name == "linear-transformer":
        assert_close(last.memory[:, 0], run["W_T"], rtol=0, atol=tolerance)
    gradients = golden_parameters(run, name, 0, "gradtrue_")
    assert_gradients(core, (run["G"] * ys).sum(), gradients, xs, run["gradtrue_x"], tolerance)


def test_golden_delta_rnn():
    """As `test_golden_run` of all cores, for a program whose softmax divides by the sum + 1e-6."""
    core = make_core("delta-rnn", 3, hidden_size=4, num_heads=2, ff_size=6).double()
    with torch.no_grad():
        for j, parameter in enumerate(core.parameters()):
            n = torch.arange(parameter.numel(), dtype=torch.float64).view_as(parameter)
            parameter.copy_(0.4 * torch.sin(1 + 0.37 * j + 0.71 * n))
        for layer in core.layers:
            layer.norm.weight += 1
            layer.ff_norm.weight += 1
    t, b, i = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in (4, 2, 3)), indexing="ij")
    starts = torch.zeros(4, 2, dtype=torch.bool)
    starts[2, 1] = True
    ys, state, _ = core(torch.sin(0.5 + 0.9 * t + 1.3 * b + 0.41 * i), core.initial_state(2), starts)
    numbers = [*ys[3, 0, :4].tolist(), ys.sum().item(), *(leaf.square().sum().item() for leaf in state)]
    expected = [0.18629950, 0.63756684, -0.47347181, -0.39369807, 4.67992373, 1.87695166, 2.56604993, 1.47641995]
    assert numbers == pytest.approx(expected, abs=3e-6)


# --- sizes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parameters", "state"),
    [
        ("linear-transformer", 428_544, 8_192),
        ("delta-net", 429_568, 8_192),
        ("delta-rnn", 496_128, 16_640),
        ("rdn", 454_400, 8_448),
        ("delta-lstm", 827_904, 49_664),
        ("delta-delta-net", 496_128, 33_024),
        ("delta-mlp", 429_568 + 2 * (128 * 4 * (8 * 32 + 1) + 2 * 32), 65_536),
    ],
)
def test_sizes(name, parameters, state):
    """Of the configurations as registered, which are those of the Atari agents: 256 features and a reward."""
    with torch.device("meta"):
        core = make_core(name, 257)
    assert sum(p.numel() for p in core.parameters()) == parameters
    assert sum(leaf[0].numel() for leaf in core.initial_state(1)) == state


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("linear-transformer", "44.02"),
        ("delta-net", "44.03"),
        ("delta-rnn", "44.58"),
        ("delta-delta-net", "44.58"),
        ("delta-lstm", "47.26"),
        ("rdn", "44.14"),
    ],
)
def test_sizes_of_the_language_models(name, millions):
    """WikiText-103 models of Irie et al. 2021: 16 layers on a tied adaptive embedding of 267,735 words."""
    with torch.device("meta"):
        core = make_core(name, 1, hidden_size=128, num_layers=16, num_heads=8, ff_size=2048)
    layers = sum(p.numel() for p in core.layers.parameters())
    assert f"{(267_735 * 129 + 387 + layers) / 1e6:.2f}" == millions


# --- what the papers say --------------------------------------------------------------------------------------------


def test_rdn_without_recurrence_is_a_delta_net():
    rdn, net = fwp("rdn"), fwp("delta-net", phi="softmax")
    with torch.no_grad():
        for layer in rdn.layers:
            for parameter in layer.fast.parameters():
                parameter.zero_()
    net.load_state_dict({name: p for name, p in rdn.state_dict().items() if ".fast." not in name})
    xs, state = random_inputs(rdn)
    ys, last, _ = net(xs, net.State(state.memory))
    output = rdn(xs, state)
    assert_close((output.ys, output.state.memory), (ys, last.memory), rtol=1e-12, atol=1e-12)


def test_delta_rnn_that_remembers_nothing_of_its_outputs_is_a_delta_net():
    """Recurrent values of zero keep R at zero."""
    rnn, net = fwp("delta-rnn"), fwp("delta-net", phi="softmax")
    d = W // A
    with torch.no_grad():
        for layer, plain in zip(rnn.layers, net.layers, strict=True):
            rows = layer.slow.weight.view(A, 5 * d + 2, W)
            rows[:, 4 * d : 5 * d] = 0
            plain.slow.weight.copy_(torch.cat([rows[:, : 3 * d], rows[:, 5 * d : 5 * d + 1]], 1).flatten(0, 1))
    others = {name: p for name, p in rnn.state_dict().items() if "slow" not in name}
    net.load_state_dict(net.state_dict() | others)
    xs, _ = random_inputs(rnn)
    output = rnn(xs, rnn.initial_state(B))
    assert not output.state.recurrent.any()
    assert_close(output.ys, net(xs, net.initial_state(B)).ys, rtol=1e-12, atol=1e-12)


def test_a_closed_input_gate_freezes_the_cell():
    core = fwp("delta-lstm")
    found = torch.zeros(B, A, 3, W // A).double()
    found[:, :, 0] = -1000
    c = torch.randn(B, A, W // A).double()
    assert_close(core._cell(found, torch.zeros_like(found), c)[1], c, rtol=0, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_heads_are_independent(name):
    """Without its columns of the output projection a head is gone, and nothing else."""
    core = fwp(name, num_layers=1)
    d = W // A
    xs, state = random_inputs(core)
    program = core.layers[0].program(core.input(xs))
    leaves = core.State(*(leaf[:, 0] for leaf in state))
    outputs, _ = core.fast_sequence(core.layers[0].fast, program, leaves, None)
    changed = program.detach().clone()
    changed[:, :, 0] += 1
    others, _ = core.fast_sequence(core.layers[0].fast, changed, leaves, None)
    assert_close(others[:, :, 1], outputs[:, :, 1], rtol=0, atol=1e-14)
    assert not torch.allclose(others[:, :, 0], outputs[:, :, 0])
    with torch.no_grad():
        core.layers[0].out.weight[:, :d] = 0
    remaining = core.input(xs) + outputs[:, :, 1] @ core.layers[0].out.weight[:, d:].T
    expected = remaining + core.layers[0].ff_out(core.layers[0].ff_in(core.layers[0].ff_norm(remaining)).relu())
    assert_close(core(xs, state).ys, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_within_steps_alone(name):
    """bptt="step" changes no value; no output depends on inputs before it, in any form."""
    core, full = fwp(name, bptt="step"), fwp(name)
    xs, state = random_inputs(core)
    starts = torch.rand(STEPS, B) < 0.2
    output, literal = core(xs, state, starts), core.loop(xs, state, starts, ())
    for other in (full(xs, state, starts), literal):
        assert_close(tuple(output[:2]), tuple(other[:2]), rtol=1e-9, atol=1e-10)
    from_output, from_literal = (
        torch.autograd.grad(
            sum(((i + 1) * x).sin().sum() for i, x in enumerate((o.ys, *o.state))), [xs, *core.parameters()]
        )
        for o in (output, literal)
    )
    assert_close(from_output, from_literal, rtol=1e-9, atol=1e-10)
    reached = torch.autograd.grad(core(xs, state).ys[-1].square().sum(), xs)[0].flatten(1).any(1)
    assert reached.tolist() == [False] * (STEPS - 1) + [True]
    assert torch.autograd.grad(full(xs, state).ys[-1].square().sum(), xs)[0].flatten(1).any(1).all()


def test_reports_are_what_was_written_and_asked():
    core = fwp("delta-rnn", num_layers=1)
    xs, state = random_inputs(core)
    _, before, _ = core(xs[:-1], state)
    _, last, report = core(xs, state, None, core.diagnostics)
    d = W // A
    program = core.layers[0].program(core.input(xs))[-1]
    expected = [program[..., d : 2 * d].softmax(-1), program[..., 3 * d : 4 * d].softmax(-1)]
    assert_close(report["key"][-1, :, 0], torch.stack(expected, 2).detach())
    assert_close(report["beta"][-1, :, 0], program[..., -2:].sigmoid().detach())
    assert_close(report["query"][-1, :, 0, :, 1], before.output[:, 0].softmax(-1).detach())
    assert_close(report["write_strength"], report["beta"] * report["key"].square().sum(-1))
    for m, memory in enumerate((last.memory, last.recurrent)):
        assert_close(report["memory_norm"][-1, :, 0, :, m], memory[:, 0].flatten(2).norm(dim=-1).detach())


def test_initial_recurrent_weights():
    """N(0, 1 / d), whatever the number of heads."""
    core = make_core("rdn", 3, hidden_size=256, num_heads=4)
    for parameter in core.layers[0].fast.parameters():
        assert parameter.std().item() == pytest.approx(1 / 8, rel=0.15)


@pytest.mark.parametrize(
    ("name", "choices", "message"),
    [
        ("delta-net", {"hidden_size": 30}, "DeltaNet.Config: hidden_size=30, but it must be a multiple of num_heads=4"),
        ("rdn", {"phi": "elu"}, "RDN.Config: phi='elu', but it must be elu1-sum, softmax or l2"),
        ("delta-lstm", {"version": "v5"}, "DeltaLSTM.Config: version='v5', but it must be v1, v2, v3 or v4"),
        ("delta-mlp", {"fast_blocks": 0}, "DeltaMLP.Config: fast_blocks=0, but it must be an integer of at least 1"),
        ("delta-rnn", {"bptt": "no"}, "DeltaRNN.Config: bptt='no', but it must be full or step"),
    ],
)
def test_wrong_choices(name, choices, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        make_core(name, 3, **choices)


# --- acting ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_compiled_acting(name, monkeypatch):
    """Many steps in place, with episodes ending, against the literal recurrence in float64."""
    core = fwp(name, dtype=torch.float32, **({"fast_blocks": 2} if name == "delta-mlp" else {}))
    xs, state = random_inputs(core, 30)
    starts = torch.rand(30, B) < 0.1
    calls = []
    compiled = fwp_kernel.step
    monkeypatch.setattr(fwp_kernel, "step", lambda *args: calls.append(1) or compiled(*args))
    with torch.no_grad():
        wide = fwp(name, **({"fast_blocks": 2} if name == "delta-mlp" else {}))
        expected = wide.loop(xs.double(), wide.State(*(leaf.double() for leaf in state)), starts, ())
        assert not calls
        ys, last = [], state
        for x, start in zip(xs, starts, strict=True):
            y, last, _ = core(x[None], last, start[None], donate=True)
            ys.append(y)
    assert len(calls) >= 60
    assert_close(torch.cat(ys).double(), expected.ys, rtol=1e-3, atol=1e-4)
    assert_close([leaf.double() for leaf in last], list(expected.state), rtol=1e-3, atol=1e-4)
