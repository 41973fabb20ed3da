"""GRU: the equations, torch's own module between episode starts, reports, sizes."""

from itertools import pairwise

import pytest
import torch
from torch.testing import assert_close

from engram.policies import GRU, make_core


@pytest.fixture(params=[False, True], ids=["steps", "fused"])
def _both_forms(request, monkeypatch):
    """The sequence form of the CPU, and the one of other devices."""
    monkeypatch.setattr(GRU, "_is_fused", staticmethod(lambda device: request.param))


def gru(input_size=3, **choices):
    torch.manual_seed(0)
    return make_core("gru", input_size, **{"hidden_size": 5, **choices}).double()


def torch_gru(core):
    """torch.nn.GRU with the parameters of `core`, which it has under the same names."""
    module = torch.nn.GRU(core.input_size, core.output_size).double()
    module.load_state_dict({f"{name}_l0": parameter for name, parameter in core.named_parameters()})
    return module


def random_inputs(steps=9, batch_size=4):
    torch.manual_seed(1)
    state = GRU.State(torch.randn(batch_size, 5, dtype=torch.float64))
    return torch.randn(steps, batch_size, 3, dtype=torch.float64), state


def equations(core, x, h):
    """One step of one sequence: the next h, r and z."""
    given, recalled = core.weight_ih @ x + core.bias_ih, core.weight_hh @ h + core.bias_hh
    r, z = torch.sigmoid(given[:5] + recalled[:5]), torch.sigmoid(given[5:10] + recalled[5:10])
    candidate = torch.tanh(given[10:] + r * recalled[10:])
    return (1 - z) * candidate + z * h, r, z


def test_the_equations():
    core, (xs, state) = gru(), random_inputs()
    ys, last, report = core(xs, state, None, ("gates", "memory_norm"))
    for b in range(4):
        h = state.h[b]
        for t, x in enumerate(xs[:, b]):
            h, r, z = equations(core, x, h)
            assert_close(ys[t, b], h)
            assert_close(report["gates"][t, b], torch.stack([r.mean(), z.mean()]))
            assert_close(report["memory_norm"][t, b], h.norm())
        assert_close(last.h[b], h)


@pytest.mark.usefixtures("_both_forms")
@pytest.mark.parametrize("probability", [0.0, 0.1, 0.6])
def test_torch_gru_on_each_episode(probability):
    core, (xs, state) = gru(), random_inputs(steps=20)
    starts = torch.rand(20, 4) < probability
    ys, last, _ = core(xs, state, starts)
    module = torch_gru(core)
    for b in range(4):
        cuts = sorted({0, *starts[:, b].nonzero()[:, 0].tolist(), 20})
        for begin, end in pairwise(cuts):
            before = None if starts[begin, b] else state.h[None, b : b + 1]
            expected, after = module(xs[begin:end, b : b + 1], before)
            assert_close(ys[begin:end, b : b + 1], expected)
        assert_close(last.h[b], after[0, 0])


@pytest.mark.usefixtures("_both_forms")
def test_episodes_of_many_lengths():
    """From 1 step to 40 in one batch: values and gradients of stepping through them."""
    core, (xs, state) = gru(), random_inputs(steps=40, batch_size=6)
    xs.requires_grad_()
    state.h.requires_grad_()
    starts = torch.rand(40, 6) < torch.tensor([0.0, 0.02, 0.05, 0.1, 0.3, 1.0])
    output, expected = core(xs, state, starts), core.loop(xs, state, starts, ())
    assert_close(tuple(output), tuple(expected))
    weights = torch.randn(40, 6, 5, dtype=torch.float64)
    found, wanted = (
        torch.autograd.grad((weights * o.ys).sum() + o.state.h.sum(), [*core.parameters(), xs, state.h])
        for o in (output, expected)
    )
    for gradient, other in zip(found, wanted, strict=True):
        assert (gradient - other).abs().max() <= 1e-10 * other.abs().max()


def test_initial_parameters():
    """Uniform within 1 / sqrt(h), as torch.nn.GRU has them."""
    core = gru(input_size=40, hidden_size=64)
    for parameter in core.parameters():
        assert 0.11 < parameter.abs().max() <= 0.125
        assert parameter.std().item() == pytest.approx(0.125 / 3**0.5, rel=0.15)


def test_number_of_parameters():
    with torch.device("meta"):
        core = make_core("gru", 257)
    assert sum(parameter.numel() for parameter in core.parameters()) == 395_520
    assert sum(leaf[0].numel() for leaf in core.initial_state(1)) == 256


def test_wrong_sizes():
    with pytest.raises(ValueError, match=r"^GRU.Config: hidden_size=0, but it must be an integer of at least 1$"):
        make_core("gru", 3, hidden_size=0)
