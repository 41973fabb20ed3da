"""Judge trained agents: python eval_rl.py RUN [RUN ...] (--help shows every choice)."""

import argparse
import json
import sys
from collections.abc import Callable
from math import ceil, isfinite
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from gymnasium.error import DependencyNotInstalled
from gymnasium.vector import VectorEnv
from rich.console import Console
from rich.table import Table

from engram import envs
from engram.agents.config import Config, RunConfig, from_json, to_json
from engram.agents.episode import Episode, Memory, as_data, look_back, play
from engram.agents.evaluate import Player, PolicyPlayer, ReferencePlayer, evaluate, members
from engram.agents.stepper import EnvError
from engram.checkpoint import write_atomically
from engram.command_line import ConfigError, exit_status, torch_device
from engram.envs.references import PlanTooLarge
from engram.policies import Policy, make_policy
from engram.report import learning_curves, write_film, write_page
from engram.report.curves import differences, flat, run_name
from engram.report.film import check_film
from engram.report.page import check_page, check_writable
from engram.run import RunError, fitting, load_checkpoint, read_config

AGENT = "agent"
"""name of the trained policy among the scores; the others are reference policies"""


class Judged(NamedTuple):
    """The newest checkpoint of a run, and the episodes it is judged by."""

    folder: str
    config: RunConfig
    step: int
    weights: dict[str, Any]
    options: dict[str, Any]
    """of the environment"""
    num_levels: float | None
    """levels that there are, infinity included; None where the environment has no levels"""

    @classmethod
    def load(cls, folder: str, split: str) -> Self:
        """Raises: ConfigError or RunError if there is no such run, or no checkpoint of it."""
        config = from_json(read_config(folder))
        step, state = load_checkpoint(folder)
        options = config.env.options(split) | envs.evaluation_options(config.env.name)
        num_levels = envs.num_levels(config.env.name, options)
        finite = num_levels is not None and isfinite(num_levels)
        if finite and options.get("level_sampling") == "fixed" and options["split"] == config.env.options()["split"]:
            # member i trained on level i, and no other level was seen
            num_levels = min(num_levels, config.env.num_envs)
        return cls(folder, config, step, state["learner"]["policy"], options, num_levels)

    def player(self, played: VectorEnv, seed: int, greedy: bool, device: torch.device) -> Player:
        """The trained policy, as it plays in an environment like that of the run."""
        if isinstance(self.config, Config):
            return PolicyPlayer(self.policy(played).to(device), played.num_envs, seed, greedy)
        from engram.agents.sb3_learner import SB3Learner, SB3Player  # slow to import

        policy = SB3Learner(self.config, envs.gymnasium_id(self.config.env.name), device).policy
        with fitting(self.folder):
            policy.load_state_dict(self.weights)
        return SB3Player(policy, played.num_envs, seed, greedy)

    def policy(self, played: VectorEnv) -> Policy:
        """The trained policy of ours, for an environment like that of the run."""
        policy = make_policy(self.config.core, played, **vars(self.config.policy))
        with fitting(self.folder):
            policy.load_state_dict(self.weights)
        return policy

    def about(self) -> dict[str, Any]:
        """What scores and pictures of it are of."""
        name = self.config.env.name
        shared = {"run": self.folder, "env": name, "core": self.config.title, "step": self.step}
        return shared | {"split": self.options.get("split")}


def score(
    judged: Judged, episodes: int | None, repeats: int, seed: int, greedy: bool, device: torch.device
) -> list[dict[str, Any]]:
    """Scores of a trained policy and of the reference policies, on the same levels from the same seeds.

    A reference that cannot be had in this environment is left out, with a warning.

    Args: episodes: as many for each policy; None for as many as an evaluation during training had, and so many more
          that every level is played equally often.
          repeats: how often as many are played.
    """
    config, num_levels = judged.config, judged.num_levels
    if episodes is None:
        episodes = config.eval_episodes
        if num_levels is not None and isfinite(num_levels):
            episodes = num_levels * ceil(episodes / num_levels)
    total = repeats * episodes
    played = envs.make_vec(config.env.name, members(total, num_levels, config.env.num_envs), **judged.options)
    references = envs.reference_policies(config.env.name)

    def contender(name: str) -> Player:
        if name == AGENT:
            return judged.player(played, seed, greedy, device)
        return ReferencePlayer(references[name](played, seed))

    shared = judged.about() | {"seed": seed, "actions": "greedy" if greedy else "sampled"}
    shared |= {"episodes": episodes, "repeats": repeats}
    rows = []
    for name in (AGENT, *references):
        try:
            with Console(stderr=True).status(f"{judged.folder}: {name} plays {total:,} episodes"):
                # a player lives only while it plays: some hold gigabytes
                result = evaluate(contender(name), played, total, seed, num_levels)
        except PlanTooLarge as error:
            print(f"warning: {judged.folder} is not compared with the {name}: {error}", file=sys.stderr)
            continue
        scores = {
            "mean": result.mean,
            "standard_error": result.standard_error,
            "deviation": float(result.returns.reshape(repeats, -1).mean(1).std(ddof=1)) if repeats > 1 else None,
            "success_rate": result.success_rate,
            "human_normalised": envs.human_normalised(config.env.name, result.mean),
        }
        rows.append(shared | {"policy": name, **scores, "returns": result.returns})
    return rows


