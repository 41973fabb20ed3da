"""SAM and STM: the equations written naively, runs of the authors' programs, what the paper proves, sizes, errors."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from engram.policies import make_core
from engram.policies.sam import bind, project, sam

GOLDEN = Path(__file__).parent / "golden"
SIZES = {"memory_size": 4, "slots": 3, "relation_size": 6, "read_size": 5, "mlp_size": 7, "output_size": 4}
"""of the recorded runs, which have 5 inputs"""


def stm(name="stm", **choices):
    """With every parameter away from its initial value, the scales among them."""
    torch.manual_seed(0)
    core = make_core(name, 5, **SIZES | choices).double()
    with torch.no_grad():
        for parameter in core.parameters():
            parameter.copy_(0.5 * torch.randn_like(parameter))
    return core


def random_run(core, steps=6, batch_size=2):
    """Inputs and a state, without gradient."""
    torch.manual_seed(1)
    initial = core.initial_state(batch_size)
    state = type(initial)(*(0.5 * torch.randn_like(leaf) for leaf in initial))
    return torch.randn(steps, batch_size, 5, dtype=torch.float64), state


def random_qkv(n_q=3, n_kv=4, d=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, n, d, dtype=torch.float64, generator=generator) for n in (n_q, n_kv, n_kv)]


# --- the equations, again -------------------------------------------------------------------------------------------


def literal_sam(q, k, v):
    """Vectors, one query and one pair at a time: [n_q, d], [n_kv, d], [n_kv, d] -> [n_q, d, d]."""
    return torch.stack([sum(torch.outer(torch.tanh(a * b), c) for b, c in zip(k, v, strict=True)) for a in q])


def literal(core, xs, state):
    """The recurrence for one row, with the parameters of `core`; M^r stays out of the state where it is not carried."""
    config, p = core.config, dict(core.named_parameters())
    d, n = config.memory_size, config.slots
    item, relational = state[0][0], state[1][0] if config.carried else None

    def scale(name):
        fixed = getattr(config, name)
        return p[f"alpha.{name}"] if fixed is None else fixed

    def affine(name, x):
        for i in range(1 if config.input_hidden_size is None else 3):
            x = p[f"{name}.{i}.weight"] @ x + p[f"{name}.{i}.bias"]
        return x

    def normalized(x, name):
        """Over all of x."""
        return (x - x.mean()) / (x.var(correction=0) + 1e-5).sqrt() * p[f"{name}.weight"] + p[f"{name}.bias"]

    ys = []
    for x in xs[:, 0]:
        u = affine("f1", x)
        new = torch.outer(u, u) if config.write == "f1f1" else torch.outer(u, affine("f2", x))
        if config.gates:
            if config.write == "f1f1":
                new = torch.tanh(new)
            from_input = p["gate_input.weight"] @ u + p["gate_input.bias"]
            gated = [p["gate_memory.weight"] @ torch.tanh(row) + p["gate_memory.bias"] + from_input for row in item]
            write, keep = torch.stack(gated).split(d, dim=1)
            write = torch.sigmoid(write + p["gate_bias.input"])
            item = write * new + torch.sigmoid(keep + p["gate_bias.forget"]) * item
        else:
            item = item + new
        recalled = 0
        if config.carried:
            w = affine("f2", x)
            slots = torch.exp(affine("f3", x))
            slots = slots / slots.sum()
            read = sum(slots[s] * w[e] * relational[s, e] for s in range(n) for e in range(d))
            recalled = scale("alpha2") * torch.outer(read, w)
        for _ in range(config.sam_steps):
            block = (item + recalled) @ p["attend.weight"].T + p["attend.bias"]
            if config.sam_norm == "block":
                block = normalized(block, "attend_norm")
            else:
                block = torch.stack([normalized(row, "attend_norm") for row in block])
            q, k, v = block.T.split(n)
            associations = literal_sam(q, k, v)
            if config.carried:
                alpha1 = scale("alpha1")
                if config.alpha1_max is not None:
                    alpha1 = config.alpha1_max * torch.tanh(alpha1)
                old, added = (alpha1, 1) if config.alpha1_on == "memory" else (1, alpha1)
                relational = old * relational + added * associations
            else:
                relational = associations
            source = associations if config.transfer_from == "sam" else relational
            columns = [p["transfer.weight"] @ source[:, :, f].flatten() + p["transfer.bias"] for f in range(d)]
            item = item + scale("alpha3") * torch.stack(columns)
        relations = [p["relate.weight"] @ matrix.flatten() + p["relate.bias"] for matrix in relational]
        out = p["combine.weight"] @ torch.cat(relations) + p["combine.bias"]
        if config.output_norm:
            out = normalized(out, "output_norm")
        for layer in (0, 2, 4):
            out = p[f"mlp.{layer}.weight"] @ (out if layer == 0 else out.clamp(min=0)) + p[f"mlp.{layer}.bias"]
        ys.append(out)
    return torch.stack(ys)[:, None], [leaf[None] for leaf in ((item, relational) if config.carried else (item,))]


OPTIONS = [
    ("stm", {}),
    ("stm-rl", {}),
    ("stm", {"alpha1": 0.0, "alpha2": 0.0}),  # the paper's set-up for relational associative recall
    ("stm", {"alpha1": 1.0, "alpha3": 0.0, "input_hidden_size": 2}),  # and for bAbI
    ("stm", {"alpha1_on": "sam", "transfer_from": "memory", "write": "f1f2"}),  # its equations
    ("stm", {"alpha1_on": "sam"}),
    ("stm", {"alpha1_max": 0.9, "learn_initial": False}),
    ("stm", {"gates": False}),
    ("stm", {"gates": False, "write": "f1f2", "output_norm": True}),
    ("stm", {"sam_steps": 2, "sam_norm": "row"}),
    ("stm", {"sam_steps": 3, "transfer_from": "memory"}),
    ("stm-rl", {"sam_steps": 2, "write": "f1f2"}),
    ("stm-rl", {"gates": False, "transfer_from": "memory", "learn_initial": False}),
]


@pytest.mark.parametrize(("name", "choices"), OPTIONS)
def test_the_equations(name, choices):
    core = stm(name, **choices)
    xs, state = random_run(core, batch_size=1)
    ys, last = literal(core, xs, state)
    for output in (core(xs, state), core.loop(xs, state, None, ())):
        assert_close(output.ys, ys, rtol=1e-9, atol=1e-10)
        assert_close(list(output.state), last, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(("name", "choices"), OPTIONS)
def test_forward_is_the_loop_over_chunks(name, choices):
    """Over more than two chunks, with episodes inside them; all scales away from 0; gradients too."""
    core = stm(name, **choices)
    xs, state = random_run(core, 36, 3)
    xs.requires_grad_()
    for leaf in state:
        leaf.requires_grad_()
    starts = torch.rand(36, 3) < 0.06
    results = []
    for output in (core(xs, state, starts), core.loop(xs, state, starts, ())):
        loss = output.ys.sin().sum() + sum(leaf.cos().sum() for leaf in output.state)
        wanted = [xs, *state, *core.parameters()]
        results.append([output.ys, *output.state, *torch.autograd.grad(loss, wanted, materialize_grads=True)])
    for found, expected in zip(*results, strict=True):
        assert (found - expected).abs().max() <= 1e-10 * (1 + expected.abs().max())


# --- the authors' programs ------------------------------------------------------------------------------------------


def golden_parameters(run, names, prefix=""):
    """The arrays of a run under those of our parameter names."""

    def both(name, *arrays):
        weights = torch.cat([torch.from_numpy(run[f"{prefix}W_{array}"]) for array in arrays])
        biases = torch.cat([torch.from_numpy(run[f"{prefix}b_{array}"]) for array in arrays])
        return {f"{name}.weight": weights, f"{name}.bias": biases}

    def single(name, array):
        return {name: torch.from_numpy(run[prefix + array])} if name in names else {}

    found = both("gate_input", "I_x", "F_x") | both("gate_memory", "I_m", "F_m")
    found |= single("gate_bias.forget", "bias_F") | single("gate_bias.input", "bias_I")
    for ours, theirs in {"attend": "qkv", "transfer": "G1", "relate": "G2", "combine": "G3"}.items():
        found |= both(ours, theirs)
    found |= both("mlp.0", "mlp1") | both("mlp.2", "mlp2") | both("mlp.4", "out")
    for f in ("f1", "f2", "f3"):
        found |= both(f"{f}.0", f) if f"{f}.0.weight" in names else {}
    for norm, array in (("attend_norm", "ln_qkv"), ("output_norm", "ln_out")):
        found |= single(f"{norm}.weight", f"{array}_gain") | single(f"{norm}.bias", f"{array}_bias")
    found |= single("initial.item", "Mi_init") | single("initial.relational", "Mr_init")
    return found | {name: run[f"{prefix}{name[6:]}"][0] for name in names if name.startswith("alpha.")}


@pytest.mark.parametrize("form", ["forward", "step"])
@pytest.mark.parametrize(("file", "name"), [("basic", "stm"), ("rl", "stm-rl")])
def test_the_released_programs(file, name, form):
    """Outputs, memories, and gradients of a combination of both, as the authors' modules gave them in float64."""
    run = {key: value for key, value in np.load(GOLDEN / f"stm_{file}__A__s0.npz").items()}
    core = make_core(name, 5, **SIZES).double()
    names = dict(core.named_parameters())
    parameters = golden_parameters(run, names)
    assert parameters.keys() == names.keys()
    core.load_state_dict({key: torch.as_tensor(value) for key, value in parameters.items()})
    xs, state = torch.from_numpy(run["x"]).requires_grad_(), core.initial_state(3)
    relational = []  # the program hands out that of the last step even where it throws it away
    core.relate.register_forward_pre_hook(lambda module, given: relational.append(given[0].view(3, 3, 4, 4)))
    if form == "forward":
        ys, last, _ = core(xs, state)
    else:
        last, ys = state, []
        for x, item in zip(xs, run["Mi"], strict=True):
            y, last, _ = core.step(x, last)
            ys.append(y)
            assert_close(last.item, torch.from_numpy(item), rtol=1e-10, atol=1e-10)
        ys = torch.stack(ys)
        assert_close(torch.stack(relational), torch.from_numpy(run["Mr"]), rtol=1e-10, atol=1e-10)
    assert_close(ys, torch.from_numpy(run["y"]), rtol=1e-10, atol=1e-10)
    assert_close(last.item, torch.from_numpy(run["Mi_T"]), rtol=1e-10, atol=1e-10)
    if name == "stm-rl" and form == "forward":
        return  # the recorded gradients contain those of a memory that this form does not have
    last_relational = last.relational if name == "stm" else relational[-1]
    assert_close(last_relational, torch.from_numpy(run["Mr_T"]), rtol=1e-10, atol=1e-10)

    loss = (ys * torch.from_numpy(run["G"])).sum() + (last.item * torch.from_numpy(run["G_Mi_T"])).sum()
    loss = loss + (last_relational * torch.from_numpy(run["G_Mr_T"])).sum()
    loss.backward()
    wanted = golden_parameters(run, names, "grad_") | {"x": torch.from_numpy(run["grad_x"])}
    for key, gradient in wanted.items():
        found, gradient = (names | {"x": xs})[key].grad, torch.as_tensor(gradient)
        assert (found - gradient).abs().max() <= 1e-8 * gradient.abs().max(), key


