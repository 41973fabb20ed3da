"""Train an agent with memory: python train_rl.py --env graph-pomdp --core fwm (--help shows every choice)."""

import dataclasses
import random
import shlex
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import numpy as np
import torch
from gymnasium.error import DependencyNotInstalled

from engram import envs, ranks
from engram.agents.actors import Actor, ActorError, Actors, InlineActors, ThreadActors
from engram.agents.config import Config, RunConfig, from_json, parse, to_json
from engram.agents.evaluate import PolicyPlayer, Score, evaluate, members
from engram.agents.learner import Learner
from engram.agents.presets import preset
from engram.agents.stepper import EnvError
from engram.checkpoint import random_state, set_random_state
from engram.command_line import ConfigError, exit_status, torch_device
from engram.optim import Diverged
from engram.policies import make_policy
from engram.progress import Progress
from engram.run import Run, RunError, fitting
from engram.stop import StopRequest


class Training:
    """All that changes during a run, and that a checkpoint holds; of several ranks, the part of this one."""

    def __init__(self, config: RunConfig):
        self.config, device, env = config, torch_device(config.device), config.env
        test_options = env.options("test") | envs.evaluation_options(env.name)
        self.num_test_levels = envs.num_levels(env.name, test_options)
        num_test_envs = members(config.eval_episodes, self.num_test_levels, env.num_envs)
        self.test_envs = envs.make_vec(env.name, num_test_envs, **test_options)
        if isinstance(config, Config):
            torch.manual_seed(config.seed)  # every rank starts from the same weights
            policy = make_policy(config.core, self.test_envs, **vars(config.policy)).to(device)
            self.learner = Learner(policy, config.agent, config.optim, config.minibatches)
            self.actors, self.make_player = make_actors(config, self.learner), PolicyPlayer
        else:
            from engram.agents.sb3_learner import SB3Actors, SB3Learner, SB3Player  # slow to import

            self.learner = SB3Learner(config, envs.gymnasium_id(env.name), device)
            self.actors, self.make_player = SB3Actors(self.learner), SB3Player
        self.step = self.rollouts = 0
        self.evaluation_due = False
        self.window = defaultdict(list)  # metrics since the last line of metrics.jsonl

    def evaluate(self, stopped: Callable[[], bool]) -> Score | None:
        """Score of the policy as it is, on held-out levels where the environment has them; None if stopped."""
        config = self.config
        player = self.make_player(self.learner.policy, self.test_envs.num_envs, config.seed)
        return evaluate(player, self.test_envs, config.eval_episodes, config.seed, self.num_test_levels, stopped)

    def save(self, run: Run | None) -> None:
        """Write a checkpoint of all ranks; each calls this, and rank 0 alone has the run."""
        parts = ranks.gather({"actors": self.actors.state_dict(), "random": random_state()})
        if run is not None:
            shared = {"step": self.step, "rollouts": self.rollouts, "evaluation_due": self.evaluation_due}
            shared |= {"window": dict(self.window), "learner": self.learner.state_dict()}
            run.save_checkpoint(self.step, {"ranks": parts, **shared})

    def load(self, state: dict) -> None:
        """Continue from a checkpoint's state. Raises ValueError if it is of more or fewer ranks."""
        parts = state["ranks"]
        if len(parts) != ranks.count():
            raise ValueError(f"it has {len(parts)} ranks, not {ranks.count()}: use {ranks.launcher(len(parts))}")
        part = parts[ranks.rank()]
        self.learner.load_state_dict(state["learner"])
        self.actors.load_state_dict(part["actors"], state["step"])
        set_random_state(part["random"])
        self.step, self.rollouts, self.evaluation_due = state["step"], state["rollouts"], state["evaluation_due"]
        self.window = defaultdict(list, state["window"])


def make_actors(config: Config, learner: Learner) -> Actors:
    """The actors of this rank, of the kind that the config names."""
    env, count = config.env, config.num_actors
    seeds = [config.seed + env.num_envs * (ranks.rank() * count + i) for i in range(count)]
    random.seed(seeds[0])
    np.random.seed(seeds[0] % 2**32)  # noqa: NPY002 -- environments of others may draw from the global generator
    make_envs = partial(envs.make_vec, env.name, env.num_envs, **env.options())
    if config.actors == "ray":
        from engram.agents.actors_ray import RayActors  # an extra

        return RayActors(make_envs, seeds, learner, config.unroll_length, config.actor_timeout, config.ray_address)
    actors = [Actor(make_envs(), learner.policy, config.unroll_length, seed) for seed in seeds]
    if config.actors == "threads":
        return ThreadActors(actors, learner, config.queue_size, config.actor_timeout)
    return InlineActors(*actors, learner)


