"""Levels: which one a member plays, and how training and held-out levels are kept apart.

A level is a pure function of (game, split, level id, base seed). The space of layouts itself is divided: a hash of the
layout says which split it belongs to, and a level's stream is read on until a layout of its own split comes up. The
splits are therefore disjoint whatever their sizes and seeds, and each of them may be infinite.
"""

from dataclasses import dataclass

import numpy as np

from engram.envs.options import check_choice, check_integer
from engram.envs.streams import below, mix
from engram.kernels import njit

SPLITS = {"train": 0, "test": 1, "valid": 2}
MAX_LEVELS = 2**31
"""Level ids lie below this, also where there are infinitely many levels."""


@dataclass(frozen=True)
class LevelSet:
    """The levels a game draws from.

    Args:
        split: "train", "test" or "valid".
        num_levels: size of the set, None for infinitely many.
        base_seed: names the family of level sets.
        sampling: "fixed" gives member i the level i % num_levels in every episode, "uniform" draws one.

    Raises:
        ValueError: one of them is out of range.
    """

    split: str
    num_levels: int | None
    base_seed: int
    sampling: str

    def __post_init__(self):
        check_choice("split", self.split, tuple(SPLITS))
        check_choice("level_sampling", self.sampling, ("fixed", "uniform"))
        check_integer("level_base_seed", self.base_seed, 0, 2**32 - 1)
        if self.num_levels is not None:
            check_integer("num_levels", self.num_levels, 1, MAX_LEVELS)

    @property
    def highest_id(self) -> int:
        """The last level id."""
        return (MAX_LEVELS if self.num_levels is None else self.num_levels) - 1

    def choose(self, members: np.ndarray, mask: np.ndarray, level_ids: np.ndarray) -> None:
        """Fill in the level ids [N] that are -1, for the episodes that the members of `mask` [N] are about to begin."""
        _choose(members, mask, level_ids, self.num_levels or 0, self.sampling == "fixed")


@njit(cache=True)
def _choose(members, mask, level_ids, num_levels, fixed):
    for slot in range(members.shape[0]):
        if mask[slot] and level_ids[slot] < 0:
            if num_levels == 0:
                level_ids[slot] = below(members[slot], MAX_LEVELS)
            elif fixed:
                level_ids[slot] = slot % num_levels
            else:
                level_ids[slot] = below(members[slot], num_levels)


@njit(cache=True)
def level_seed(game, split, level_id, base_seed):
    """Start of the random stream that lays out one level."""
    word = mix(np.uint64(base_seed))
    word = mix(word ^ np.uint64(game))
    word = mix(word ^ np.uint64(split))
    return mix(word ^ np.uint64(level_id))


@njit(cache=True)
def split_of(layout_hash):
    """Split that owns a layout, from its hash: half of all layouts are train, a quarter each test and valid."""
    quarter = mix(layout_hash) >> np.uint64(62)
    return 0 if quarter < 2 else (1 if quarter == 2 else 2)
