"""The plastic network: its equations written naively, what its rules promise, sizes, errors."""

from itertools import product

import pytest
import torch
from torch.testing import assert_close

from engram.policies import make_core

VARIANTS = [
    {"alpha": alpha, "rule": rule, "modulation": modulation}
    for alpha, rule, modulation in [
        *product(("full", "scalar"), ("hebb", "oja", "clip"), ("none", "rate")),
        ("full", "clip", "trace"),
        ("scalar", "clip", "trace"),
        ("none", "oja", "none"),
    ]
]


def plastic(**choices):
    """With weights and rates so large that traces matter, and are cut off."""
    torch.manual_seed(0)
    core = make_core("plastic", 3, hidden_size=4, **choices).double()
    with torch.no_grad():
        for name, parameter in core.named_parameters():
            parameter.copy_(torch.tensor(0.6, dtype=torch.float64) if name == "eta" else torch.randn_like(parameter))
    return core


def random_run(core, steps=12, batch_size=2):
    torch.manual_seed(1)
    initial = core.initial_state(batch_size)
    state = type(initial)(*(0.5 * torch.randn_like(leaf).clamp(-2, 2) for leaf in initial))
    return torch.randn(steps, batch_size, 3, dtype=torch.float64), state


def literal(core, xs, state):
    """One weight at a time, for one row."""
    config, p, n = core.config, dict(core.named_parameters()), core.output_size
    before = state.y[0].tolist()
    trace = state.trace[0].tolist() if config.alpha != "none" else None
    eligibility = state.eligibility[0].tolist() if config.modulation == "trace" else None
    units, ys = range(n), []
    for x in xs[:, 0]:
        y = []
        for i in units:
            total = p["bias"][i] + p["weight_ih"][i] @ x
            for j in units:
                weight = p["weight_hh"][i, j]
                if config.alpha != "none":
                    weight = weight + (p["alpha"][i, j] if config.alpha == "full" else p["alpha"]) * trace[i][j]
                total = total + weight * before[j]
            y.append(torch.tanh(total).item())
        modulator = None
        if config.modulation != "none":
            modulator = torch.tanh(
                p["modulator.weight"][0] @ torch.tensor(y, dtype=torch.float64) + p["modulator.bias"][0]
            ).item()
        for i, j in product(units, units) if config.alpha != "none" else ():
            eta = modulator if config.modulation == "rate" else p["eta"].item()
            hebbian = y[i] * before[j]
            if config.modulation == "trace":
                trace[i][j] = min(1, max(-1, trace[i][j] + modulator * eligibility[i][j]))
                eligibility[i][j] = (1 - eta) * eligibility[i][j] + eta * hebbian
            elif config.rule == "hebb":
                trace[i][j] = (1 - eta) * trace[i][j] + eta * hebbian
            elif config.rule == "oja":
                trace[i][j] += eta * y[i] * (before[j] - y[i] * trace[i][j])
            else:
                trace[i][j] = min(1, max(-1, trace[i][j] + eta * hebbian))
        before = y
        ys.append(y)
    last = [torch.tensor([leaf], dtype=torch.float64) for leaf in (y, trace, eligibility) if leaf is not None]
    return torch.tensor(ys, dtype=torch.float64)[:, None], last


@pytest.mark.parametrize("choices", VARIANTS, ids=lambda choices: "-".join(choices.values()))
def test_the_equations(choices):
    core = plastic(**choices)
    xs, state = random_run(core, batch_size=1)
    ys, last = literal(core, xs, state)
    for output in (core(xs, state), core.loop(xs, state, None, ())):
        assert_close(output.ys, ys, rtol=1e-9, atol=1e-10)
        assert_close(list(output.state), last, rtol=1e-9, atol=1e-10)


PLASTIC = [choices for choices in VARIANTS if choices["alpha"] != "none"]


