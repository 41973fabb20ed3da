"""Steps per second of every environment on one core: `python -m benchmarks.envs` from the root of a checkout.

The vector environment with observations written, with and without copies; Gymnasium's SyncVectorEnv over the same
number of our own single environments; the ratio of the two that copy; and the seconds to make the levels of a split.
Below the table, an Atari game as it comes from here and from envpool alone.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy and Numba are loaded
os.environ.setdefault("NUMBA_NUM_THREADS", "1")

import argparse
import time

import envpool
import gymnasium
import numba
import numpy as np

from benchmarks.report import Report
from engram.envs import ENVS, env_options, make_vec

NUM_ENVS = 600
NUM_GAMES = 16
COLUMNS = {
    f"environment, {NUM_ENVS} members": "",
    "M steps/s, copy=False": ".2f",
    "M steps/s, copy=True": ".2f",
    "M steps/s, SyncVectorEnv": ".4f",
    "ratio": ".0f",
    "make, s": ".4f",
}


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
    make_vec(name, NUM_ENVS, **({"level_base_seed": 1} if "level_base_seed" in env_options(name) else {}))
    return time.perf_counter() - start


def atari_steps_per_second(seconds: float) -> tuple[float, float]:
    """Pong from here and from envpool alone, one thread each, in turns so that both meet the same machine."""
    pools = (
        make_vec("atari:Pong", NUM_GAMES, num_threads=1),
        envpool.make("Pong-v5", env_type="gymnasium", num_envs=NUM_GAMES, num_threads=1),
    )
    for envs in pools:
        envs.reset()
    actions = np.random.default_rng(0).integers(0, pools[0].single_action_space.n, (31, NUM_GAMES))
    times = ([], [])
    while sum(times[0]) < seconds:
        for row in actions:
            for envs, taken in zip(pools, times, strict=True):
                start = time.perf_counter()
                envs.step(row)
                taken.append(time.perf_counter() - start)
    here, alone = (NUM_GAMES / float(np.median(taken)) for taken in times)
    return here, alone


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0, help="time per measurement")
    parser.add_argument("--json", metavar="FILE", help="also write the numbers there")
    args = parser.parse_args()
    report = Report(numba.get_num_threads(), ("numpy", "numba", "gymnasium", "envpool"), COLUMNS)
    for name, (gymnasium_id, _) in ENVS.items():
        batched = make_vec(name, NUM_ENVS)
        actions = np.random.default_rng(0).integers(0, batched.single_action_space.n, (31, NUM_ENVS))
        copying = steps_per_second(batched, actions, args.seconds)
        shared = steps_per_second(make_vec(name, NUM_ENVS, copy=False), actions, args.seconds)
        singles = gymnasium.make_vec(gymnasium_id, NUM_ENVS, vectorization_mode="sync")
        one_by_one = steps_per_second(singles, actions, args.seconds)
        speeds = shared / 1e6, copying / 1e6, one_by_one / 1e6, copying / one_by_one
        report.add(name, *speeds, construction_seconds(name))
    here, alone = atari_steps_per_second(args.seconds)
    report.note(
        f"\natari:Pong, {NUM_GAMES} members: {here:.0f} steps/s, {here / alone:.1%} of envpool's {alone:.0f}",
        atari_steps_per_second=here,
        envpool_steps_per_second=alone,
    )
    if args.json:
        report.save(args.json)


if __name__ == "__main__":
    main()
