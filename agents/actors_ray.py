"""Where rollouts come from: actors in processes of their own, on this machine or on a cluster's, by Ray.

Ray is an extra, and importing this file needs it.
"""

import logging
import os
import random
import socket
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial
from typing import NamedTuple, Self

import numpy as np
import torch

from engram.agents.actors import POLL_SECONDS, Actor, ActorError, complaint, hung
from engram.agents.learner import Learner
from engram.agents.rollout import Rollout
from engram.command_line import ConfigError
from engram.policies import Policy

os.environ.setdefault("RAY_worker_niceness", "0")  # actors get their share of a busy machine
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a run tells nobody of itself
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # and not the user of a change to come
try:
    import ray
    from ray.exceptions import RayError, RayTaskError
except ModuleNotFoundError as error:
    raise ConfigError("--actors ray needs Ray: pip install engram[ray]") from error

RETRIES = 3
"""times in a row that an actor is replaced without a rollout from it, before the run stops"""
CONNECT_SECONDS = 5.0
"""in which a cluster has to answer the first time"""
OBJECT_STORE_BYTES = 2**29
"""memory of a cluster of one's own for rollouts and weights in flight; Ray moves to the disk what goes beyond"""

_log = logging.getLogger(__name__)


class RemoteActor:
    """What a process of Ray's runs: an actor, and its copy of the policy, on the CPU."""

    def __init__(self, policy: Policy, make_actor: Callable[[Policy], Actor]):
        self.policy, self.make_actor = policy, make_actor
        self.actor: Actor | None = None

    def play(self, weights: dict) -> tuple[Rollout, dict]:
        """A rollout by these weights, and the actor's state behind it."""
        if self.actor is None:  # here, as Ray tells of errors in a constructor by text alone
            self.actor = self.make_actor(self.policy)
        self.policy.load_state_dict(weights)
        return self.actor.play(self.policy), self.actor.state_dict()


def begin(make_envs: Callable, unroll_length: int, seed: int, state: dict | None, step: int, policy: Policy) -> Actor:
    """An actor in its own process; `state` and `step`, where it continues, are those of `Actor.load_state_dict`."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 -- environments of others may draw from the global generator
    torch.manual_seed(seed)
    actor = Actor(make_envs(), policy, unroll_length, seed)
    if state is not None:
        actor.load_state_dict(state, step)
    return actor


class Play(NamedTuple):
    """A rollout on its way: whose, by the policy after how many updates, and asked for when."""

    actor: int
    updates: int
    since: float


class RayActors:
    """Actors in processes of Ray's, which play while this one learns (Espeholt et al. 2018).

    An actor is asked for its next rollout, by the newest weights, as soon as its last one is taken. One that raises,
    hangs or dies is replaced by another that continues behind its last rollout that was learned from; so does a
    resumed run. Processes start where a `with` statement is entered, once.

    Args: make_envs: makes the environments of an actor, in its process.
          seeds: one for each actor.
          timeout: seconds after which an actor that has not finished its rollout counts as hung.
          address: HOST:PORT of the cluster; None for one on this machine, for as long as the run lasts.
    Raises: ConfigError if no cluster answers there.
    """

    def __init__(
        self,
        make_envs: Callable,
        seeds: Sequence[int],
        learner: Learner,
        unroll_length: int,
        timeout: float,
        address: str | None = None,
    ):
        self.make_envs, self.seeds, self.learner, self.unroll_length = make_envs, seeds, learner, unroll_length
        self.timeout = timeout
        self._states: list[dict | None] = [None] * len(seeds)
        self._failures = [0] * len(seeds)
        self._step = 0
        self._joined = _join(address, len(seeds))

    def __enter__(self) -> Self:
        self._policy = ray.put(deepcopy(self.learner.policy).cpu())
        self._publish()
        self._players = [self._player(i) for i in range(len(self.seeds))]
        self._plays: dict[ray.ObjectRef, Play] = {}  # the one asked for first comes first
        for i in range(len(self.seeds)):
            self._ask(i)
        return self

    def __exit__(self, *_: object) -> None:
        for player in self._players:
            ray.kill(player)
        if self._joined:
            ray.shutdown()

    def next_rollout(self, stopped: Callable[[], bool]) -> tuple[Rollout, int] | None:
        self._publish()
        while not stopped():
            self._replace_hung()
            ready, _ = ray.wait(list(self._plays), timeout=POLL_SECONDS)
            if not ready:
                continue
            play = self._plays.pop(ready[0])
            try:
                rollout, state = ray.get(ready[0])
            except RayError as error:
                said = complaint(error.cause) if isinstance(error, RayTaskError) else _death(error)
                self._replace(play.actor, f"actor {play.actor}: {said}")
                continue
            self._failures[play.actor] = 0
            self._states[play.actor] = deepcopy(state)  # its arrays are in Ray's memory, which the run may outlive
            self._step += int(rollout.mask.sum())
            self._ask(play.actor)
            device = next(self.learner.policy.parameters()).device
            return rollout.to(device), self.learner.updates - play.updates
        return None

    def state_dict(self) -> list[dict | None]:
        return list(self._states)

    def load_state_dict(self, states: list[dict | None], step: int) -> None:
        self._states, self._step = states, step

    def _publish(self) -> None:
        """One copy of the newest weights for all actors."""
        weights = {name: tensor.cpu() for name, tensor in self.learner.policy.state_dict().items()}
        self._published = self.learner.updates, ray.put(weights)

    def _player(self, i: int) -> "ray.actor.ActorHandle":
        where = self.seeds[i], self._states[i], self._step
        return ray.remote(RemoteActor).remote(self._policy, partial(begin, self.make_envs, self.unroll_length, *where))

    def _ask(self, i: int) -> None:
        updates, weights = self._published
        self._plays[self._players[i].play.remote(weights)] = Play(i, updates, time.monotonic())

    def _replace_hung(self) -> None:
        now = time.monotonic()
        late = [future for future, play in self._plays.items() if now - play.since > self.timeout]
        if late:
            _, playing = ray.wait(late, num_returns=len(late), timeout=0)  # the others wait to be taken
            for future in playing:
                i = self._plays.pop(future).actor
                self._replace(i, hung(i, self.timeout))

    def _replace(self, i: int, reason: str) -> None:
        self._failures[i] += 1
        if self._failures[i] > RETRIES:
            raise ActorError(f"{reason}; replacements so far in a row: {RETRIES}")
        _log.warning("%s; another takes its place (%d of %d)", reason, self._failures[i], RETRIES)
        ray.kill(self._players[i])
        self._players[i] = self._player(i)
        self._ask(i)


def _join(address: str | None, num_actors: int) -> bool:
    """Join the cluster; False if this process has joined one already, which then serves."""
    if ray.is_initialized():
        return False
    cluster = {"address": "local", "num_cpus": num_actors, "object_store_memory": OBJECT_STORE_BYTES}
    try:
        if address is not None:
            cluster = {"address": address}
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port)), CONNECT_SECONDS).close()  # Ray itself tries for minutes
        ray.init(**cluster, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError) as error:
        where = "a Ray cluster of its own" if address is None else f"the Ray cluster at {address}"
        reason = str(error).split("\n")[0]
        raise ConfigError(f"cannot join {where} (--ray-address HOST:PORT): {reason}") from error
    return True


def _death(error: RayError) -> str:
    """One line of how a process ended: of what Ray tells at length, the first sentence of the last line."""
    return f"its process died ({str(error).strip().splitlines()[-1].strip().split('. ')[0].rstrip('.')})"