def test_the_released_operator():
    run = {
        key: torch.from_numpy(value)
        for key, value in np.load(GOLDEN / "sam_operator__A__s0.npz").items()
        if key[0] in "qkvoGg"
    }
    inputs = [run[name].requires_grad_() for name in "qkv"]
    out = sam(*inputs)
    assert_close(out, run["out"], rtol=1e-12, atol=1e-12)
    (out * run["G"]).sum().backward()
    for name in "qkv":
        assert_close(run[name].grad, run[f"grad_{name}"], rtol=1e-10, atol=1e-10)


def test_golden_run_of_the_atari_agent():
    """The numbers of `test_cores.py`'s golden runs; the authors' program counts parameters that ours does not have."""
    sizes = {"memory_size": 4, "slots": 2, "relation_size": 3, "read_size": 3, "mlp_size": 5, "output_size": 3}
    core = make_core("stm-rl", 3, **sizes).double()
    unused = {2, 3, 4, 5, 30, 31, 34}  # f2, f3, alpha1, alpha2, M^r_0
    order = [j for j in range(35) if j not in unused]
    with torch.no_grad():
        for j, (name, parameter) in zip(order, core.named_parameters(), strict=True):
            n = torch.arange(parameter.numel(), dtype=torch.float64).view_as(parameter)
            parameter.copy_(0.4 * torch.sin(1 + 0.37 * j + 0.71 * n) + (name.endswith("norm.weight")))
    t, b, i = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in (4, 2, 3)), indexing="ij")
    starts = torch.zeros(4, 2, dtype=torch.bool)
    starts[2, 1] = True
    xs = torch.sin(0.5 + 0.9 * t + 1.3 * b + 0.41 * i)
    ys, state, report = core(xs, core.initial_state(2), starts, ("memory_norm",))
    numbers = [*ys[3, 0].tolist(), ys.sum().item(), state.item.square().sum().item()]
    numbers.append(report["memory_norm"][-1, :, 1:].square().sum().item())
    expected = [-0.07480789, -0.26659304, 0.39514298, 0.42714502, 1.39836152, 3.98440413]
    assert numbers == pytest.approx(expected, rel=1e-7, abs=1e-7)