@pytest.mark.parametrize("choices", PLASTIC, ids=lambda choices: "-".join(choices.values()))
def test_acting(choices):
    """The compiled step over many steps, with episodes that end, against the literal recurrence in float64."""
    core = plastic(**choices)
    with torch.no_grad():
        core.weight_hh.mul_(0.3)
        core.alpha.mul_(0.3)  # else the network is chaotic
        xs, state = random_run(core, 40, 3)
        starts = torch.rand(40, 3) < 0.1
        expected = core.loop(xs, state, starts, ())
        core.float()
        ys, last = [], type(state)(*(leaf.float() for leaf in state))
        for x, start in zip(xs.float(), starts, strict=True):
            y, last, _ = core(x[None], last, start[None], donate=True)
            ys.append(y)
    assert_close(torch.cat(ys).double(), expected.ys, rtol=1e-3, atol=1e-4)
    assert_close([leaf.double() for leaf in last], list(expected.state), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("donate", [False, True])
def test_acting_changes_traces_in_place_where_they_are_given_away(donate):
    core = plastic(rule="clip", modulation="trace").float()
    xs, state = random_run(core)
    state = type(state)(*(leaf.clone() for leaf in state))
    before = [leaf.clone() for leaf in state]
    with torch.no_grad():
        last = core(xs[:1].float(), state, None, donate=donate).state
    for field in ("trace", "eligibility"):
        assert (getattr(last, field) is getattr(state, field)) == donate
    assert torch.equal(state.trace, before[1]) != donate


def test_acting_keeps_nan_to_its_row():
    core = plastic(rule="clip").float()
    xs, state = random_run(core, 2)
    state.trace[1, 2, 3] = torch.nan
    with torch.no_grad():
        ys, last, _ = core(xs.float(), state)
    assert ys[:, 1, 2].isnan().all()
    assert last.trace[1, 2, 3].isnan()
    assert not ys[:, 0].isnan().any()


@pytest.mark.parametrize("rule", ["hebb", "oja", "clip"])
def test_bounds(rule):
    """Over many steps, from nothing, at a rate of 0.6; without a rule they would grow with every step."""
    core = plastic(rule=rule)
    xs, _ = random_run(core, 300)
    output = core(xs, core.initial_state(2))
    assert 0.2 < output.state.trace.abs().max() <= (2 if rule == "oja" else 1)


def test_hebbian_traces_are_averages():
    """Of all products so far, each worth eta (1 - eta)^age."""
    core = plastic(rule="hebb")
    xs, _ = random_run(core, 20)
    ys, last, _ = core(xs, core.initial_state(2))
    products = ys[1:, :, :, None] * ys[:-1, :, None, :]
    ages = torch.arange(18, -1, -1, dtype=torch.float64)
    assert_close(last.trace, torch.einsum("t,tbij->bij", 0.6 * 0.4**ages, products))


@pytest.mark.parametrize("rule", ["hebb", "oja", "clip"])
def test_what_switches_plasticity_off(rule):
    core, fixed = plastic(rule=rule), plastic(alpha="none")
    xs, state = random_run(core)
    with torch.no_grad():
        core.eta.zero_()
        state = state._replace(trace=state.trace.clamp(-1, 1))
        assert_close(core(xs, state).state.trace, state.trace)  # no rate: traces stay
        core.eta.fill_(0.6)
        core.alpha.zero_()
        fixed.load_state_dict({name: x for name, x in core.state_dict().items() if name not in ("alpha", "eta")})
    assert_close(core(xs, state).ys, fixed(xs, fixed.FixedState(state.y)).ys)


def test_initial_weights():
    """Recurrent weights and plasticity not negative and below 0.01, the rate 0.01."""
    core = make_core("plastic", 17)
    for parameter in (core.weight_hh, core.alpha):
        assert 0 <= parameter.min() < 0.0001
        assert 0.0099 < parameter.max() < 0.01
    assert core.eta.item() == pytest.approx(0.01)


def test_reports():
    core = plastic(rule="clip", modulation="rate")
    xs, state = random_run(core)
    _, last, report = core(xs, state, None, core.diagnostics)
    assert_close(report["eta"], report["modulator"])
    assert_close(report["trace_size"][-1], last.trace.abs().mean((1, 2)))
    assert_close(report["memory_norm"][-1], last.trace.flatten(1).norm(dim=1))
    fixed = plastic(alpha="none")
    assert fixed.diagnostics == ("memory_norm",)
    ys, _, report = fixed(xs, fixed.initial_state(xs.shape[1]), None, fixed.diagnostics)
    assert_close(report["memory_norm"], ys.detach().norm(dim=2))
    assert "modulator" not in plastic().diagnostics
    still = plastic()
    assert_close(still(xs, state, None, ("eta",)).report["eta"], torch.full((12, 2), 0.6).double())


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("plastic-rnn", 12_305),
        ("plastic-homogeneous", 12_307),
        ("plastic", 22_306),
        ("plastic-clip", 22_306),
        ("plastic-modplast", 22_406),
        ("plastic-modul", 22_407),
    ],
)
def test_number_of_parameters(name, count):
    """With the heads of the maze programs, four actions and a value."""
    core = make_core(name, 17)
    assert sum(parameter.numel() for parameter in core.parameters()) + 5 * 101 == count


@pytest.mark.parametrize(
    ("choices", "text"),
    [
        ({"alpha": "none", "modulation": "rate"}, "modulation='rate', but it must be none where alpha='none'"),
        ({"rule": "oja", "modulation": "trace"}, "rule='oja', but it must be clip where modulation='trace'"),
    ],
)
def test_wrong_configurations(choices, text):
    with pytest.raises(ValueError, match=text):
        make_core("plastic", 3, **choices)
