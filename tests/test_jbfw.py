"""JBFW: the equations written naively, the closed form of its fast weights, what is left without them."""

import pytest
import torch
from torch.testing import assert_close

from engram.policies import JBFW, make_core


def jbfw(**choices):
    torch.manual_seed(0)
    core = make_core("jbfw", 5, **{"hidden_size": 6, **choices}).double()
    with torch.no_grad():
        for parameter in core.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return core


def random_inputs(steps=9, batch_size=3):
    torch.manual_seed(1)
    h = torch.randn(batch_size, 6, dtype=torch.float64)
    return torch.randn(steps, batch_size, 5, dtype=torch.float64), JBFW.State(h, h[:, :, None] * h[:, None, :] / 6)


def literal(core, x, h, fast):
    """One step of one sequence."""
    config = core.config

    def norm(z):
        return (z - z.mean()) / (z.var(correction=0) + 1e-5).sqrt() * core.norm.weight + core.norm.bias

    fast = config.decay * fast + config.learning_rate * torch.outer(h, h)
    given = core.recurrent.weight @ h + core.input.weight @ x + core.input.bias
    h = norm(given).clamp(min=0)
    for _ in range(config.inner_steps):
        h = norm(given + fast @ h).clamp(min=0)
    return h, fast


@pytest.mark.parametrize("choices", [{}, {"inner_steps": 3, "decay": 0.5}, {"decay": 0.0}], ids=str)
def test_the_equations(choices):
    core, (xs, state) = jbfw(**choices), random_inputs(steps=40)
    for output in (core(xs, state), core.loop(xs, state, None, ())):
        for b in range(3):
            h, fast = state.h[b], state.fast[b]
            for t, x in enumerate(xs[:, b]):
                h, fast = literal(core, x, h, fast)
                assert_close(output.ys[t, b], h, rtol=1e-10, atol=1e-10)
            assert_close(output.state.h[b], h, rtol=1e-10, atol=1e-10)
            assert_close(output.state.fast[b], fast, rtol=1e-10, atol=1e-10)


def test_fast_weights_are_the_decayed_past():
    """A_t = eta sum_s lambda^(t - 1 - s) h_s h_s^T over earlier steps: symmetric, with no negative eigenvalue."""
    core, (xs, _) = jbfw(learning_rate=0.7, decay=0.9), random_inputs()
    hidden, state, _ = core(xs, core.initial_state(3))
    weights = 0.7 * 0.9 ** torch.arange(7, -1, -1)
    fast = torch.einsum("s,sbi,sbj->bij", weights.double(), hidden[:8], hidden[:8])
    assert_close(state.fast, fast, rtol=1e-6, atol=1e-6)
    assert_close(state.fast, state.fast.mT)
    assert torch.linalg.eigvalsh(state.fast).min() > -1e-12


def test_without_learning_it_is_a_recurrent_network_with_layer_norm():
    core, (xs, _) = jbfw(learning_rate=0.0), random_inputs()
    ys, state, _ = core(xs, core.initial_state(3))
    h = torch.zeros(3, 6).double()
    for x, y in zip(xs, ys, strict=True):
        h = core.norm(core.input(x) + core.recurrent(h)).relu()
        assert_close(y, h)
    assert not state.fast.any()


def test_reports_are_what_the_fast_weights_attend_to():
    """A h at the last inner step is a sum over the past, weighted by inner products of `hidden` with `query`."""
    core, (xs, _) = jbfw(inner_steps=2), random_inputs()
    ys, state, report = core(xs, core.initial_state(3), None, core.diagnostics)
    assert_close(report["hidden"], ys)
    assert report["query"].shape == (9, 3, 2, 6)
    assert_close(report["memory_norm"][-1], state.fast.flatten(1).norm(dim=1))
    assert_close(report["write_strength"][1:], core.config.learning_rate * ys[:-1].detach().square().sum(2))
    scores = torch.einsum("sbi,bi->sb", report["hidden"][:8], report["query"][-1, :, 1])
    decays = 0.5 * 0.95 ** torch.arange(7, -1, -1, dtype=torch.float64)
    read = torch.einsum("s,sb,sbi->bi", decays, scores, report["hidden"][:8])
    given = core.input(xs[-1]) + core.recurrent(ys[-2])
    assert_close(core.norm(given + read).relu(), ys[-1])


def test_initial_parameters():
    core = make_core("jbfw", 5)
    assert_close(core.recurrent.weight.detach(), 0.05 * torch.eye(100))


@pytest.mark.parametrize(("sizes", "expected"), [((256, 512), 394_752), ((17, 100), 12_000)])
def test_number_of_parameters(sizes, expected):
    """The first is catbAbI's, whose state of 263k numbers is that of Schlag et al. 2021, Table 1."""
    input_size, hidden_size = sizes
    with torch.device("meta"):
        core = make_core("jbfw", input_size, hidden_size=hidden_size)
    assert sum(parameter.numel() for parameter in core.parameters()) == expected
    assert sum(leaf[0].numel() for leaf in core.initial_state(1)) == hidden_size**2 + hidden_size


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"decay": 1.5}, "decay=1.5, but it must be between 0 and 1"),
        ({"learning_rate": -0.1}, "learning_rate=-0.1, but it must be at least 0"),
        ({"inner_steps": 0}, "inner_steps=0, but it must be an integer of at least 1"),
    ],
)
def test_wrong_choices(choices, message):
    with pytest.raises(ValueError, match=f"^JBFW.Config: {message}$"):
        jbfw(**choices)


@pytest.mark.parametrize("inner_steps", [1, 2])
def test_acting(inner_steps):
    """The compiled step, many times in place with episodes ending, against the literal recurrence in float64."""
    core, (xs, state) = jbfw(inner_steps=inner_steps), random_inputs(30)
    starts = torch.rand(30, 3) < 0.2
    expected = core.loop(xs, state, starts, ())
    core, state = core.float(), JBFW.State(*(leaf.float() for leaf in state))
    with torch.no_grad():
        whole = core(xs.float(), state, starts)
        ys = []
        for x, start in zip(xs.float(), starts, strict=True):
            y, state, _ = core(x[None], state, start[None], donate=True)
            ys.append(y)
    assert_close(tuple(whole[:2]), (torch.cat(ys), state), rtol=1e-4, atol=1e-5)
    assert_close(whole.ys.double(), expected.ys, rtol=1e-4, atol=1e-5)
    assert_close(state.fast.double(), expected.state.fast, rtol=1e-4, atol=1e-5)