# --- the operator ---------------------------------------------------------------------------------------------------


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), st.integers(0, 99))
def test_sam_of_any_sizes(n_q, n_kv, d, seed):
    q, k, v = random_qkv(n_q, n_kv, d, seed)
    v = torch.cat([v, v[..., :1]], dim=-1)  # values may be wider than keys
    assert_close(sam(q, k, v), torch.stack([literal_sam(*row) for row in zip(q, k, v, strict=True)]))


def test_symmetries_of_sam():
    q, k, v = random_qkv()
    found = sam(q, k, v)
    order = torch.tensor([2, 0, 3, 1])
    assert_close(sam(q, k[:, order], v[:, order]), found)
    assert_close(sam(q[:, [1, 2, 0]], k, v), found[:, [1, 2, 0]])
    assert_close(sam(-q, k, v), -found)
    assert_close(sam(q, -k, v), -found)
    assert_close(sam(q, k, 2 * v + k), 2 * found + sam(q, k, k))


def test_sam_contains_attention():
    """Contracted with ones, for F(x) = a x + b: dot-product attention with scores a <q, k> + d b (Prop. 1)."""
    q, k, v = random_qkv()
    contracted = sam(q, k, v, lambda x: 0.7 * x + 0.3).sum(2)
    assert_close(contracted, (0.7 * q @ k.transpose(1, 2) + 5 * 0.3) @ v)


