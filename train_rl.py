"""Train an agent with memory: python train_rl.py --env graph-pomdp --core fwm (--help shows every choice)."""

import random
import sys
import time
from collections import defaultdict
from collections.abc import Callable

import numpy as np
import torch
from gymnasium.error import DependencyNotInstalled

from engram import envs
from engram.agents.config import Config, ConfigError, from_json, parse, to_json
from engram.agents.evaluate import PolicyActor, Score, evaluate, members
from engram.agents.learner import Diverged, Learner
from engram.agents.presets import preset
from engram.agents.rollout import collect
from engram.agents.stepper import EnvError, Stepper
from engram.checkpoint import random_state, set_random_state
from engram.policies import make_policy
from engram.progress import Progress
from engram.run import Run, RunError, StopRequest, fitting

TEST_SEED = 1_000_000
"""added to the run's seed for the episodes of evaluations, which are the same every time"""


class Training:
    """All that changes during a run, and that a checkpoint holds."""

    def __init__(self, config: Config):
        self.config, device, env = config, config.torch_device(), config.env
        random.seed(config.seed)
        np.random.seed(config.seed)  # noqa: NPY002 -- environments of others may draw from the global generator
        torch.manual_seed(config.seed)
        self.envs = envs.make_vec(env.name, env.num_envs, **env.options())
        self.num_test_levels = env.options("test").get("num_levels")
        num_test_envs = members(config.eval_episodes, self.num_test_levels, env.num_envs)
        self.test_envs = envs.make_vec(env.name, num_test_envs, **env.options("test"))
        policy = make_policy(config.core, self.envs, **vars(config.policy)).to(device)
        self.learner = Learner(policy, config.agent, config.optim)
        self.stepper = Stepper(self.envs, config.seed, device)
        self.core_state = policy.initial_state(config.env.num_envs)
        self.generator = torch.Generator(device).manual_seed(config.seed)
        self.step = self.rollouts = 0
        self.evaluation_due = False
        self.window = defaultdict(list)  # metrics since the last line of metrics.jsonl

    def evaluate(self, stopped: Callable[[], bool]) -> Score | None:
        """Score of the policy as it is, on held-out levels where the environment has them; None if stopped."""
        config = self.config
        actor = PolicyActor(self.learner.policy, self.test_envs.num_envs, config.seed)
        seed = config.seed + TEST_SEED
        return evaluate(actor, self.test_envs, config.eval_episodes, seed, self.num_test_levels, stopped)

    def state_dict(self) -> dict:
        return {
            "learner": self.learner.state_dict(),
            "stepper": self.stepper.state_dict(),
            "core_state": tuple(self.core_state),
            "generator": self.generator.get_state(),
            "random": random_state(),
            "step": self.step,
            "rollouts": self.rollouts,
            "evaluation_due": self.evaluation_due,
            "window": dict(self.window),
        }

    def load_state_dict(self, state: dict) -> None:
        self.learner.load_state_dict(state["learner"])
        self.stepper.load_state_dict(state["stepper"], self.config.seed + state["step"])
        self.core_state = type(self.core_state)(*(leaf.to(self.stepper.device) for leaf in state["core_state"]))
        self.generator.set_state(state["generator"])
        set_random_state(state["random"])
        self.step, self.rollouts, self.evaluation_due = state["step"], state["rollouts"], state["evaluation_due"]
        self.window = defaultdict(list, state["window"])


def train(config: Config, run: Run, training: Training, stop: StopRequest) -> int:
    """Train to the end, or until `stop` is requested; returns the exit status."""
    learner = training.learner
    if run.last_checkpoint is None:  # from its first moment a run can be resumed
        run.save_checkpoint(training.step, training.state_dict())
    saved = time.monotonic()
    with Progress(config.total_steps, training.step, show=("return", "entropy", "test_return")) as progress:
        while True:
            if training.evaluation_due:
                score = training.evaluate(lambda: stop.requested)
                if score is None:  # stopped on the way: a resumed run evaluates first
                    break
                training.window["test_return"].append(score.mean)
                training.evaluation_due = False
            ended = training.step >= config.total_steps
            if training.window and (ended or training.rollouts % config.log_interval == 0):
                means = {name: sum(values) / len(values) for name, values in training.window.items() if values}
                run.log(training.step, {"updates": learner.updates, **means})
                progress.update(training.step, means)
                training.window.clear()
            if ended or stop.requested:
                break
            if time.monotonic() - saved > 60 * config.save_minutes:
                run.save_checkpoint(training.step, training.state_dict())
                saved = time.monotonic()

            rollout, training.core_state = collect(
                training.stepper, learner.policy, training.core_state, config.unroll_length, training.generator
            )
            metrics = learner.update(rollout, training.step / config.total_steps)
            learner.check(metrics)
            for name, value in metrics.items():
                training.window[name].append(float(value))
            training.window["return"].extend(rollout.episode_return.tolist())
            training.rollouts += 1
            before, training.step = training.step, training.step + int(rollout.mask.sum())
            training.evaluation_due = training.step // config.eval_interval > before // config.eval_interval
        run.save_checkpoint(training.step, training.state_dict())
    if stop.requested:
        print(f"stopped; continue with: python train_rl.py --resume {run.folder}")
    else:
        print(f"done; judge it with: python eval_rl.py {run.folder}")
    return stop.exit_status


def main(argv: list[str]) -> int:
    try:
        config, folder = parse(argv, envs.env_options, preset)
        if folder is None:
            training = Training(config)
            run = Run.create(config.new_folder(), to_json(config))
        else:
            run = Run.resume(folder)
            config = from_json(run.config)
            training = Training(config)
            with fitting(folder):
                training.load_state_dict(run.load_checkpoint()[1])
        with run, StopRequest() as stop:
            try:
                print(f"run folder: {run.folder}", flush=True)
                return train(config, run, training, stop)
            except (Diverged, EnvError) as error:
                raise RunError(f"{error}; the last good checkpoint is {run.last_checkpoint}") from error
    except (ConfigError, EnvError, RunError, DependencyNotInstalled, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
