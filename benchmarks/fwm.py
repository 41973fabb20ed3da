"""FWM and LSTM beside their loops, at the sizes of RESULTS.md: `python -m benchmarks.fwm` from the root of a checkout.

Forms of one function, as in `benchmarks.cores`: "learn" is the forward and backward pass of a sequence, "act" one step
without gradient, whose loop is the literal step in torch; nn.LSTM is of the same size, and knows no resets.
"""

import argparse
from collections.abc import Callable
from unittest.mock import patch

import torch

from benchmarks.cores import INPUT_SIZE, MIN_ROUNDS, acting, learning_forms, learning_lstm, measure
from benchmarks.report import Report
from engram.policies import CORES, LSTM, rows

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

    def row(name: str, forms: dict[str, Callable[[], None]], resets: float | None) -> None:
        rounds, times = measure(forms, args.seconds)
        ours, loop, torchs = times["ours"], times["loop"], times.get("LSTM")
        report.add(name, resets, rounds, ours, loop, loop / ours, torchs, torchs and torchs / ours)

    fwm = CORES["fwm"].build(INPUT_SIZE)
    row("fwm 32/16, learn, T=30, B=600", learning_forms(fwm, 30, 600, 0.0), 0.0)
    act, literal = acting(fwm, 600, 0.0), acting(fwm, 600, 0.0)

    def act_literally() -> None:
        with patch.object(rows, "acts", return_value=False):
            literal()

    row("fwm 32/16, act, B=600", {"ours": act, "loop": act_literally}, 0.0)
    for hidden_size in (32, 256):
        lstm = LSTM.Config(hidden_size).build(INPUT_SIZE)
        for T, B in ((31, 600), (256, 16)):
            for resets in (0.0, 0.01):
                forms = learning_forms(lstm, T, B, resets) | {"LSTM": learning_lstm(lstm, hidden_size, T, B)}
                row(f"lstm {hidden_size}, learn, T={T}, B={B}", forms, resets)
    if args.json:
        report.save(args.json)


if __name__ == "__main__":
    main()