@pytest.mark.parametrize("activation", [torch.tanh, lambda x: x])
def test_values_can_be_retrieved(activation):
    """From rows F(q * k_j) of full rank, by the columns of their pseudo-inverse (Prop. 6)."""
    q, k, v = random_qkv()
    rows = bind(q, k, activation).transpose(1, 2)  # [B, n_q, n_kv, d]
    retrieved = torch.linalg.pinv(rows).transpose(-1, -2) @ sam(q, k, v, activation)
    assert_close(retrieved, v[:, None].expand_as(retrieved), rtol=1e-9, atol=1e-10)


def test_items_can_be_recalled_from_relations():
    """Items from a relational memory that was made from their sum of outer products (Prop. 7, by construction)."""
    torch.manual_seed(0)
    items = 0.5 + torch.rand(4, 6, dtype=torch.float64)
    dual = torch.linalg.pinv(items).T  # <dual_i, x_j> = 1 where i = j
    memory = items.T @ items
    keys = dual @ memory  # the items again
    queries = dual.sum(0).expand(3, -1) @ memory
    relations = sam(queries, keys, keys, lambda x: x)
    weights = torch.softmax(torch.randn(3, dtype=torch.float64), 0)
    selectors = torch.linalg.pinv(queries[0] * items).T
    assert_close(torch.einsum("s,ie,sef->if", weights, selectors, relations), items)


@pytest.mark.parametrize("rows", [1, 2, 64])
def test_projected_associations(monkeypatch, rows):
    """In parts of any size: the linear map of what `sam` gives, with gradients."""
    monkeypatch.setattr("engram.policies.sam.ROWS", rows)
    q, k, v = (torch.cat([x, 2 * x[:1]]).requires_grad_() for x in random_qkv())
    weight = torch.randn(7, 25, dtype=torch.float64, requires_grad=True)
    outs = project(bind(q, k), v, weight), F.linear(sam(q, k, v).flatten(2), weight)
    assert_close(*outs)
    assert_close(*(torch.autograd.grad(out.sin().sum(), [q, k, v, weight]) for out in outs))


class _Largest(TorchDispatchMode):
    """Size of the largest tensor that anything gives while this is active."""

    numel = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.untyped_storage().nbytes() // tensor.element_size())
        return result


def test_no_outer_product_is_formed_for_each_pair():
    core = make_core("stm", 5, **SIZES | {"memory_size": 8, "slots": 8})
    xs, state = torch.randn(3, 2, 5), core.initial_state(2)
    for run in (core, lambda xs, state: core.loop(xs, state, None, ())):
        with _Largest() as largest:
            run(xs, state).ys.sum().backward()
        assert 2 * 8 * 8**2 <= largest.numel < 2 * 8**2 * 8**2


# --- the model ------------------------------------------------------------------------------------------------------


