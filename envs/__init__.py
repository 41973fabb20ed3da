"""Environments: batched games for agents with memory, and any Gymnasium environment by its id.

`ENVS` is the catalogue. Importing this module registers its ids with Gymnasium and loads no game.
"""

import inspect
from difflib import get_close_matches
from importlib import import_module
from typing import Any

import gymnasium
from gymnasium.vector import AutoresetMode, VectorEnv

from engram.envs.options import check_integer

ENVS = {  # short name: (Gymnasium id, class of the single environment; the vector environment adds "Vector" to it)
    "graph-pomdp": ("engram/GraphPOMDP-v0", "graph_pomdp:GraphPOMDP"),
}
COMMON_OPTIONS = ("render_mode", "autoreset_mode", "copy")
"""What every environment of `ENVS` takes besides its own options."""

for _id, _class in ENVS.values():
    gymnasium.register(_id, f"{__name__}.{_class}", vector_entry_point=f"{__name__}.{_class}Vector")


def short_name(name: str) -> str:
    """The short name of a Gymnasium id of ours, "engram/..." or "engram:engram/..."; any other name as it is."""
    return {gymnasium_id: short for short, (gymnasium_id, _) in ENVS.items()}.get(name.removeprefix("engram:"), name)


def vector_class(name: str) -> type[VectorEnv]:
    """The vector environment class of an environment of `ENVS`."""
    module, single = ENVS[short_name(name)][1].split(":")
    return getattr(import_module(f"{__name__}.{module}"), f"{single}Vector")


def env_options(name: str) -> dict[str, inspect.Parameter]:
    """Own options of an environment of `ENVS`, with annotations and defaults; {} for other Gymnasium ids."""
    name = short_name(name)
    if name not in ENVS:
        return {}
    parameters = inspect.signature(vector_class(name)).parameters
    return {option: parameters[option] for option in parameters if option not in ("num_envs", *COMMON_OPTIONS)}


def reference_policies(name: str) -> dict[str, type]:
    """Reference policies of an environment by name, each made as `policy(env, seed)`; see `envs/references.py`."""
    random = {"random": import_module(f"{__name__}.references").RandomPolicy}
    name = short_name(name)
    return random | (vector_class(name).reference_policies if name in ENVS else {})


def make_vec(name: str, num_envs: int, **options: Any) -> VectorEnv:
    """A vector environment with NEXT_STEP autoreset.

    Args:
        name: short name in `ENVS`, or any Gymnasium id such as "CartPole-v1" or "module:Id-v0".
        num_envs: members N.
        options: of the environment; those of `ENVS` also take `COMMON_OPTIONS`.

    Raises:
        ValueError: there is no such environment or option, or a value is out of range.
    """
    check_integer("num_envs", num_envs, 1)
    name = short_name(name)
    if name in ENVS:
        known = [*env_options(name), *COMMON_OPTIONS]
        for option in options:
            if option not in known:
                raise ValueError(f"{name} has no option {option!r}; {_hint(option, known, ', '.join(known))}")
        return gymnasium.make_vec(ENVS[name][0], num_envs, **options)
    next_step = {"autoreset_mode": AutoresetMode.NEXT_STEP}
    try:
        return gymnasium.make_vec(name, num_envs, "sync", next_step, **options)
    except gymnasium.error.DependencyNotInstalled:
        raise
    except (gymnasium.error.Error, ModuleNotFoundError) as error:
        hint = _hint(name, [*ENVS, *gymnasium.registry], f"{', '.join(ENVS)}, or a Gymnasium id")
        raise ValueError(f"no environment {name!r}; {hint}") from error
    except TypeError as error:
        raise ValueError(f"{name} does not take the options {options}: {error}") from error


def _hint(value: str, known: list[str], choices: str) -> str:
    close = get_close_matches(value, known)
    return f"did you mean {' or '.join(close)}?" if close else f"choices: {choices}"