def replay(judged: Judged, args: argparse.Namespace, **options: Any) -> tuple[Episode, VectorEnv]:
    """An episode step by step, on the level and from the seed of number `args.episode` of those that `score` plays.

    Sampled actions are drawn anew: those of `score` depend on the environments that play beside.
    """
    played = envs.make_vec(judged.config.env.name, 1, **(judged.options | options))
    seed, level_id = args.seed + args.episode, None
    if judged.num_levels:
        level_id = int(args.episode % judged.num_levels)
    player = judged.player(played, seed, args.greedy, torch_device("cpu"))
    return play(player, played, seed, level_id), played


def recall(judged: Judged, args: argparse.Namespace, **options: Any) -> tuple[Episode, Memory]:
    """The episode of `replay`, and what the policy's memory looked back at."""
    if not isinstance(judged.config, Config):
        raise RunError(f"{judged.folder} is of {judged.config.agent_name}, whose network cannot be looked into")
    episode, played = replay(judged, args, **options)
    return episode, look_back(judged.policy(played), episode)


def table(rows: list[dict[str, Any]]) -> Table:
    """The scores of one run: a line for each policy, a column for each split."""
    first = rows[0]
    episodes = " or ".join(dict.fromkeys(f"{row['episodes']:,}" for row in rows))
    if first["repeats"] > 1:
        episodes = f"{first['repeats']} x {episodes}"
    title = f"{first['run']} after {first['step']:,} steps, {first['actions']} actions, {episodes} episodes"
    splits = list(dict.fromkeys(row["split"] for row in rows))
    shown = Table(title=title, caption=legend(first))
    shown.add_column("policy")
    for split in splits:
        shown.add_column(split or "return", justify="right")
    for policy in dict.fromkeys(row["policy"] for row in rows):
        cells = {row["split"]: cell(row) for row in rows if row["policy"] == policy}
        name, style = (first["core"], "bold") if policy == AGENT else (policy, None)
        shown.add_row(name, *(cells.get(split, "") for split in splits), style=style)
    return shown


def cell(row: dict[str, Any]) -> str:
    """A score as it is shown; `legend` says what its numbers are."""
    shown = f"{row['mean']:.2f}"
    spread = row["standard_error"] if row["repeats"] == 1 else row["deviation"]
    if spread is not None:
        shown += f" ± {spread:.2f}"
    if row["human_normalised"] is not None:
        shown += f" ({row['human_normalised']:.3f})"
    return shown if row["success_rate"] is None else f"{shown} ({row['success_rate']:.1%})"


def legend(row: dict[str, Any]) -> str:
    spread = "error over episodes" if row["repeats"] == 1 else "deviation of the evaluations' means"
    beside = " (random play 0, human 1)" if row["human_normalised"] is not None else ""
    beside += " (share of successful episodes)" if row["success_rate"] is not None else ""
    return f"undiscounted return of an episode, mean ± standard {spread}{beside}"


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="eval_rl.py", description=__doc__, allow_abbrev=False)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders")
    parser.add_argument("--split", choices=("train", "test", "valid", "both"), default="both", help="both: train, test")
    parser.add_argument(
        "--episodes",
        type=integer(1),
        help="episodes of each policy (default: as in training's evaluations, but as many on each level)",
    )
    parser.add_argument("--repeats", type=integer(1), default=1, help="evaluations, each of as many further episodes")
    parser.add_argument("--seed", type=integer(0), default=0, help="of actions and episodes")
    parser.add_argument("--greedy", action="store_true", help="take the likeliest action instead of drawing one")
    parser.add_argument("--device", default="auto", help="where agents play: auto (default), cpu, cuda or cuda:N")
    parser.add_argument("--json", metavar="FILE", help="also write the scores there")
    parser.add_argument("--report", metavar="FILE", help="also draw the runs on a page of HTML")
    parser.add_argument("--video", metavar="FILE", help="also film one run, as .gif or .mp4")
    parser.add_argument("--episode", type=integer(0), default=0, help="the one in --report and --video (default 0)")
    args = parser.parse_args(argv)
    errors = ConfigError, EnvError, RunError, DependencyNotInstalled, ValueError, OSError
    return exit_status(lambda: show(args), *errors)


