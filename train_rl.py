"""Train an agent with memory: python train_rl.py --env graph-pomdp --core fwm (--help shows every choice)."""

import random
import sys
import time
from collections import defaultdict

import numpy as np
import torch
from gymnasium.error import DependencyNotInstalled

from engram import envs
from engram.agents.config import Config, ConfigError, from_json, parse, to_json
from engram.agents.evaluate import PolicyActor, evaluate
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
        device, env = config.torch_device(), config.env
        random.seed(config.seed)
        np.random.seed(config.seed)  # noqa: NPY002 -- environments of others may draw from the global generator
        torch.manual_seed(config.seed)
        self.envs = envs.make_vec(env.name, env.num_envs, **env.options())
        self.test_envs = envs.make_vec(env.name, min(env.num_envs, config.eval_episodes), **env.options("test"))
        policy = make_policy(config.core, self.envs, **vars(config.policy)).to(device)
        self.learner = Learner(policy, config.agent, config.optim)
        self.stepper = Stepper(self.envs, config.seed, device)
        self.core_state = policy.initial_state(config.env.num_envs)
        self.generator = torch.Generator(device).manual_seed(config.seed)
        self.step = self.rollouts = 0
        self.window = defaultdict(list)  # metrics since the last line of metrics.jsonl

    def state_dict(self) -> dict:
        return {
            "learner": self.learner.state_dict(),
            "stepper": self.stepper.state_dict(),
            "core_state": tuple(self.core_state),
            "generator": self.generator.get_state(),
            "random": random_state(),
            "step": self.step,
            "rollouts": self.rollouts,
            "window": dict(self.window),
        }

    def load_state_dict(self, state: dict) -> None:
        self.learner.load_state_dict(state["learner"])
        self.stepper.load_state_dict(state["stepper"])
        self.core_state = type(self.core_state)(*(leaf.to(self.stepper.device) for leaf in state["core_state"]))
        self.generator.set_state(state["generator"])
        set_random_state(state["random"])
        self.step, self.rollouts = state["step"], state["rollouts"]
        self.window = defaultdict(list, state["window"])


def train(config: Config, run: Run, training: Training, stop: StopRequest) -> int:
    """Train to the end, or until `stop` is requested; returns the exit status."""
    learner = training.learner
    if run.last_checkpoint is None:  # from its first moment a run can be resumed
        run.save_checkpoint(training.step, training.state_dict())
    saved = time.monotonic()
    with Progress(config.total_steps, training.step, show=("return", "entropy", "test_return")) as progress:
        while training.step < config.total_steps and not stop.requested:
            rollout, training.core_state = collect(
                training.stepper, learner.policy, training.core_state, config.unroll_length, training.generator
            )
            metrics = learner.update(rollout, training.step / config.total_steps)
            learner.check(metrics)
            training.rollouts += 1
            before, training.step = training.step, training.step + int(rollout.mask.sum())

            for name, value in metrics.items():
                training.window[name].append(float(value))
            training.window["return"].extend(rollout.episode_return.tolist())
            if training.step // config.eval_interval > before // config.eval_interval:
                actor = PolicyActor(learner.policy, training.test_envs.num_envs, config.seed)
                score = evaluate(actor, training.test_envs, config.eval_episodes, config.seed + TEST_SEED)
                training.window["test_return"].append(score.mean)
            if training.rollouts % config.log_interval == 0 or training.step >= config.total_steps:
                means = {name: sum(values) / len(values) for name, values in training.window.items() if values}
                run.log(training.step, {"updates": learner.updates, **means})
                progress.update(training.step, means)
                training.window.clear()
            if time.monotonic() - saved > 60 * config.save_minutes:
                run.save_checkpoint(training.step, training.state_dict())
                saved = time.monotonic()
        run.save_checkpoint(training.step, training.state_dict())
        if stop.requested:
            progress.print(f"stopped; continue with: python train_rl.py --resume {run.folder}")
        else:
            progress.print(f"done; judge it with: python eval_rl.py {run.folder}")
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
