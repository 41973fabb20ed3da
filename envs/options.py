"""Checks of options and seeds: each raises one clear line."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def check_choice(name: str, value: Any, choices: Sequence[Any]) -> None:
    """Raise a ValueError unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}; got {value!r}")


def check_integer(name: str, value: Any, low: int, high: int | None = None) -> None:
    """Raise a ValueError unless `value` is an integer in low..high."""
    is_integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not is_integer or value < low or (high is not None and value > high):
        limits = f"at least {low}" if high is None else f"in {low}..{high}"
        raise ValueError(f"{name} must be an integer {limits}; got {value!r}")


def member_seeds(seed: int | Sequence[int], num_envs: int) -> list[int]:
    """A seed for each member: those given or, from one integer s, s + i for member i. Raises ValueError."""
    if not isinstance(seed, Sequence | np.ndarray):
        check_integer("seed", seed, 0)
        return [int(seed) + slot for slot in range(num_envs)]
    if len(seed) != num_envs:
        raise ValueError(f"seed must be one integer or {num_envs} of them; got {len(seed)}")
    for value in seed:
        check_integer("seed", value, 0)
    return [int(value) for value in seed]


def check_probability(name: str, value: Any) -> None:
    """Raise a ValueError unless `value` is a number in [0, 1]."""
    if not isinstance(value, int | float | np.number) or isinstance(value, bool) or not 0 <= value <= 1:
        raise ValueError(f"{name} must be a number in [0, 1]; got {value!r}")


def check_number(name: str, value: Any, low: float, *, above: bool = False) -> None:
    """Raise a ValueError unless `value` is finite and at least `low`, or with `above` greater than `low`."""
    is_number = isinstance(value, int | float | np.number) and not isinstance(value, bool) and np.isfinite(value)
    if not is_number or value < low or (above and value == low):
        raise ValueError(f"{name} must be a number {'above' if above else 'at least'} {low}; got {value!r}")
