"""Judge trained agents: python eval_rl.py RUN [RUN ...] (--help shows every choice)."""

import argparse
import json
import sys
from collections.abc import Callable
from math import isfinite
from pathlib import Path
from typing import Any

from gymnasium.error import DependencyNotInstalled
from rich.console import Console
from rich.table import Table

from engram import envs
from engram.agents.config import from_json
from engram.agents.evaluate import PolicyActor, ReferenceActor, evaluate, members
from engram.agents.stepper import EnvError
from engram.checkpoint import write_atomically
from engram.command_line import ConfigError
from engram.policies import make_policy
from engram.run import RunError, fitting, load_checkpoint, read_config

AGENT = "agent"
"""name of the trained policy among the scores; the others are reference policies"""


def score(folder: str, split: str, episodes: int | None, seed: int, greedy: bool) -> list[dict[str, Any]]:
    """Scores of a run's newest checkpoint and of the reference policies, on the same levels from the same seeds.

    Args: episodes: as many for each policy; None for one on every level, or where there are no levels, as many as an
          evaluation during training had.
    """
    config = from_json(read_config(folder))
    step, state = load_checkpoint(folder)
    options = config.env.options(split) | envs.evaluation_options(config.env.name)
    num_levels = config.env.num_levels()
    finite = num_levels is not None and isfinite(num_levels)
    episodes = episodes or (num_levels if finite else config.eval_episodes)
    if finite and options.get("level_sampling") == "fixed" and options["split"] == config.env.options()["split"]:
        num_levels = min(num_levels, config.env.num_envs)  # member i trained on level i, and no other level was seen
    played = envs.make_vec(config.env.name, members(episodes, num_levels, config.env.num_envs), **options)
    policy = make_policy(config.core, played, **vars(config.policy))
    with fitting(folder):
        policy.load_state_dict(state["learner"]["policy"])

    actors = {AGENT: PolicyActor(policy, played.num_envs, seed, greedy)}
    for name, reference in envs.reference_policies(config.env.name).items():
        actors[name] = ReferenceActor(reference(played, seed))
    shared = {"run": folder, "env": config.env.name, "core": config.core_name, "step": step, "seed": seed}
    shared |= {"split": options.get("split"), "actions": "greedy" if greedy else "sampled", "episodes": episodes}
    rows = []
    for name, actor in actors.items():
        result = evaluate(actor, played, episodes, seed, num_levels)
        scores = {"mean": result.mean, "standard_error": result.standard_error, "success_rate": result.success_rate}
        rows.append(shared | {"policy": name, **scores})
    return rows


def table(rows: list[dict[str, Any]]) -> Table:
    """The scores of one run: a line for each policy, a column for each split."""
    first = rows[0]
    title = f"{first['run']} after {first['step']:,} steps, {first['actions']} actions, {first['episodes']:,} episodes"
    splits = list(dict.fromkeys(row["split"] for row in rows))
    success = "" if first["success_rate"] is None else " (share of successful episodes)"
    caption = f"undiscounted return of an episode, mean ± standard error over episodes{success}"
    shown = Table(title=title, caption=caption)
    shown.add_column("policy")
    for split in splits:
        shown.add_column(split or "return", justify="right")
    for policy in dict.fromkeys(row["policy"] for row in rows):
        cells = [cell(row) for row in rows if row["policy"] == policy]
        shown.add_row(first["core"] if policy == AGENT else policy, *cells, style="bold" if policy == AGENT else None)
    return shown


def cell(row: dict[str, Any]) -> str:
    shown = f"{row['mean']:.2f}"
    if row["standard_error"] is not None:
        shown += f" ± {row['standard_error']:.2f}"
    return shown if row["success_rate"] is None else f"{shown} ({row['success_rate']:.1%})"


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="eval_rl.py", description=__doc__, allow_abbrev=False)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders")
    parser.add_argument("--split", choices=("train", "test", "valid", "both"), default="both", help="both: train, test")
    parser.add_argument("--episodes", type=integer(1), help="episodes of each policy (default: one on every level)")
    parser.add_argument("--seed", type=integer(0), default=0, help="of actions and episodes")
    parser.add_argument("--greedy", action="store_true", help="take the likeliest action instead of drawing one")
    parser.add_argument("--json", metavar="FILE", help="also write the scores there")
    args = parser.parse_args(argv)
    rows, folders = [], list(dict.fromkeys(args.runs))
    try:
        if args.json and not Path(args.json).parent.is_dir():
            raise RunError(f"cannot write {args.json}: there is no folder {Path(args.json).parent}")
        for folder in folders:
            for split in ("train", "test") if args.split == "both" else (args.split,):
                rows += score(folder, split, args.episodes, args.seed, args.greedy)
                if rows[-1]["split"] is None:
                    break  # the environment has no splits to tell apart
        for folder in folders:
            Console().print(table([row for row in rows if row["run"] == folder]))
        if args.json:
            write_atomically(Path(args.json), json.dumps(rows, indent=2).encode() + b"\n")
    except (ConfigError, EnvError, RunError, DependencyNotInstalled, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def integer(least: int) -> Callable[[str], int]:
    """Reads an integer from `least` up to where seeds end."""

    def read(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) < 2**32:
            raise argparse.ArgumentTypeError(f"{text!r}, but it must be an integer of at least {least} and below 2**32")
        return int(text)

    return read


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
