"""ConvLSTM: its equations written naively, the LSTM it contains, translations, sizes, errors."""

import pytest
import torch
from torch.testing import assert_close

from engram.policies import LSTM, make_core


def convlstm(input_size, **choices):
    torch.manual_seed(0)
    core = make_core("convlstm", input_size, **choices).double()
    with torch.no_grad():
        core.bias.copy_(torch.randn_like(core.bias))
    return core


def random_run(core, steps=5, batch_size=2):
    torch.manual_seed(1)
    state = core.State(*(0.5 * torch.randn_like(leaf) for leaf in core.initial_state(batch_size)))
    return torch.randn(steps, batch_size, core.input_size, dtype=torch.float64), state


def literal(core, xs, state):
    """One number at a time, for one row."""
    config, k = core.config, core.config.kernel_size
    C, before = config.channels, (core.config.kernel_size - 1) // 2
    h, c = state.h[0], state.c[0]

    def convolved(kernel, maps, row, column):
        total = torch.zeros(4 * C, dtype=torch.float64)
        for di in range(k):
            for dj in range(k):
                i, j = row + di - before, column + dj - before
                if 0 <= i < config.height and 0 <= j < config.width:
                    total = total + kernel[:, :, di, dj] @ maps[:, i, j]
        return total

    ys = []
    for x in xs[:, 0]:
        maps, new_h, new_c = x.view(-1, config.height, config.width), torch.empty_like(h), torch.empty_like(c)
        for row in range(config.height):
            for column in range(config.width):
                gates = convolved(core.kernel_x, maps, row, column) + convolved(core.kernel_h, h, row, column)
                i, j, f, o = (gates + core.bias).split(C)
                cell = torch.sigmoid(f + config.forget_bias) * c[:, row, column] + torch.sigmoid(i) * torch.tanh(j)
                new_c[:, row, column] = cell
                new_h[:, row, column] = torch.tanh(cell) * torch.sigmoid(o)
        h, c = new_h, new_c
        ys.append(h.flatten())
    return torch.stack(ys)[:, None], (h[None], c[None])


@torch.no_grad()
@pytest.mark.parametrize(
    "choices", [{}, {"kernel_size": 3}, {"kernel_size": 4}, {"kernel_size": 1, "forget_bias": 0.0}]
)
def test_the_equations(choices):
    core = convlstm(12, channels=3, height=2, width=3, **choices)
    xs, state = random_run(core, batch_size=1)
    ys, last = literal(core, xs, state)
    for output in (core(xs, state), core.loop(xs, state, None, ())):
        assert_close(output.ys, ys, rtol=1e-9, atol=1e-10)
        assert_close(tuple(output.state), last, rtol=1e-9, atol=1e-10)


def test_golden_run():
    """Of maps of 3 x 3; weights and inputs as in the golden runs of `test_cores.py`."""
    core = make_core("convlstm", 9, channels=2, height=3, width=3).double()
    with torch.no_grad():
        for j, parameter in enumerate(core.parameters()):
            n = torch.arange(parameter.numel(), dtype=torch.float64).view_as(parameter)
            parameter.copy_(0.4 * torch.sin(1 + 0.37 * j + 0.71 * n))
    t, b, i = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in (4, 2, 9)), indexing="ij")
    starts = torch.zeros(4, 2, dtype=torch.bool)
    starts[2, 1] = True
    ys, state, _ = core(torch.sin(0.5 + 0.9 * t + 1.3 * b + 0.41 * i), core.initial_state(2), starts)
    numbers = [*ys[3, 0, :4].tolist(), ys.sum().item(), *(leaf.square().sum().item() for leaf in state)]
    expected = [-0.08084583, -0.13680711, -0.15508567, -0.24080715, -5.17804409, 0.89101337, 3.71280713]
    assert numbers == pytest.approx(expected, rel=1e-7, abs=1e-7)


