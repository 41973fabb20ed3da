"""LSTM: the equations, torch's own module between episode starts, options and sizes."""

from itertools import pairwise

import pytest
import torch
from torch.testing import assert_close

from engram.policies import LSTM, Policy, make_core
from engram.policies.actions import Categorical
from engram.policies.encoders import FlatEncoder


def lstm(input_size=3, **choices):
    torch.manual_seed(0)
    return make_core("lstm", input_size, **{"hidden_size": 5, **choices}).double()


def torch_lstm(core):
    """torch.nn.LSTM with the parameters of `core`, which it has under the same names."""
    module = torch.nn.LSTM(core.input_size, core.output_size).double()
    module.load_state_dict({f"{name}_l0": parameter for name, parameter in core.named_parameters()})
    return module


def random_inputs(steps=9, batch_size=4):
    torch.manual_seed(1)
    state = LSTM.State(*torch.randn(2, batch_size, 5, dtype=torch.float64))
    return torch.randn(steps, batch_size, 3, dtype=torch.float64), state


def test_one_step_of_the_equations():
    core, (xs, state) = lstm(forget_bias=0.7), random_inputs()
    i, f, g, o = (core.weight_ih @ xs[0].T + core.weight_hh @ state.h.T).T.add(core.bias_ih + core.bias_hh).split(5, 1)
    c = torch.sigmoid(f + 0.7) * state.c + torch.sigmoid(i) * torch.tanh(g)
    ys, (h, last_c), _ = core.step(xs[0], state)
    assert_close(last_c, c)
    assert_close(h, torch.sigmoid(o) * torch.tanh(c))
    assert_close(ys, h)


@pytest.mark.parametrize("probability", [0.0, 0.1, 0.6])
def test_torch_lstm_on_each_episode(probability):
    core, (xs, state) = lstm(), random_inputs(steps=20)
    starts = torch.rand(20, 4) < probability
    ys, last, _ = core(xs, state, starts)
    module = torch_lstm(core)
    for b in range(4):
        cuts = sorted({0, *starts[:, b].nonzero()[:, 0].tolist(), 20})
        for begin, end in pairwise(cuts):
            before = None if starts[begin, b] else tuple(leaf[None, b : b + 1] for leaf in state)
            expected, after = module(xs[begin:end, b : b + 1], before)
            assert_close(ys[begin:end, b : b + 1], expected)
        assert_close([leaf[b] for leaf in last], [leaf[0, 0] for leaf in after])


@pytest.mark.parametrize("scale", [1, 1e6])
def test_episodes_of_many_lengths(scale):
    """From 1 step to 40 in one batch, and inputs of any size: values and gradients of stepping through them."""
    core, (xs, state) = lstm(), random_inputs(steps=40, batch_size=6)
    xs = (scale * xs).requires_grad_()
    starts = torch.rand(40, 6) < torch.tensor([0.0, 0.02, 0.05, 0.1, 0.3, 1.0])
    output, expected = core(xs, state, starts), core.loop(xs, state, starts, ())
    assert_close(tuple(output), tuple(expected))
    weights = torch.randn(40, 6, 5, dtype=torch.float64)
    totals = [(weights * o.ys).sum() + o.state.c.sum() for o in (output, expected)]
    found, wanted = (torch.autograd.grad(total, [*core.parameters(), xs]) for total in totals)
    for gradient, other in zip(found, wanted, strict=True):
        assert (gradient - other).abs().max() <= 1e-10 * other.abs().max()


def test_saturated_gates_sum_their_inputs():
    """Without recurrent weights, with open gates, the cell adds up tanh of what it is shown."""
    core, (xs, _) = lstm(), random_inputs()
    with torch.no_grad():
        for parameter in core.parameters():
            parameter.zero_()
        core.weight_ih.view(4, 5, 3)[2, :3] = torch.eye(3)
        for gate in (0, 1, 3):
            core.bias_ih.view(4, 5)[gate] = 50
    ys, state, _ = core(xs, core.initial_state(4))
    sums = xs.tanh().cumsum(0)
    assert_close(ys[..., :3], sums.tanh())
    assert_close(state.c[:, :3], sums[-1])
    assert not ys[..., 3:].any()


def test_forget_bias_is_a_bias():
    core, (xs, state) = lstm(forget_bias=1.5), random_inputs()
    shifted = lstm()
    assert_close(shifted.state_dict(), core.state_dict())
    with torch.no_grad():
        shifted.bias_ih[5:10] += 1.5
    assert_close(core(xs, state).ys, shifted(xs, state).ys)
    assert_close(core.step(xs[0], state).ys, shifted.step(xs[0], state).ys)


def test_one_bias():
    core, (xs, state) = lstm(two_biases=False), random_inputs()
    assert [name for name, _ in core.named_parameters()] == ["weight_ih", "weight_hh", "bias_ih"]
    both = lstm()
    both.load_state_dict({**core.state_dict(), "bias_hh": torch.zeros(20)})
    assert_close(core(xs, state).ys, both(xs, state).ys)


def test_reports():
    core, (xs, state) = lstm(forget_bias=0.7), random_inputs()
    starts = torch.zeros(9, 4, dtype=torch.bool)
    starts[3, 1] = starts[8, 2] = True
    _, last, report = core(xs, state, starts, ("gates", "memory_norm"))
    assert_close(report["memory_norm"][-1], last.c.norm(dim=1))
    before = core.reset(core(xs[:8], state, starts[:8]).state, starts[8])
    gates = (xs[8] @ core.weight_ih.T + before.h @ core.weight_hh.T + core.bias_ih + core.bias_hh).view(4, 4, 5)
    expected = [gates[:, 0].sigmoid(), (gates[:, 1] + 0.7).sigmoid(), gates[:, 2].tanh(), gates[:, 3].sigmoid()]
    assert_close(report["gates"][-1], torch.stack([gate.mean(1) for gate in expected], dim=1))


def test_initial_parameters():
    """Uniform within 1 / sqrt(h), as torch.nn.LSTM has them."""
    core = lstm(input_size=40, hidden_size=64)
    for parameter in core.parameters():
        assert 0.11 < parameter.abs().max() <= 0.125
        assert parameter.std().item() == pytest.approx(0.125 / 3**0.5, rel=0.15)


@pytest.mark.parametrize(
    ("hidden_size", "expected"), [(512, 1_089_540), (1024, 4_276_228), (2048, 16_941_060), (4096, 67_436_548)]
)
def test_agents_are_as_large_as_in_the_paper(hidden_size, expected):
    """17 inputs, 3 actions and a value: what FWM is compared with in Schlag et al. 2021, Fig. 5 (67.4M the largest)."""
    with torch.device("meta"):
        policy = Policy(FlatEncoder((17,)), make_core("lstm", 17, hidden_size=hidden_size), Categorical(3))
    assert sum(parameter.numel() for parameter in policy.parameters()) == expected


@pytest.mark.parametrize(("choices", "expected"), [({}, 527_360), ({"two_biases": False}, 526_336)])
def test_number_of_parameters(choices, expected):
    with torch.device("meta"):
        core = make_core("lstm", 257, **choices)
    assert sum(parameter.numel() for parameter in core.parameters()) == expected
