"""Where rollouts come from: environments that are played in turn with learning, or in threads beside it.

`actors_ray.py` has those in processes of their own.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import NamedTuple, Protocol, Self

import torch
from torch import Tensor

from engram.agents.learner import Learner
from engram.agents.rollout import Rollout, collect
from engram.agents.stepper import EnvError, Stepper
from engram.checkpoint import random_state, set_random_state
from engram.policies import Policy

POLL_SECONDS = 0.1
"""between looks at signals and hung actors while the learner waits for a rollout"""
JOIN_SECONDS = 2.0
"""that actors have, all together, to come to the end of the step they are in"""


class ActorError(Exception):
    """An actor raised, or hangs."""


def complaint(error: Exception) -> str:
    """One line of what an actor raised."""
    said = str(error) if isinstance(error, EnvError) else f"raised {type(error).__name__}: {error}"
    return said.split("\n")[0]


def hung(actor: int, timeout: float) -> str:
    """One line of an actor that takes longer than `timeout` seconds."""
    return f"actor {actor} has not finished a rollout for {timeout:g} s (--actor-timeout)"


class Actor:
    """Plays a policy in environments of its own, each rollout from where the one before it ended.

    Args: seed: of the actions and the environments, member i of which plays what seed + i plays.
    """

    def __init__(self, envs, policy: Policy, unroll_length: int, seed: int):
        device = next(policy.parameters()).device
        self.stepper, self.unroll_length, self.seed = Stepper(envs, seed, device), unroll_length, seed
        self.core_state = policy.initial_state(envs.num_envs)
        self.generator = torch.Generator(device).manual_seed(seed)

    def play(self, policy: Policy, stopped: Callable[[], bool] = lambda: False) -> Rollout | None:
        """The next rollout; None if `stopped` says so in its midst, where the actor then stands."""
        rollout, self.core_state = collect(
            self.stepper, policy, self.core_state, self.unroll_length, self.generator, stopped
        )
        return rollout

    def state_dict(self) -> dict:
        return {
            "stepper": self.stepper.state_dict(),
            "core_state": tuple(leaf.clone() for leaf in self.core_state),  # the next rollout writes into these
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: dict, step: int) -> None:
        """`step` of the run sets the seed where environments cannot continue their episodes and start new ones."""
        self.stepper.load_state_dict(state["stepper"], self.seed + step)
        self.core_state = type(self.core_state)(*(leaf.to(self.stepper.device) for leaf in state["core_state"]))
        if state["generator"].shape == self.generator.get_state().shape:
            self.generator.set_state(state["generator"])
        else:  # of another kind of device, whose random numbers cannot go on here
            self.generator.manual_seed(self.seed + step)


class Actors(Protocol):
    """What the learner's loop takes rollouts from, inside a `with` statement that is entered once."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def next_rollout(self, stopped: Callable[[], bool]) -> tuple[Rollout, int] | None:
        """A rollout, and the updates since its policy; None if `stopped` says so first.

        Raises: ActorError naming the actor that has raised or hangs.
        """

    def state_dict(self) -> list:
        """Of each actor, where its last rollout that was learned from ended."""

    def load_state_dict(self, states: list, step: int) -> None:
        """Continue from there; `step` is that of the run."""


class InlineActors:
    """One actor, in the thread that learns: the newest policy plays every rollout, and a resumed run is exact.

    A rollout that is stopped in its midst is played again by a resumed run.
    """

    def __init__(self, actor: Actor, learner: Learner):
        self.actor, self.learner = actor, learner
        self._unfinished: dict | None = None  # the actor's state before a rollout that was stopped

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def next_rollout(self, stopped: Callable[[], bool]) -> tuple[Rollout, int] | None:
        before, generators = self.actor.state_dict(), random_state()
        rollout = self.actor.play(self.learner.policy, stopped)
        if rollout is None:
            self._unfinished = before
            set_random_state(generators)  # environments of others may have drawn from them
            return None
        return rollout, 0

    def state_dict(self) -> list[dict]:
        return [self._unfinished or self.actor.state_dict()]

    def load_state_dict(self, states: list[dict], step: int) -> None:
        (state,) = states
        self.actor.load_state_dict(state, step)