def train(config: RunConfig, run: Run | None, training: Training, stop: StopRequest) -> int:
    """Train to the end, or until `stop` is requested; returns the exit status. Rank 0 has the run, others have None."""
    learner = training.learner
    if training.rollouts == 0:  # from its first moment a run can be resumed
        training.save(run)
    saved = time.monotonic()
    progress = Progress(config.total_steps, training.step, show=("return", "entropy", "test_return"))
    with progress, training.actors as actors:
        while True:
            if training.evaluation_due:  # by rank 0; the others wait for it where all agree
                score = training.evaluate(lambda: stop.requested) if run is not None else None
                if score is not None:
                    training.window["test_return"].append(score.mean)
                    if score.success_rate is not None:
                        training.window["test_success_rate"].append(score.success_rate)
                training.evaluation_due = run is not None and score is None  # stopped: a resumed run evaluates first
            ended = training.step >= config.total_steps
            logged, means = ended or training.rollouts % config.log_interval == 0, None
            if logged and training.window and not training.evaluation_due:
                means = {name: sum(values) / len(values) for name, values in training.window.items() if values}
                if run is not None:
                    run.log(training.step, {"updates": learner.updates, **means})
                training.window.clear()
            progress.update(training.step, means)
            due = time.monotonic() - saved > 60 * config.save_minutes
            stopping, saving = ranks.total(torch.tensor([stop.requested, due], dtype=torch.int64)).tolist()
            if ended or stopping:
                break
            if saving:
                training.save(run)
                saved = time.monotonic()

            # a rank that stopped here, alone, would leave the others waiting for its part of the update
            arrival = actors.next_rollout(lambda: stop.requested and ranks.count() == 1)
            if arrival is None:
                continue
            rollout, lag = arrival
            metrics = learner.update(rollout, training.step / config.total_steps)
            learner.check(metrics)
            for name, value in (metrics | {"policy_lag": lag}).items():
                training.window[name].append(float(value))
            training.window["return"].extend(rollout.episode_return.tolist())
            training.window["episode_length"].extend(rollout.episode_length.tolist())
            training.rollouts += 1
            before, training.step = training.step, training.step + int(ranks.total(rollout.mask.sum()))
            training.evaluation_due = training.step // config.eval_interval > before // config.eval_interval
    training.save(run)
    if run is not None:
        folder = shlex.quote(str(run.folder))
        again, judge = f"{ranks.launcher()} train_rl.py --resume {folder}", f"python eval_rl.py {folder}"
        print(f"stopped; continue with: {again}" if stopping else f"done; judge it with: {judge}")
    return stop.exit_status


def start(argv: list[str]) -> tuple[RunConfig, Run | None, Training]:
    """The run that the command line asks for, new or resumed; the ranks behind rank 0 have no Run."""
    config, resumed = parse(argv, envs.env_options, lambda env, *choice: preset(envs.short_name(env), *choice))
    leads = ranks.rank() == 0
    if resumed is None:
        training = Training(config)
        return config, Run.create(config.new_folder(), to_json(config)) if leads else None, training
    run = Run.resume(resumed.folder) if leads else None
    saved, state = ranks.broadcast(lambda: (run.config, run.load_checkpoint()[1]))
    config = dataclasses.replace(from_json(saved), **resumed.changes)
    if "total_steps" in resumed.changes and config.total_steps <= state["step"]:
        raise ConfigError(f"--total-steps {config.total_steps}, but {resumed.folder} has had {state['step']} already")
    training = Training(config)
    with fitting(resumed.folder):
        training.load(state)
    if leads and resumed.changes:
        run.change(resumed.changes)
    return config, run, training


def run_training(argv: list[str], stop: StopRequest) -> int:
    """Start what the command line asks for and train it; returns the exit status."""
    config, run, training = start(argv)
    with run or nullcontext():
        try:
            print(f"run folder: {run and run.folder}", flush=True)
            return train(config, run, training, stop)
        except (ActorError, Diverged, EnvError, ranks.RankError) as error:
            if isinstance(error, ActorError) and ranks.count() == 1:  # the learner is well
                training.save(run)
            last = f"; the last good checkpoint is {run.last_checkpoint}" if run else ""
            raise RunError(f"{error}{last}") from error


def main(argv: list[str]) -> int:
    errors = ConfigError, EnvError, RunError, ranks.RankError, DependencyNotInstalled, ValueError
    with ranks.joined(), StopRequest() as stop:
        who = f"rank {ranks.rank()}: " if ranks.count() > 1 else ""
        return exit_status(lambda: run_training(argv, stop), *errors, who=who)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
