"""What a memory core is: a recurrent module with two forms of one function.

`step` is the recurrence as its paper writes it, for one time step. `forward` runs a whole time-major sequence with
episode starts inside it; a core overrides it where its mathematics allows something faster than stepping.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from math import isfinite
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar, get_args, get_origin

import torch
from torch import Tensor, nn

State = TypeVar("State", bound=tuple)  # a NamedTuple whose leaves are all [B, ...]


class CoreOutput(NamedTuple):
    """What a core returns: `ys [T, B, Y]` (`[B, Y]` from `step`), the state after the last step, and the report."""

    ys: Tensor
    state: tuple
    report: dict[str, Tensor]


@dataclass(frozen=True)
class CoreConfig:
    """The choices of one core, each of the type that its field says: integers are sizes, at least 1, and floats finite.

    `build` makes the core that they describe.
    """

    def __post_init__(self):
        for field in fields(self):
            kinds = get_args(field.type) if isinstance(field.type, UnionType) else (field.type,)
            fits = any(_fits(getattr(self, field.name), kind) for kind in kinds)
            self.require(fits, field.name, " or ".join(map(_described, kinds)))

    @property
    def map_shape(self) -> tuple[int, int] | None:
        """Rows and columns of the maps that inputs have to be; None for inputs of any kind."""
        return None

    def build(self, input_size: int) -> "Core":
        raise NotImplementedError

    def require(self, valid: bool, field: str, demand: str) -> None:
        """Raise a ValueError that names the field, its value and what it has to be."""
        if not valid:
            raise ValueError(f"{type(self).__qualname__}: {field}={getattr(self, field)!r}, but it must be {demand}")


def _fits(value: Any, kind: type) -> bool:
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if kind is int:
        return isinstance(value, Integral) and value >= 1
    if kind is float:
        return isinstance(value, Real) and isfinite(value)
    return isinstance(value, kind)


def _described(kind: type) -> str:
    """What a value has to be."""
    if get_origin(kind) is Literal:
        *others, last = get_args(kind)
        return f"{', '.join(others)} or {last}"
    return {int: "an integer of at least 1", float: "a finite number", bool: "true or false", NoneType: "none"}[kind]


class Core(nn.Module):
    """A recurrent memory. Subclasses define `initial_state` and `step`, and set the attributes below.

    Parameters and states have one type of numbers, in which `forward` computes under autocast too: half precision would
    round away what a memory adds up over an episode. `step` and `loop` are as autocast makes them.
    """

    aux_losses: ClassVar[tuple[str, ...]] = ()
    """names of reports `[T, B]` that the learner may add to its loss"""
    diagnostics: ClassVar[tuple[str, ...]] = ()
    """names of reports `[T, B, ...]`, without gradient, that show what the memory does"""

    input_size: int
    output_size: int

    def initial_state(self, batch_size: int) -> State:
        """The state before the first observation of an episode, leaves `[batch_size, ...]`."""
        raise NotImplementedError

    def step(self, x: Tensor, state: State, report: tuple[str, ...] = (), donate: bool = False) -> CoreOutput:
        """One time step: x `[B, D]` -> ys `[B, Y]`. `state` is left as it was, unless it is donated: see `forward`."""
        raise NotImplementedError

    def forward(
        self,
        xs: Tensor,
        state: State,
        episode_starts: Tensor | None = None,
        report: tuple[str, ...] = (),
        donate: bool = False,
    ) -> CoreOutput:
        """A sequence.

        Args:    xs: inputs, [T, B, D], of the type of the parameters; under autocast of any floating-point type.
                 state: the state before xs[0], leaves [B, ...].
                 episode_starts: bool [T, B]; where true, the state becomes `initial_state` before xs[t] is read.
                     None: no episode starts.
                 report: names out of `aux_losses` and `diagnostics`; what is not asked for is not computed.
                 donate: the caller will not read `state` again, so that without gradients the new state may take its
                     place: acting then moves no large memory about.
        Returns: ys [T, B, Y], the state after the last step, reports by name, each [T, B, ...].
        Raises:  ValueError if the inputs, the state or a report name do not fit this core.
        """
        device = xs.device.type
        if torch.is_autocast_enabled(device) and xs.is_floating_point():
            with torch.autocast(device, enabled=False):
                return self.forward(xs.to(self._dtype()), state, episode_starts, report, donate)
        self.check(xs, state, episode_starts, report)
        return self.sequence(xs, state, episode_starts, report, donate)

    def sequence(
        self, xs: Tensor, state: State, episode_starts: Tensor | None, report: tuple[str, ...], donate: bool
    ) -> CoreOutput:
        """`forward` of what fits; a core overrides it where its mathematics allows something faster than stepping."""
        return self.loop(xs, state, episode_starts, report, donate)

    def loop(
        self, xs: Tensor, state: State, episode_starts: Tensor | None, report: tuple[str, ...], donate: bool = False
    ) -> CoreOutput:
        """The literal form of `forward`: `step`, one time step after the other."""
        outputs = []
        for t, x in enumerate(xs):
            if episode_starts is not None:
                state = self.reset(state, episode_starts[t], donate and t == 0)
            outputs.append(self.step(x, state, report, donate or t > 0))
            state = outputs[-1].state
        reports = {name: torch.stack([o.report[name] for o in outputs]) for name in report}
        return CoreOutput(torch.stack([o.ys for o in outputs]), state, reports)

    def reset(self, state: State, starts: Tensor, donate: bool = False) -> State:
        """`initial_state` where starts `[B]` is true, by selection: a NaN in an old episode's state ends with it.

        Of a donated state only those rows are touched, on the CPU without gradients.
        """
        if not may_be_any(starts):
            return state
        if donate and starts.device.type == "cpu" and not torch.is_grad_enabled():
            rows = starts.nonzero()[:, 0]
            # vectors are small, and may be outputs that the caller still reads
            leaves = [leaf.clone() if leaf.dim() == 2 else leaf.contiguous() for leaf in state]
            for leaf, initial in zip(leaves, self.initial_state(len(rows)), strict=True):
                leaf[rows] = initial
            return type(state)(*leaves)
        initial = self.initial_state(len(starts))
        return type(state)(
            *(
                torch.where(starts.view(-1, *[1] * (old.dim() - 1)), new, old)
                for new, old in zip(initial, state, strict=True)
            )
        )

    def check(self, xs: Tensor, state: State, episode_starts: Tensor | None, report: tuple[str, ...]) -> None:
        """Raise a ValueError naming what does not fit: the inputs, the state, the starts, or a report name."""
        name, dtype = type(self).__name__, self._dtype()
        if xs.dim() != 3 or xs.shape[2] != self.input_size or 0 in xs.shape or xs.dtype != dtype:
            raise ValueError(
                f"{name} reads {dtype} inputs [T, B, {self.input_size}] of at least one step in one row, "
                f"got {xs.dtype} {list(xs.shape)}"
            )
        expected = self.initial_state(1)
        if type(state) is not type(expected):
            raise ValueError(f"{name} continues from {type(expected).__qualname__}, got {type(state).__qualname__}")
        for field, leaf, like in zip(expected._fields, state, expected, strict=True):
            if leaf.shape != (xs.shape[1], *like.shape[1:]) or leaf.dtype != dtype:
                raise ValueError(
                    f"{name}: state.{field} must be {dtype} {[xs.shape[1], *like.shape[1:]]}, "
                    f"got {leaf.dtype} {list(leaf.shape)}"
                )
        if episode_starts is not None and (episode_starts.shape != xs.shape[:2] or episode_starts.dtype != torch.bool):
            raise ValueError(
                f"{name} reads episode_starts as bool {list(xs.shape[:2])}, "
                f"got {episode_starts.dtype} {list(episode_starts.shape)}"
            )
        for wanted in report:
            if wanted not in self.aux_losses + self.diagnostics:
                raise ValueError(f"{name} cannot report {wanted!r}; it reports {self.aux_losses + self.diagnostics}")

    def _dtype(self) -> torch.dtype:
        parameter = next(self.parameters(), None)
        return torch.get_default_dtype() if parameter is None else parameter.dtype


def may_be_any(mask: Tensor) -> bool:
    """Whether any entry of a bool tensor may be true: looked up on the CPU, assumed on a device, which would wait."""
    return mask.device.type != "cpu" or bool(mask.any())


def once_differentiable(backward: Callable) -> Callable:
    """`backward` of a torch.autograd.Function, which raises a RuntimeError where a graph of it is asked for.

    The decorator of that name in torch does so only if the incoming gradient has a graph itself. Otherwise, as after a
    sum, second derivatives would silently lack what comes of this one.
    """

    @wraps(backward)
    def first(ctx, *grads: Tensor | None):
        if torch.is_grad_enabled():
            raise RuntimeError("a core's fast form has no second derivative (create_graph=True); its `loop` has")
        return backward(ctx, *grads)

    return first