def test_order_of_slots():
    """Permuting queries with all that belongs to them, and pairs of key and value, leaves the outputs as they were."""
    core, permuted = stm(), stm()
    slots, pairs = torch.tensor([2, 0, 1]), torch.tensor([1, 0, 2])
    rows = torch.cat([slots, 3 + pairs, 6 + pairs])
    with torch.no_grad():
        for parameter in (permuted.attend.weight, permuted.attend.bias):
            parameter.copy_(parameter[rows])
        for parameter in (permuted.attend_norm.weight, permuted.attend_norm.bias):
            parameter.copy_(parameter[:, rows])
        for parameter in permuted.f3.parameters():
            parameter.copy_(parameter[slots])
        for weight in (permuted.transfer.weight, permuted.combine.weight):
            weight.copy_(weight.unflatten(1, (3, -1))[:, slots].flatten(1))
    xs, state = random_run(core)
    output, other = core(xs, state), permuted(xs, state._replace(relational=state.relational[:, slots]))
    assert_close(other.ys, output.ys)
    assert_close(other.state.item, output.state.item)
    assert_close(other.state.relational, output.state.relational[:, slots])


def test_what_a_new_core_remembers():
    """Relations are not carried before alpha1 and alpha2 are learned, items are."""
    core = make_core("stm", 5, **SIZES).double()
    xs, state = random_run(core)
    ys = core(xs, state).ys
    assert_close(core(xs, state._replace(relational=9 * state.relational)).ys, ys)
    assert not torch.allclose(core(xs, state._replace(item=9 * state.item)).ys[-1], ys[-1])


def test_closed_gates_hold_the_items():
    core = stm(alpha3=0.0)
    with torch.no_grad():
        core.gate_bias["input"].fill_(-1e3)
        core.gate_bias["forget"].fill_(1e3)
    xs, state = random_run(core)
    assert_close(core(xs, state).state.item, state.item)


@pytest.mark.parametrize("alpha1_max", [None, 0.5])
def test_bounded_relations(alpha1_max):
    """A scale above 1 lets the memory grow without end, unless it is bounded."""
    core = stm(alpha1_max=alpha1_max)
    with torch.no_grad():
        core.alpha["alpha1"].fill_(1.2)
        core.alpha["alpha2"].zero_()
        core.alpha["alpha3"].zero_()
    xs, state = random_run(core, 100)
    report = core(xs, state, None, ("memory_norm", "alpha1")).report
    first, *_, last = report["memory_norm"][..., 1:]  # of the relational memory
    grown = (last > 100 * first).all()
    assert grown == (alpha1_max is None)
    assert_close(report["alpha1"], torch.full_like(report["alpha1"], 1.2 if grown else 0.5 * np.tanh(1.2)))


def test_reports():
    """Of the literal run: weights that sum to 1, the norms of the state, gates, the read at the next step."""
    core = stm()
    xs, state = random_run(core)
    ys, last, report = core(xs, state, None, core.diagnostics)
    assert_close(report["slot_weights"].sum(2), torch.ones(6, 2).double())
    assert_close(report["memory_norm"][-1, :, 0], last.item.flatten(1).norm(dim=1))
    assert_close(report["memory_norm"][-1, :, 1:], last.relational.flatten(2).norm(dim=2))
    assert report["attention"].shape == (6, 2, 3, 3)
    assert ((report["gate_input"] > 0) & (report["gate_input"] < 1)).all()
    assert_close(report["alpha3"], core.alpha["alpha3"].detach().expand(6, 2))
    assert core(xs, state).ys.shape == ys.shape
    assert {"relational_read", "slot_weights", "alpha1"}.isdisjoint(stm("stm-rl").diagnostics)
    assert {"gate_input", "gate_forget"}.isdisjoint(stm(gates=False).diagnostics)


# --- sizes and errors -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "input_size", "choices", "count"),
    [
        ("stm", 256, {}, 1_244_261),
        ("stm-rl", 256, {}, 1_239_829 - 100_458),  # the authors' agent, less what it never uses
        ("stm", 22, {"memory_size": 128, "output_size": 20}, 2_009_609),
        ("stm", 22, {"memory_size": 128, "output_size": 20, "learn_initial": False}, 1_862_153),
    ],
)
def test_number_of_parameters(name, input_size, choices, count):
    with torch.device("meta"):
        core = make_core(name, input_size, **choices)
    assert sum(parameter.numel() for parameter in core.parameters()) == count


@pytest.mark.parametrize(
    ("choices", "text"),
    [
        ({"alpha1_max": 0.0}, "alpha1_max=0.0, but it must be none or above 0"),
        ({"alpha1": 1.0, "alpha1_max": 0.9}, "alpha1_max=0.9, but it must be none where alpha1=1.0 is fixed"),
        ({"carried": False, "alpha2": 0.0}, "alpha2=0.0, but it must be none where carried=False"),
        ({"input_hidden_size": 0}, "input_hidden_size=0, but it must be an integer of at least 1 or none"),
    ],
)
def test_wrong_configurations(choices, text):
    with pytest.raises(ValueError, match=text):
        make_core("stm", 5, **choices)
