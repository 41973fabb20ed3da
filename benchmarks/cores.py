"""Speed and memory of every core of the registry: `python -m benchmarks.cores` from the root of a checkout.

A row is a core as registered, float32, in this process; times are medians over rounds in which each form runs once.
Learning is the forward and backward pass of a sequence of T steps in B rows, with the gradients of all parameters; an
episode starts at t = 0 and at 1 % of the later steps. Beside it

    loop    `Core.loop`, the recurrence of the paper one step after the other: how many times as long it takes
    LSTM    torch's nn.LSTM, which knows no resets, with as many bytes of state: how many times as long it takes
    MiB     what the pass adds to the memory in use at its peak, of our form: resident memory of a fresh process each,
            or what is allocated on the device

Acting is one step without gradient as `collect` takes it, the state donated, an episode starting in 1 % of the rows.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import torch
from torch import Tensor, nn

from benchmarks.report import Report
from engram.policies import CORES, Core, core_config

INPUT_SIZE = 17  # observations of graph-pomdp
RESETS = 0.01
LEARNING = ((64, 64), (256, 16))  # T, B
ACTING = (1, 64, 600)  # B
MIN_ROUNDS = 3
WIDE_LSTM, WIDEST_LSTM = 1024, 6000
"""units from which a quarter of the steps is timed and multiplied by four, as all of them take alike; units beyond
which weights and gradients take gigabytes, and the cell stays empty"""
COLUMNS = {"core": "", "state, KiB": ".1f"}
for T, B in LEARNING:
    COLUMNS |= {f"T={T} B={B}, ms": ".1f", f"{B}: loop": ".1f", f"{B}: LSTM": ".2f", f"{B}: MiB": ".0f"}
COLUMNS |= {f"act B={B}, ms": ".2f" for B in ACTING}


def learning(run: Callable[[Tensor], Tensor], module: nn.Module, xs: Tensor) -> Callable[[], None]:
    """The forward and backward pass of a sequence through `run`: xs [T, B, D] -> ys [T, B, Y]."""

    def once():
        module.zero_grad()
        run(xs).square().mean().backward()
        if xs.is_cuda:
            torch.cuda.synchronize()

    return once


def learning_forms(core: Core, T: int, B: int, resets: float) -> dict[str, Callable[[], None]]:
    """The forms of `core`. All rows start an episode at t = 0, and later steps do with probability `resets`."""
    state = core.initial_state(B)
    device = next(core.parameters()).device
    xs, starts = torch.randn(T, B, core.input_size, device=device), torch.rand(T, B, device=device) < resets
    starts[0] = True
    return {
        "ours": learning(lambda xs: core(xs, state, starts).ys, core, xs),
        "loop": learning(lambda xs: core.loop(xs, state, starts, ()).ys, core, xs),
    }


def learning_lstm(core: Core, hidden_size: int, T: int, B: int) -> Callable[[], None]:
    """The same pass of torch's LSTM, on the core's inputs and device."""
    device = next(core.parameters()).device
    lstm = nn.LSTM(core.input_size, hidden_size, device=device)
    return learning(lambda xs: lstm(xs)[0], lstm, torch.randn(T, B, core.input_size, device=device))


def acting(core: Core, B: int, resets: float) -> Callable[[], None]:
    """A step as `collect` takes it; an episode starts in each row with probability `resets`."""
    device = next(core.parameters()).device
    xs, starts = torch.randn(1, B, core.input_size, device=device), torch.rand(1, B, device=device) < resets
    state = core.initial_state(B)

    @torch.no_grad()
    def once():
        nonlocal state
        state = core(xs, state, starts, donate=True).state
        if xs.is_cuda:
            torch.cuda.synchronize()

    return once


def measure(
    forms: dict[str, Callable[[], None]], seconds: float, min_rounds: int = MIN_ROUNDS
) -> tuple[int, dict[str, float]]:
    """Rounds, and the median milliseconds of each form, for about `seconds` after a warm-up."""
    for form in forms.values():
        form()
    times = {name: [] for name in forms}
    begun, rounds = time.perf_counter(), 0
    while rounds < min_rounds or time.perf_counter() - begun < seconds:
        for name, form in forms.items():
            start = time.perf_counter()
            form()
            times[name].append(1000 * (time.perf_counter() - start))
        rounds += 1
    return rounds, {name: statistics.median(taken) for name, taken in times.items()}


def learning_times(core: Core, T: int, B: int, seconds: float, min_rounds: int) -> tuple[float, float, float | None]:
    """Milliseconds of ours, and how many times as long the loop and the LSTM take."""
    forms = learning_forms(core, T, B, RESETS)
    hidden_size = state_size(core) // 2
    part = 4 if hidden_size >= WIDE_LSTM else 1
    if 0 < hidden_size <= WIDEST_LSTM:
        forms["LSTM"] = learning_lstm(core, hidden_size, T // part, B)
    _, times = measure(forms, seconds, min_rounds)
    ours = times["ours"]
    return ours, times["loop"] / ours, part * times["LSTM"] / ours if "LSTM" in times else None


def peak_memory(*args) -> float:
    """What `measure_peak` gives in a fresh process, which is gone before anything else is timed."""
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        return process.submit(measure_peak, *args).result()


def measure_peak(name: str, T: int, B: int, device: str, threads: int) -> float:
    """MiB that a learning pass adds at its peak. On the CPU this process has to be a fresh one."""
    torch.set_num_threads(threads)
    core = core_config(name).build(INPUT_SIZE).to(device)
    learning_forms(core, 2, 2, 0.0)["ours"]()  # compiles
    core.zero_grad()
    once = learning_forms(core, T, B, RESETS)["ours"]
    if device == "cpu":
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # forget the peak so far
        before = resident("VmRSS")
        once()
        return (resident("VmHWM") - before) / 1024
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    once()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def resident(which: str) -> int:
    """KiB of memory of this process, now (VmRSS) or at its peak (VmHWM)."""
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(which))


def state_size(core: Core) -> int:
    """Numbers in the state of one row."""
    return sum(leaf.numel() for leaf in core.initial_state(1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cores", metavar="A,B", help="names; all of the registry if not given")
    parser.add_argument("--quick", action="store_true", help="single rounds and no memory: a look, not a measurement")
    parser.add_argument("--seconds", type=float, default=3.0, help=f"per measurement, and at least {MIN_ROUNDS} rounds")
    parser.add_argument("--threads", type=int, help="of torch; its own choice if not given")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--json", metavar="FILE", help="also write the numbers there")
    args = parser.parse_args()
    names = args.cores.split(",") if args.cores else list(CORES)
    configs = {name: core_config(name) for name in names}
    seconds, min_rounds = (0.0, 1) if args.quick else (args.seconds, MIN_ROUNDS)
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    threads = torch.get_num_threads()
    torch.manual_seed(0)
    report = Report(threads, ("torch", "numba"), COLUMNS)
    for name, config in configs.items():
        core, cells = config.build(INPUT_SIZE).to(args.device), []
        for T, B in LEARNING:
            cells += learning_times(core, T, B, seconds, min_rounds)
            cells.append(None if args.quick else peak_memory(name, T, B, args.device, threads))
        cells += (measure({"ours": acting(core, B, RESETS)}, seconds / 3, min_rounds)[1]["ours"] for B in ACTING)
        report.add(name, state_size(core) / 256, *cells)
    if args.json:
        report.save(args.json)


if __name__ == "__main__":
    main()
