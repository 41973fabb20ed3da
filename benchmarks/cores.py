"""Fast forms of the memory cores beside their literal loops: `python -m benchmarks.cores` from the root of a checkout.

One row compares forms of one function in this process, float32 on the CPU: medians over rounds in which each form runs
once. "learn" is the forward and backward pass of a sequence [T, B] from the initial state, with gradients of all
parameters; "act" is one step without gradient. "loop" is `Core.loop`, the recurrence of the paper one step after the
other; nn.LSTM is torch's, of the same size, and knows no resets. A ratio above 1 says how many times as fast ours is.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from unittest.mock import patch

import torch
from torch import Tensor, nn

from benchmarks.report import Report
from engram.policies import CORES, FWM, LSTM, Core, fwm_kernel

INPUT_SIZE = 17  # observations of graph-pomdp
MIN_ROUNDS = 5
COLUMNS = {
    "core, what, T, B, input": "",
    "resets": ".0%",
    "rounds": "d",
    "ours, ms": ".2f",
    "loop, ms": ".2f",
    "loop / ours": ".2f",
    "nn.LSTM, ms": ".2f",
    "nn.LSTM / ours": ".2f",
}


def learning(run: Callable[[Tensor], Tensor], module: nn.Module, xs: Tensor) -> Callable[[], None]:
    """The forward and backward pass of a sequence through `run`: xs [T, B, D] -> ys [T, B, Y]."""

    def once():
        module.zero_grad()
        run(xs).square().mean().backward()

    return once


def learning_forms(core: Core, T: int, B: int, resets: float) -> dict[str, Callable[[], None]]:
    """The forms of `core`, and torch's LSTM beside one of ours. All rows start an episode at t = 0, and later steps do
    with probability `resets`."""
    xs = torch.randn(T, B, core.input_size)
    starts = torch.rand(T, B) < resets
    starts[0] = True
    state = core.initial_state(B)
    forms = {
        "ours": learning(lambda xs: core(xs, state, starts).ys, core, xs),
        "loop": learning(lambda xs: core.loop(xs, state, starts, ()).ys, core, xs),
    }
    if isinstance(core, LSTM):
        lstm = nn.LSTM(core.input_size, core.output_size)
        forms["nn.LSTM"] = learning(lambda xs: lstm(xs)[0], lstm, xs)
    return forms


def acting_forms(core: FWM, B: int) -> dict[str, Callable[[], None]]:
    """A step as `collect` takes it, its state donated, and the same step of the literal form in torch."""
    xs, starts = torch.randn(1, B, core.input_size), torch.zeros(1, B, dtype=torch.bool)
    states = {"ours": core.initial_state(B), "loop": core.initial_state(B)}

    @torch.no_grad()
    def act(form: str) -> None:
        states[form] = core(xs, states[form], starts, donate=True).state

    def act_literally() -> None:
        with patch.object(fwm_kernel, "supports", return_value=False):
            act("loop")

    return {"ours": lambda: act("ours"), "loop": act_literally}


def measure(forms: dict[str, Callable[[], None]], seconds: float) -> tuple[int, dict[str, float]]:
    """Rounds, and the median milliseconds of each form, for about `seconds` after a warm-up."""
    for form in forms.values():
        form()
    times = {name: [] for name in forms}
    begun, rounds = time.perf_counter(), 0
    while rounds < MIN_ROUNDS or time.perf_counter() - begun < seconds:
        for name, form in forms.items():
            start = time.perf_counter()
            form()
            times[name].append(1000 * (time.perf_counter() - start))
        rounds += 1
    return rounds, {name: statistics.median(taken) for name, taken in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help=f"per row, and at least {MIN_ROUNDS} rounds")
    parser.add_argument("--threads", type=int, help="of torch; its own choice if not given")
    parser.add_argument("--json", metavar="FILE", help="also write the numbers there")
    args = parser.parse_args()
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    report = Report(torch.get_num_threads(), ("torch", "numba"), COLUMNS)

    def row(name: str, forms: dict[str, Callable[[], None]], resets: float | None = None) -> None:
        rounds, times = measure(forms, args.seconds)
        ours, loop, torchs = times["ours"], times["loop"], times.get("nn.LSTM")
        report.add(name, resets, rounds, ours, loop, loop / ours, torchs, torchs and torchs / ours)

    fwm = CORES["fwm"].build(INPUT_SIZE)
    row("fwm 32/16, learn, T=30, B=600", learning_forms(fwm, 30, 600, 0.0), 0.0)
    row("fwm 32/16, act, B=600", acting_forms(fwm, 600))
    for hidden_size in (32, 256):
        lstm = LSTM.Config(hidden_size).build(INPUT_SIZE)
        for T, B in ((31, 600), (256, 16)):
            for resets in (0.0, 0.01):
                row(f"lstm {hidden_size}, learn, T={T}, B={B}", learning_forms(lstm, T, B, resets), resets)
    for name, config in CORES.items():
        row(f"{name} as registered, learn, T=64, B=64", learning_forms(config.build(INPUT_SIZE), 64, 64, 0.01), 0.01)
    if args.json:
        report.save(args.json)


if __name__ == "__main__":
    main()
