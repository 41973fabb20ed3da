"""Environments: batched games for agents with memory, Atari, and any Gymnasium environment by its id.

`ENVS` is the catalogue of our own. Importing this module registers its ids with Gymnasium and loads no game.
"""

import inspect
import re
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import Any, NamedTuple

import gymnasium
from gymnasium.vector import AutoresetMode, VectorEnv

from engram.envs.atari_scores import SCORES
from engram.envs.options import check_integer

ENVS = {  # short name: (Gymnasium id, class of the single environment; the vector environment adds "Vector" to it)
    "graph-pomdp": ("engram/GraphPOMDP-v0", "graph_pomdp:GraphPOMDP"),
    "boxworld": ("engram/BoxWorld-v0", "boxworld:BoxWorld"),
    "maze": ("engram/GridMaze-v0", "maze:GridMaze"),
    "mini-pacman": ("engram/MiniPacman-v0", "mini_pacman:MiniPacman"),
}
COMMON_OPTIONS = ("render_mode", "autoreset_mode", "copy")
"""What every environment of `ENVS` takes besides its own options."""
_ARGUMENT = r"^ {4}(\w+): (.*(?:\n {8}.*)*)"  # of a docstring
ATARI = "atari:"
"""Before the name of a game, as in "atari:Breakout"; "pong" is one with a set-up of its own. See `envs/atari.py`."""

for _id, _class in ENVS.values():
    gymnasium.register(_id, f"{__name__}.{_class}", vector_entry_point=f"{__name__}.{_class}Vector")


def short_name(name: str) -> str:
    """The short name of a Gymnasium id of ours, "engram/..." or "engram:engram/..."; any other name as it is."""
    return {gymnasium_id: short for short, (gymnasium_id, _) in ENVS.items()}.get(name.removeprefix("engram:"), name)


def gymnasium_id(name: str) -> str:
    """The id by which Gymnasium makes single environments of a name that `make_vec` takes.

    Raises:
        ValueError: an Atari game, which is made in vectors only.
    """
    name = short_name(name)
    if name == "pong" or name.startswith(ATARI):
        raise ValueError(f"{name} has no Gymnasium id for single environments; it is made in vectors only")
    return ENVS[name][0] if name in ENVS else name


def vector_class(name: str) -> type[VectorEnv] | None:
    """The vector environment class of an environment of `ENVS` or of an Atari game; None for other Gymnasium ids.

    Raises:
        ValueError: there is no such Atari game.
    """
    name = short_name(name)
    if name in ENVS:
        module, single = ENVS[name][1].split(":")
        return getattr(import_module(f"{__name__}.{module}"), f"{single}Vector")
    if name != "pong" and not name.startswith(ATARI):
        return None
    atari = import_module(f"{__name__}.atari")
    if name == "pong":
        return atari.PongVector
    game = name.removeprefix(ATARI)
    if game not in atari.GAMES:
        raise ValueError(f"no Atari game {game!r}; {_hint(game, atari.GAMES, ', '.join(atari.GAMES))}")
    return atari.game_vector(game)


class Option(NamedTuple):
    """An option of an environment: its type, its default, and what the documentation says of it."""

    annotation: Any
    default: Any
    help: str


def env_options(name: str) -> dict[str, Option]:
    """Own options of an environment that `vector_class` knows, by name; {} for others."""
    return {option: about for option, about in _options(name).items() if option not in COMMON_OPTIONS}


def evaluation_options(name: str) -> dict[str, Any]:
    """Options that an evaluation sets whatever training uses, so that its scores compare; {} for most environments."""
    return getattr(vector_class(name), "evaluation_options", {})


def human_normalised(name: str, score: float) -> float | None:
    """The score of a whole game on the scale where random play has 0 and a human 1; None where no human's is known."""
    scores = SCORES.get(getattr(vector_class(name), "game", None))
    return scores and (score - scores[0]) / (scores[1] - scores[0])


