"""One episode, step by step: what an environment showed, what an agent did, and what its memory looked back at."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engram.agents.evaluate import FIRST_SEED, Player
from engram.agents.stepper import EnvError, Stepper
from engram.policies import Inputs, Policy
from engram.policies.actions import Categorical
from engram.policies.recollection import Recollection, recollect
from engram.policies.tree import tree_map

MAX_STEPS = 250
"""steps of an episode that are kept, at most"""


@dataclass(frozen=True, eq=False)
class Episode:
    """The first T steps of an episode; step t acts on the observation that `inputs` hold at t."""

    inputs: Inputs
    """leaves [T, 1, ...]"""
    action: np.ndarray
    """[T, ...], in the environment's form"""
    reward: np.ndarray
    """float64 [T]"""
    info: dict[str, np.ndarray]
    """what the environment said after each step, by name, each [T]"""
    pictures: list[np.ndarray]
    """uint8 [height, width, 3] before each step and after the last: T + 1, or none where it does not render"""
    scenes: list[dict[str, Any]]
    """the same as numbers, where the environment has them; see `GraphPOMDPVector.scene`"""
    fps: float
    """pictures a second that suit the game"""
    ended: bool
    """whether the episode ended at step T, and was not cut"""

    def __len__(self) -> int:
        return len(self.reward)


@dataclass(frozen=True, eq=False, kw_only=True)
class Memory(Recollection):
    """What a policy computed in the T steps of an episode, beside what its core did."""

    baseline: np.ndarray
    """[T], in the units of the learner's returns"""
    entropy: np.ndarray
    """of the distribution over actions, in nats, [T]"""
    probability: np.ndarray | None
    """of the actions that were taken, [T]; None where an action is not one choice of several"""


def play(player: Player, envs, seed: int, level_id: int | None = None, max_steps: int = MAX_STEPS) -> Episode:
    """Play the episode of `envs`, of one member, that `evaluate` plays with this seed, on a level if there are levels.

    `envs` made with `render_mode="rgb_array"` gives pictures, `envs.scene` scenes.
    """
    options = None if level_id is None else {"level_ids": np.array([level_id])}
    stepper = Stepper(envs, FIRST_SEED + seed, options=options)
    inputs, actions, rewards, infos, scenes, pictures = [], [], [], [], [], []
    show = getattr(envs.unwrapped, "scene", None)

    def look() -> None:
        if getattr(envs, "render_mode", None) == "rgb_array":
            pictures.append(_picture(stepper))
        if show is not None:
            scenes.append(show(0))

    look()
    ended = False
    while not ended and len(actions) < max_steps:
        inputs.append(stepper.inputs)
        actions.append(player(stepper.inputs))
        reward, _, finished = stepper.step(actions[-1])
        rewards.append(float(reward))
        infos.append({name: value[0] for name, value in stepper.info.items() if _said(name, stepper.info)})
        ended = len(finished.member) > 0
        look()
    together = tree_map(lambda *leaves: torch.stack(leaves), *inputs)
    names = [name for name in infos[0] if all(name in info for info in infos)]
    info = {name: np.array([info[name] for info in infos]) for name in names}
    played = torch.cat(actions).cpu().numpy()
    fps = envs.metadata.get("render_fps") or 4
    return Episode(together, played, np.array(rewards), info, pictures, scenes, fps, ended)


def _picture(stepper: Stepper) -> np.ndarray:
    """What the first member draws, uint8 [height, width, 3]. Raises: EnvError."""
    pictures = stepper.call(stepper.envs.render)
    picture = np.array(None if pictures is None else pictures[0])
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise EnvError(f"the environment {stepper.envs} drew {picture.dtype} {list(picture.shape)}, no picture")
    return picture


def _said(name: str, info: dict[str, Any]) -> bool:
    """Whether it is a number of each member, not the mask of one."""
    return not name.startswith("_") and isinstance(info[name], np.ndarray) and info[name].shape == (1,)


@torch.no_grad()
def look_back(policy: Policy, episode: Episode) -> Memory:
    """The episode once more, through the forward pass that training uses, with all that the core can report."""
    core = policy.core
    device = next(policy.parameters()).device
    inputs = tree_map(lambda leaf: leaf.to(device), episode.inputs)
    output, _ = policy(inputs, policy.initial_state(1), core.diagnostics)
    logits, probability = output.policy_logits[:, 0], None
    if isinstance(policy.actions, Categorical):
        taken = torch.as_tensor(episode.action, device=device) - policy.actions.start
        probability = _array(policy.actions.log_prob(logits, taken).exp())
    return Memory(
        baseline=_array(output.baseline[:, 0]),
        entropy=_array(policy.actions.entropy(logits)),
        probability=probability,
        **vars(recollect(core, output.report, inputs.episode_starts)),
    )


def as_data(episode: Episode, memory: Memory) -> dict[str, Any]:
    """Both as a report draws them, step by step."""
    marks = {name: values for name, values in episode.info.items() if values.dtype == bool}
    drawn = [scene.keys() for scene in episode.scenes]
    return {
        "steps": len(episode),
        "ended": episode.ended,
        "action": episode.action.tolist(),
        "reward": episode.reward,
        "events": [[name for name, values in marks.items() if values[t]] for t in range(len(episode))],
        "scenes": {name: [scene[name] for scene in episode.scenes] for name in (drawn[0] if drawn else ())},
        "pictures": [] if drawn else episode.pictures,
        "value": memory.baseline,
        "entropy": memory.entropy,
        "probability": memory.probability,
        **memory.as_data(),
    }


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.cpu().double().numpy()
