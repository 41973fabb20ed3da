"""Steps per second of every environment on one core: `python -m benchmarks.envs` from the root of a checkout.

The vector environment with observations written, with and without copies; Gymnasium's SyncVectorEnv over the same
number of our own single environments; the ratio of the two that copy; and the seconds to make the levels of a split.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy and Numba are loaded
os.environ.setdefault("NUMBA_NUM_THREADS", "1")

import argparse
import platform
import time

import gymnasium
import numba
import numpy as np

from engram.envs import ENVS, make_vec

NUM_ENVS = 600


def steps_per_second(envs, actions: np.ndarray, seconds: float) -> float:
    """Calls of `step` timed for a while after a warm-up; rows that only reset count as steps."""
    envs.reset(seed=0)
    for row in actions:
        envs.step(row)
    calls, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        for row in actions:
            envs.step(row)
        calls += len(actions)
    return calls * envs.num_envs / (time.perf_counter() - start)


def construction_seconds(name: str) -> float:
    """Time to make the vector environment of a level set not seen before, after compilation."""
    make_vec(name, NUM_ENVS)
    start = time.perf_counter()
    make_vec(name, NUM_ENVS, level_base_seed=1)
    return time.perf_counter() - start


def cpu() -> str:
    """Name of the processor."""
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="time per measurement")
    seconds = parser.parse_args().seconds
    print(f"{cpu()}, {os.cpu_count()} cores, {numba.get_num_threads()} thread; {NUM_ENVS} members")
    versions = f"numpy {np.__version__}, numba {numba.__version__}, gymnasium {gymnasium.__version__}"
    print(f"Python {platform.python_version()}, {versions}\n")
    print("| environment | M steps/s, copy=False | M steps/s, copy=True | M steps/s, SyncVectorEnv | ratio | make, s |")
    print("|---|---|---|---|---|---|")
    for name, (gymnasium_id, _) in ENVS.items():
        batched = make_vec(name, NUM_ENVS)
        actions = np.random.default_rng(0).integers(0, batched.single_action_space.n, (31, NUM_ENVS))
        copying = steps_per_second(batched, actions, seconds)
        shared = steps_per_second(make_vec(name, NUM_ENVS, copy=False), actions, seconds)
        singles = gymnasium.make_vec(gymnasium_id, NUM_ENVS, vectorization_mode="sync")
        one_by_one = steps_per_second(singles, actions, seconds)
        speeds = f"{shared / 1e6:.2f} | {copying / 1e6:.2f} | {one_by_one / 1e6:.4f} | {copying / one_by_one:.0f}"
        print(f"| {name} | {speeds} | {construction_seconds(name):.4f} |")


if __name__ == "__main__":
    main()