@pytest.mark.parametrize("kernel_size", [1, 2, 3])
def test_a_single_position_is_an_lstm(kernel_size):
    """With the middle of the kernels for weights; gate rows i, j, f, o are i, f, g, o there."""
    core = convlstm(3, channels=4, kernel_size=kernel_size)
    lstm = LSTM(3, LSTM.Config(4, forget_bias=1.0, two_biases=False)).double()
    middle = (kernel_size - 1) // 2
    rows = torch.arange(16).view(4, 4)[[0, 2, 1, 3]].flatten()
    with torch.no_grad():
        lstm.weight_ih.copy_(core.kernel_x[rows, :, middle, middle])
        lstm.weight_hh.copy_(core.kernel_h[rows, :, middle, middle])
        lstm.bias_ih.copy_(core.bias[rows])
    xs, state = random_run(core)
    output, expected = core(xs, state), lstm(xs, LSTM.State(*(leaf.flatten(1) for leaf in state)))
    assert_close(output.ys, expected.ys)
    assert_close(output.state.c.flatten(1), expected.state.c)


def test_numbers_behind_the_maps_are_spread():
    """A core that is given them as whole maps does the same."""
    core, whole = (convlstm(size, channels=3, height=2, width=3) for size in (12 + 2, 12 + 2 * 6))
    assert [p.shape for p in core.parameters()] == [p.shape for p in whole.parameters()]
    whole.load_state_dict(core.state_dict())
    xs, state = random_run(core)
    spread = torch.cat([xs[..., :12], xs[..., 12:].repeat_interleave(6, -1)], -1)
    assert_close(core(xs, state).ys, whole(spread, state).ys)


def test_translation():
    """Where the border of the map is farther away than two steps reach, moved inputs move the outputs."""
    core = convlstm(2 * 6 * 6, channels=2, height=6, width=6)
    xs = torch.randn(2, 1, 2, 6, 6, dtype=torch.float64)
    moved = xs.roll((1, 1), dims=(3, 4))
    ys, moved_ys = (core(x.flatten(2), core.initial_state(1)).ys.view(2, 1, 2, 6, 6) for x in (xs, moved))
    assert_close(moved_ys[..., 1:4, 1:4], ys[..., :3, :3])
    assert not torch.allclose(moved_ys[..., 5, 5], ys[..., 4, 4]), "there the border is seen"


def test_report():
    core = convlstm(12, channels=2, height=2, width=3)
    xs = torch.randn(4, 3, 12, dtype=torch.float64)
    _, last, report = core(xs, core.initial_state(3), None, core.diagnostics)
    assert_close(report["memory_norm"][-1], last.c.square().sum((1, 2, 3)).sqrt())


@pytest.mark.parametrize(("inputs", "count"), [(26, 92_416), (1, 66_816)])
def test_number_of_parameters(inputs, count):
    """26 inputs: the baseline on Box-World."""
    core = make_core("convlstm", 25 * inputs, height=5, width=5)
    assert sum(parameter.numel() for parameter in core.parameters()) == count
    assert core.output_size == 64 * 25


def test_initial_weights():
    """Within two deviations of 1 / sqrt(fan in), which they nearly reach; biases zero."""
    core = make_core("convlstm", 25 * 26, height=5, width=5)
    for kernel in (core.kernel_x, core.kernel_h):
        bound = 2 / (kernel[0].numel()) ** 0.5
        assert 0.99 * bound < kernel.abs().max() <= bound
    assert not core.bias.any()


@pytest.mark.parametrize(
    ("choices", "text"),
    [
        ({"height": 13}, "height=13, but it must be at most 12, as inputs have 12 numbers"),
        ({"height": 2, "width": 7}, "width=7, but it must be at most 6, as inputs have 12 numbers"),
    ],
)
def test_maps_that_do_not_fit(choices, text):
    with pytest.raises(ValueError, match=text):
        make_core("convlstm", 12, **choices)