def num_levels(name: str, options: dict[str, Any]) -> float | None:
    """Levels of the split that `options` choose, infinity included; None for an environment without levels."""
    return make_vec(name, 1, **options).unwrapped.num_levels if short_name(name) in ENVS else None


def reference_policies(name: str) -> dict[str, type]:
    """Reference policies of an environment by name, each made as `policy(env, seed)`; see `envs/references.py`."""
    random = {"random": import_module(f"{__name__}.references").RandomPolicy}
    return random | getattr(vector_class(name), "reference_policies", {})


def make_vec(name: str, num_envs: int, /, **options: Any) -> VectorEnv:
    """A vector environment with NEXT_STEP autoreset.

    Args:
        name: short name in `ENVS`, "pong", "atari:" and a game, or any Gymnasium id such as "CartPole-v1" or
            "module:Id-v0".
        num_envs: members N.
        options: of the environment; those of `ENVS` also take `COMMON_OPTIONS`, Atari games `render_mode`.

    Raises:
        ValueError: there is no such environment or option, or a value is out of range.
    """
    check_integer("num_envs", num_envs, 1)
    name = short_name(name)
    make = vector_class(name)
    if make is not None:
        known = list(_options(name))
        for option in options:
            if option not in known:
                raise ValueError(f"{name} has no option {option!r}; {_hint(option, known, ', '.join(known))}")
        return gymnasium.make_vec(ENVS[name][0], num_envs, **options) if name in ENVS else make(num_envs, **options)
    return _make_theirs(name, num_envs, options)


def _make_theirs(name: str, num_envs: int, options: dict[str, Any]) -> VectorEnv:
    """A vector environment of a Gymnasium id that is none of ours; see `make_vec`."""
    module, _, gym_id = name.rpartition(":")
    if module:
        try:
            import_module(module)
        except Exception as error:  # of their code, which may raise anything
            raise ValueError(f"cannot import {module} for {name!r}: {_one_line(error)}") from error
    try:
        vectors_only = gymnasium.spec(gym_id).entry_point is None
    except gymnasium.error.Error as error:
        ours = [*ENVS, "pong", f"{ATARI}GAME"]
        hint = _hint(name, [*ours, *gymnasium.registry], f"{', '.join(ours)}, or a Gymnasium id")
        raise ValueError(f"no environment {name!r}; {hint}") from error
    try:
        if vectors_only:
            envs = gymnasium.make_vec(gym_id, num_envs, "vector_entry_point", **options)
        else:
            next_step = {"autoreset_mode": AutoresetMode.NEXT_STEP}
            envs = gymnasium.make_vec(gym_id, num_envs, "sync", next_step, **options)
    except gymnasium.error.DependencyNotInstalled:
        raise
    except Exception as error:
        given = f" with the options {options}" if options else ""
        raise ValueError(f"cannot make {name!r}{given}: {_one_line(error)}") from error
    mode = envs.metadata.get("autoreset_mode")
    if mode != AutoresetMode.NEXT_STEP:
        raise ValueError(f"{name} resets by {mode}; it must be {AutoresetMode.NEXT_STEP}")
    return envs


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).split(chr(10))[0]}"


def _options(name: str) -> dict[str, Option]:
    """What an environment's vector class takes and documents under "Args:"; {} if it is none of ours."""
    make = vector_class(name)
    if make is None:
        return {}
    _, _, documented = inspect.getdoc(make).partition("\nArgs:\n")
    texts = {option: " ".join(text.split()) for option, text in re.findall(_ARGUMENT, documented, re.MULTILINE)}
    parameters = {p.name: p for p in inspect.signature(make).parameters.values() if p.name != "num_envs"}
    return {option: Option(p.annotation, p.default, texts[option]) for option, p in parameters.items()}


def _hint(value: str, known: Sequence[str], choices: str) -> str:
    close = get_close_matches(value, known)
    return f"did you mean {' or '.join(close)}?" if close else f"choices: {choices}"