class Delivery(NamedTuple):
    """A rollout in the queue: whose, by the policy after how many updates, and the actor's state behind it."""

    actor: int
    rollout: Rollout
    updates: int
    state: dict


class ThreadActors:
    """Actors in threads of their own, with copies of the policy, beside the thread that learns (Espeholt et al. 2018).

    An actor waits while the queue is full, takes the learner's newest weights, plays one rollout and queues it. The
    checkpoint has each actor where its last rollout that was learned from ended: what lies in the queue is played again
    by a resumed run, with the policy it then has. Threads start where a `with` statement is entered, once.

    Args: queue_size: rollouts waiting for the learner from which on no actor begins another; each makes the next ones
              older.
          timeout: seconds after which an actor that has not finished its rollout counts as hung.
    """

    def __init__(self, actors: Sequence[Actor], learner: Learner, queue_size: int, timeout: float):
        self.actors, self.learner, self.queue_size, self.timeout = actors, learner, queue_size, timeout
        self._states = [actor.state_dict() for actor in actors]
        self._changed = threading.Condition()  # guards what follows
        self._queue: deque[Delivery] = deque()
        self._playing_since: list[float | None] = [None] * len(actors)
        self._error: ActorError | None = None
        self._stopping = False

    def __enter__(self) -> Self:
        self._publish()
        self._threads = [
            threading.Thread(target=self._act, args=(i, deepcopy(self.learner.policy)), name=f"actor {i}", daemon=True)
            for i in range(len(self.actors))
        ]  # daemons: one that hangs does not keep the process
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        deadline = time.monotonic() + JOIN_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def next_rollout(self, stopped: Callable[[], bool]) -> tuple[Rollout, int] | None:
        self._publish()
        with self._changed:
            while True:
                self._check()
                if self._queue:
                    break
                if stopped():
                    return None
                self._changed.wait(POLL_SECONDS)
            delivery = self._queue.popleft()
            self._changed.notify_all()
        self._states[delivery.actor] = delivery.state
        return delivery.rollout, self.learner.updates - delivery.updates

    def state_dict(self) -> list[dict]:
        return list(self._states)

    def load_state_dict(self, states: list[dict], step: int) -> None:
        for actor, state in zip(self.actors, states, strict=True):
            actor.load_state_dict(state, step)
        self._states = [actor.state_dict() for actor in self.actors]

    def _publish(self) -> None:
        """Between updates: actors read this while the learner's own weights change."""
        weights = {name: tensor.clone() for name, tensor in self.learner.policy.state_dict().items()}
        self._published: tuple[int, dict[str, Tensor]] = self.learner.updates, weights

    def _check(self) -> None:
        if self._error is not None:
            raise self._error
        now = time.monotonic()
        for i, since in enumerate(self._playing_since):
            if since is not None and now - since > self.timeout:
                raise ActorError(hung(i, self.timeout))

    def _act(self, i: int, policy: Policy) -> None:
        """What the thread of actor i does."""
        actor = self.actors[i]
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._stopping or len(self._queue) < self.queue_size)
                if self._stopping:
                    return
                updates, weights = self._published
                policy.load_state_dict(weights)
                self._playing_since[i] = time.monotonic()
                rollout = actor.play(policy, lambda: self._stopping)
                self._playing_since[i] = None
                if rollout is None:
                    return
                delivery = Delivery(i, rollout, updates, actor.state_dict())
                with self._changed:
                    self._queue.append(delivery)
                    self._changed.notify_all()
        except Exception as error:
            with self._changed:
                self._error = ActorError(f"actor {i}: {complaint(error)}")
                self._error.__cause__ = error
                self._changed.notify_all()
