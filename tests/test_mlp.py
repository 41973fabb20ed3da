"""MLP: its layers, and that nothing outlasts a step."""

import pytest
import torch
from torch.testing import assert_close

from engram.policies import MLP, make_core


def mlp(**choices):
    torch.manual_seed(0)
    return make_core("mlp", 3, **{"hidden_size": 5, **choices}).double()


@pytest.mark.parametrize("num_layers", [1, 3])
def test_layers(num_layers):
    core, xs = mlp(num_layers=num_layers), torch.randn(4, 2, 3).double()
    expected = xs
    for layer in core.layers:
        expected = torch.einsum("oi,tbi->tbo", layer.weight, expected).add(layer.bias).clamp(min=0)
    assert len(core.layers) == num_layers
    assert_close(core(xs, core.initial_state(2)).ys, expected)


def test_nothing_is_remembered():
    """The outputs of steps are those of the steps in another order; the state is empty."""
    core, xs = mlp(), torch.randn(6, 2, 3).double()
    ys, state, _ = core(xs, core.initial_state(2))
    order = torch.randperm(6)
    assert_close(core(xs[order], state).ys, ys[order], rtol=0, atol=0)
    assert state == MLP.State() == ()


@pytest.mark.parametrize(("num_layers", "expected"), [(1, 66_048), (2, 131_840)])
def test_number_of_parameters(num_layers, expected):
    with torch.device("meta"):
        core = make_core("mlp", 257, num_layers=num_layers)
    assert sum(parameter.numel() for parameter in core.parameters()) == expected


def test_wrong_sizes():
    with pytest.raises(ValueError, match=r"^MLP.Config: num_layers=0, but it must be an integer of at least 1$"):
        mlp(num_layers=0)