def show(args: argparse.Namespace) -> None:
    """Judge the runs and show the scores as asked."""
    folders = list(dict.fromkeys(args.runs))
    check_outputs(*(path for path in (args.json, args.report, args.video) if path is not None))
    if args.video:
        check_film(args.video)
        if len(folders) > 1:
            raise RunError(f"--video films one run; got {len(folders)}")
    if args.report:
        check_page(args.report)
    rows, judged, missing = judge(folders, args)
    for folder in folders:
        if own := [row for row in rows if row["run"] == folder]:
            Console().print(table(own))
    if args.json:
        plain = [{name: value for name, value in row.items() if name != "returns"} for row in rows]
        write_atomically(Path(args.json), json.dumps(plain, indent=2).encode() + b"\n")
    if args.report:
        write_page(args.report, report(folders, rows, judged, missing, args))
    if args.video:
        if not judged:
            raise RunError(f"cannot film {folders[0]}: {missing[0]}")
        film(judged[0], args)


def check_outputs(*paths: str) -> None:
    """Raise a RunError, before anything is computed, unless all can be written and nothing is lost by that."""
    for path in paths:
        check_writable(path)
        if Path(path).name in ("config.json", "metrics.jsonl") and Path(path).exists():
            raise RunError(f"cannot write {path}: it is part of a run; choose another name")
    if len({Path(path).resolve() for path in paths}) < len(paths):
        raise RunError(f"cannot write {' and '.join(paths)}: they are one file")


def judge(folders: list[str], args: argparse.Namespace) -> tuple[list[dict[str, Any]], list[Judged], list[str]]:
    """Scores of all runs; the runs as judged last; with a report, a line for each that has no checkpoint to judge."""
    rows, last, missing = [], {}, []
    for folder in folders:  # all of them before the first plays
        from_json(read_config(folder))
    for folder in folders:
        for split in ("train", "test") if args.split == "both" else (args.split,):
            try:
                last[folder] = Judged.load(folder, split)
            except RunError as error:
                if not args.report:
                    raise
                missing.append(str(error))
                break
            device = torch_device(args.device)
            rows += score(last[folder], args.episodes, args.repeats, args.seed, args.greedy, device)
            if rows[-1]["split"] is None:
                if args.split != "both":
                    shown = f"{last[folder].config.env.name}, as {folder} plays it, has no splits"
                    print(f"warning: {shown}: --split {args.split} changes nothing", file=sys.stderr)
                break
    return rows, list(last.values()), missing


def report(
    folders: list[str], rows: list[dict[str, Any]], judged: list[Judged], missing: list[str], args: argparse.Namespace
) -> dict[str, Any]:
    """What `engram.report.write_page` takes: curves, scores and settings of all runs, one episode of each."""
    configs = {folder: to_json(from_json(read_config(folder))) for folder in folders}  # whole, also of older runs
    curves, without_curve = learning_curves(configs)
    memories, without_memory = [], list(missing)
    for run in judged:
        try:
            episode, memory = recall(run, args, render_mode="rgb_array")
        except RunError as error:
            without_memory.append(str(error))
            continue
        except (DependencyNotInstalled, EnvError, ValueError) as error:
            without_memory.append(f"{run.config.env.name} shows no pictures: {error}")
            episode, memory = recall(run, args)
        memories.append(run.about() | {"episode": args.episode} | as_data(episode, memory))
    runs = [
        {
            "folder": folder,
            "name": run_name(folder, folders),
            "env": config["env"]["name"],
            "core": config.get("core_name", config["agent_name"]),
        }
        for folder, config in configs.items()
    ]
    return {
        "kind": "agents",
        "runs": runs,
        "curves": curves,
        "scores": [row | {"shown": cell(row), "legend": legend(row)} for row in rows],
        "differences": differences(configs),
        "configs": [flat(config) for config in configs.values()],
        "memories": memories,
        "missing": {"curves": without_curve, "scores": missing, "memory": without_memory},
    }


def film(judged: Judged, args: argparse.Namespace) -> None:
    """Write the film of one episode: what the environment shows, what was done, the return so far."""
    episode, _ = replay(judged, args, render_mode="rgb_array")
    if not episode.pictures:
        raise RunError(f"cannot film {judged.config.env.name}: it shows no pictures")
    returns = np.concatenate([[0.0], episode.reward.cumsum()])
    of = f"{judged.config.title} after {judged.step:,} steps"
    captions = [f"{of}\nstep {t} of {len(episode)}, return {returns[t]:.2f}" for t in range(len(episode) + 1)]
    write_film(args.video, episode.pictures, captions, episode.fps)


def integer(least: int) -> Callable[[str], int]:
    """Reads an integer from `least` up to where seeds end."""

    def read(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) < 2**32:
            raise argparse.ArgumentTypeError(f"{text!r}, but it must be an integer of at least {least} and below 2**32")
        return int(text)

    return read


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
