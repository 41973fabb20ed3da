"""Maps of memories: that what is read is the sum they say, planted associations, episodes, axes, errors."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from engram.policies import CORES, core_config, delta_rule, fwm_memory, make_core
from engram.policies.figures import Map, memory_maps

T, B, D = 7, 3, 4
FWP = {"hidden_size": 6, "num_heads": 2, "ff_size": 5}
CASES = {
    "fwm": {"hidden_size": 5, "memory_size": 3, "num_chains": 2, "num_reads": 2},
    "mnm": {"hidden_size": 5, "output_size": 3, "memory_size": 4, "num_heads": 2},
    "rmc": {"num_slots": 3, "head_size": 3, "num_heads": 2, "num_blocks": 2, "input_rows": 2},
    "stm": {"memory_size": 4, "slots": 2, "relation_size": 3, "read_size": 3, "mlp_size": 5, "output_size": 3},
    "jbfw": {"hidden_size": 6, "inner_steps": 2},
    "linear-transformer": FWP,
    "delta-net": FWP | {"phi": "l2"},
    "delta-rnn": FWP,
    "delta-lstm": FWP,
    "delta-mlp": FWP | {"fast_blocks": 2},
    "delta-delta-net": FWP | {"slow_base": True},
    "rdn": FWP,
}
"""one of each kind that has maps, small"""
FWP_NAMES = [name for name, choices in CASES.items() if choices.items() >= FWP.items()]
STARTS = st.lists(st.booleans(), min_size=T * B, max_size=T * B).map(lambda flat: torch.tensor(flat).view(T, B))


def build(name, **choices):
    torch.manual_seed(0)
    core = make_core(name, D, **CASES[name] | choices).double()
    with torch.no_grad():
        for parameter in core.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return core


def some_starts():
    starts = torch.zeros(T, B, dtype=torch.bool)
    starts[3, 0] = starts[0, 1] = starts[2, 1] = starts[5, 1] = True
    return starts


def run(core, xs, starts=None):
    return core(xs, core.initial_state(xs.shape[1]), starts, core.diagnostics).report


def inputs(seed=1):
    return 2 * torch.randn(T, B, D, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def stepped(core, xs, starts):
    """The state before and after each step, the one before being reset at starts."""
    state, befores, afters = core.initial_state(xs.shape[1]), [], []
    for x, start in zip(xs, starts, strict=True):
        befores.append(core.reset(state, start))
        state = core.step(x, befores[-1]).state
        afters.append(state)
    return befores, afters


# --- sums that are exact --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["tensor", "concat"])
@pytest.mark.parametrize("write_scale", [None, 4.0])
@settings(max_examples=8, deadline=None)
@given(starts=STARTS)
def test_fwm(key, write_scale, starts):
    """Cells times past values, or past changes, are what a read finds; a large scale has the memory bounded."""
    core = build("fwm", key=key, write_scale=write_scale)
    xs, d = inputs(), core.config.memory_size
    with torch.no_grad():
        report, (befores, afters) = run(core, xs, starts), stepped(core, xs, starts)
        values = torch.stack([core.write(state.h)[:, 2 * d : 3 * d].tanh() for state in afters])
    assert write_scale is None or (report["memory_norm"] > 1).any()
    key1, key2 = report["key1"], report["key2"]
    for b in range(B):
        maps = memory_maps(core, report, starts, b)
        assert list(maps) == ["query_key", "surviving", "attention"]
        assert all(found.axes == ("step", "chain", "read", "past") for found in maps.values())
        written = fwm_memory.address(key1[:, b], key2[:, b], key)
        changes = torch.stack([values[t, b] - befores[t].memory[b] @ written[t] for t in range(T)])
        for t in range(T):
            begin = max([0, *starts[: t + 1, b].nonzero()[:, 0].tolist()])
            for c, i in np.ndindex(core.config.num_chains, core.config.num_reads):
                asked = fwm_memory.address(report["read_n"][t, b, c, i], report["read_e"][t, b, c, i], key)
                read = (afters[t].memory[b] @ asked).numpy()
                cell = {name: found.at(step=t, chain=c, read=i).values for name, found in maps.items()}
                assert_allclose(cell["attention"] @ values[:, b].numpy(), read, rtol=1e-9, atol=1e-11)
                assert_allclose(cell["surviving"] @ changes.numpy(), read, rtol=1e-9, atol=1e-11)
                for s in range(T):
                    product = float(asked @ written[s]) if begin <= s <= t else 0.0
                    assert cell["query_key"][s] == pytest.approx(product, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", FWP_NAMES)
@pytest.mark.parametrize("starts", [None, some_starts()], ids=["one episode", "several"])
def test_fast_weight_programmers(name, starts, monkeypatch):
    """Cells times past values are what each memory answers."""
    core, calls, step = build(name), [], delta_rule.step

    def recorded(memory, write, query):
        found, memory = step(memory, write, query)
        if found.dim() == 4:  # three matrices at once
            calls.extend((write.value[:, :, g], found[:, :, g]) for g in range(3))
        else:
            calls.append((write.value, found))
        return found, memory

    monkeypatch.setattr(delta_rule, "step", recorded)
    xs, (A, n) = inputs(), (core.config.num_heads, core.config.num_layers)
    with torch.no_grad():
        report = run(core, xs, starts)
    m = report["query"].shape[4]
    assert len(calls) == T * n * m
    for b in range(B):
        found = memory_maps(core, report, starts, b)["attention"]
        assert found.axes == ("step", "layer", "head", "memory", "past")
        assert found.values.shape == (T, n, A, m, T)
        for layer in range(n):
            for memory in range(m):
                of_memory = calls[layer * m + memory :: n * m]  # by time
                values, answers = (torch.stack([call[i][b] for call in of_memory]).numpy() for i in (0, 1))
                for head in range(A):
                    cells = found.at(layer=layer, head=head, memory=memory).values
                    assert_allclose(cells @ values[:, head], answers[:, head], rtol=1e-9, atol=1e-11)


@settings(max_examples=8, deadline=None)
@given(starts=STARTS)
def test_jbfw(starts):
    """Cells times past hidden vectors are what the fast weights make of a query."""
    core, xs = build("jbfw"), inputs()
    with torch.no_grad():
        report, (_, afters) = run(core, xs, starts), stepped(core, xs, starts)
    for b in range(B):
        found = memory_maps(core, report, starts, b)["attention"]
        assert found.axes == ("step", "inner_step", "past")
        for t in range(T):
            applied = report["query"][t, b] @ afters[t].fast[b].mT
            assert_allclose(found.at(step=t).values @ report["hidden"][:, b].numpy(), applied, rtol=1e-9, atol=1e-11)


def test_rmc():
    """What a slot reads adds up to 1, over the slots and the inputs."""
    core = build("rmc")
    with torch.no_grad():
        report = run(core, inputs(), some_starts())
    found = memory_maps(core, report, some_starts(), 2)["attention"]
    assert found.axes == ("step", "block", "head", "slot", "row")
    assert found.labels["row"] == ("slot 0", "slot 1", "slot 2", "input 0", "input 1")
    assert found.labels["slot"] == found.labels["row"][:3]
    assert_allclose(found.values.sum(-1), 1)
    assert_allclose(found.values, report["attention"][:, 2, :, :, :3])
    heads = found.mean("head").at(block=1)
    assert heads.axes == ("step", "slot", "row")
    assert heads.labels == found.labels
    assert_allclose(heads.values, report["attention"][:, 2, 1, :, :3].mean(1))


# --- plain statements -----------------------------------------------------------------------------------------------


def test_mnm():
    core = build("mnm")
    with torch.no_grad():
        report = run(core, inputs(), some_starts())

    def cosine(x, y):
        return sum(x * y) / math.sqrt(sum(x * x) * sum(y * y))

    for b in range(B):
        read, values, keys = (report[name][:, b].numpy() for name in ("read", "values", "write_keys"))
        values, keys = values.mean(1), keys.mean(1)
        pairs = {"read_value": (read, values), "value_value": (values, values), "key_key": (keys, keys)}
        maps = memory_maps(core, report, some_starts(), b)
        assert maps.keys() == pairs.keys()
        for name, (now, past) in pairs.items():
            assert maps[name].axes == ("step", "past")
            for t in range(T):
                begin = max([0, *some_starts()[: t + 1, b].nonzero()[:, 0].tolist()])
                for s in range(T):
                    expected = cosine(now[t], past[s]) if begin <= s < t else 0
                    assert maps[name].values[t, s] == pytest.approx(expected)


def test_stm(monkeypatch):
    core, asked = build("stm"), []
    attend = core._attend
    monkeypatch.setattr(core, "_attend", lambda item: asked.append(attend(item)) or asked[-1])
    with torch.no_grad():
        report = run(core, inputs())
    found = memory_maps(core, report, None, 1)["attention"]
    assert found.axes == ("step", "query", "key")
    for t, (queries, keys, _) in enumerate(asked):
        for i, query in enumerate(queries[1].tolist()):
            for j, key in enumerate(keys[1].tolist()):
                expected = np.mean([math.tanh(x * y) for x, y in zip(query, key, strict=True)])
                assert found.values[t, i, j] == pytest.approx(expected)


# --- planted associations -------------------------------------------------------------------------------------------


def recurring():
    """Inputs of which the sixth is the second again."""
    xs = inputs(3)
    xs[5] = xs[1]
    return xs


def test_fwm_finds_what_it_wrote_under_the_same_keys():
    """An LSTM that forgets, whose queries are its write keys; saturated, so that other keys match less."""
    core = build("fwm", memory_size=8)
    d = core.config.memory_size
    with torch.no_grad():
        core.lstm.weight_hh.zero_()
        core.lstm.bias_ih[5:10] = -100  # the forget gate
        core.write.weight[: 2 * d] *= 1e4
        core.write.bias[: 2 * d] = 0
        core.read.weight[: 2 * d], core.read.bias[: 2 * d] = core.write.weight[: 2 * d], 0
        maps = memory_maps(core, run(core, recurring()))
    past = maps["query_key"].at(step=5, chain=0, read=0).values[:5]
    assert past.argmax() == 1
    assert past[1] == pytest.approx(d * d, rel=0.01)
    assert np.sort(past)[-2] < 0.9 * d * d


def test_linear_transformer_finds_what_it_wrote_under_the_same_key():
    core = build("linear-transformer", phi="l2")
    with torch.no_grad():
        slow = core.layers[0].slow.weight.view(2, 3, 3, 6)  # by head; queries, keys, values
        slow[:, 0] = slow[:, 1]
        found = memory_maps(core, run(core, recurring()))["attention"].at(step=5, layer=0, memory=0)
    assert found.values[:, :5].argmax(1).tolist() == [1, 1]
    assert_allclose(found.values[:, 1], 1)


def test_a_delta_net_replaces_what_it_wrote_under_the_same_key():
    """And a linear transformer adds to it."""
    key = torch.zeros(4, 1, 1, 1, 1, 2, dtype=torch.float64)
    key[[0, 1, 3], ..., 0] = key[2, ..., 1] = 1  # the third is another one
    report = {"query": key, "key": key, "beta": torch.tensor([1.0, 0.75, 1.0, 0.0]).view(4, 1, 1, 1, 1)}
    rows = {
        name: memory_maps(build(name), report)["attention"].at(layer=0, head=0, memory=0).values
        for name in ("delta-net", "linear-transformer")
    }
    assert_allclose(rows["delta-net"][3], [0.25, 0.75, 0, 0])
    assert_allclose(rows["linear-transformer"][3], [1, 1, 0, 1])


def test_mnm_reads_what_it_wrote():
    torch.manual_seed(0)
    report = {name: torch.randn(T, 1, 2, 4) for name in ("values", "write_keys")}
    report["read"] = torch.randn(T, 1, 4)
    report["read"][5, 0] = 3 * report["values"][1, 0].mean(0)
    report["write_keys"][6, 0] = report["write_keys"][2, 0].flip(0)  # by other heads
    report["values"][4, 0] = -report["values"][3, 0]
    maps = memory_maps(build("mnm"), report)
    assert maps["read_value"].values[5].argmax() == 1
    assert maps["read_value"].values[5, 1] == pytest.approx(1)
    assert maps["key_key"].values[6].argmax() == 2
    assert maps["key_key"].values[6, 2] == pytest.approx(1)
    assert maps["value_value"].values[4, 3] == pytest.approx(-1)


# --- episodes and rows ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_an_episode_is_a_map_of_its_own(name):
    """Rows of the batch and their episodes, one at a time, have the same maps; between episodes there is nothing."""
    core, xs, starts = build(name), inputs(), some_starts()
    with torch.no_grad():
        report = run(core, xs, starts)
        for b in range(B):
            together = memory_maps(core, report, starts, b)
            cuts = sorted({0, *starts[:, b].nonzero()[:, 0].tolist(), T})
            for begin, end in pairwise(cuts):
                alone = memory_maps(core, run(core, xs[begin:end, b : b + 1]))
                assert alone.keys() == together.keys()
                for kind, found in together.items():
                    values = found.values[begin:end].copy()
                    if "past" in found.axes:
                        assert found.axes[-1] == "past"
                        inside = values[..., begin:end].copy()
                        values[..., begin:end] = 0
                        assert not values.any()
                        values = inside
                        assert values.any() or end - begin == 1
                    assert_allclose(values, alone[kind].values, rtol=1e-9, atol=1e-11)


def test_float32_reports_give_float64_maps():
    core = build("fwm").float()
    report = core(inputs().float(), core.initial_state(B), None, core.diagnostics).report
    assert {found.values.dtype for found in memory_maps(core, report).values()} == {np.dtype(np.float64)}


# --- axes and errors ------------------------------------------------------------------------------------------------


def test_axes():
    values = np.arange(24.0).reshape(2, 3, 4)
    found = Map(values, ("step", "head", "past"), "what", {"head": ("a", "b", "c"), "past": ("x", "y", "z", "w")})
    cut = found.at(head=1, step=-1)
    assert (cut.axes, cut.meaning, cut.labels) == (("past",), "what", {"past": ("x", "y", "z", "w")})
    assert_allclose(cut.values, values[-1, 1])
    means = found.mean("past", "step")
    assert (means.axes, means.labels) == (("head",), {"head": ("a", "b", "c")})
    assert_allclose(means.values, values.mean((0, 2)))
    for call in (lambda: found.at(slot=0), lambda: found.mean("slot")):
        with pytest.raises(ValueError, match=r"^no axis of this map is called 'slot'; choose from step, head, past$"):
            call()


@pytest.mark.parametrize("name", CORES)
def test_every_core_has_maps_or_says_that_it_has_none(name):
    sizes = {field: min(value, 4) for field, value in vars(core_config(name)).items() if type(value) is int}
    core = make_core(name, D, **sizes)
    report = run(core, torch.randn(2, 1, D))
    if name in ("mlp", "gru", "lstm", "convlstm") or name.startswith("plastic"):
        kinds = "FWM, FastWeightProgrammer, JBFW, MNM, RMC, STM"
        with pytest.raises(ValueError, match=f"^{type(core).__name__} has no maps of its memory; .* have: {kinds}$"):
            memory_maps(core, report)
    else:
        assert memory_maps(core, report)


@pytest.mark.parametrize("name", CASES)
def test_missing_reports(name):
    core = build(name)
    with pytest.raises(ValueError, match=rf"^maps of {type(core).__name__} are made of .*; not reported: \w+$"):
        memory_maps(core, {})


@pytest.mark.parametrize("row", [-1, B])
def test_missing_rows(row):
    core = build("rmc")
    report = run(core, inputs())
    with pytest.raises(ValueError, match=rf"^row={row}, but the reports have rows 0 to {B - 1}$"):
        memory_maps(core, report, None, row)
