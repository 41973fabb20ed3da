"""What a memory looks back at, as matrices ready to plot: the papers' figures, made from the reports of a core.

    report = core(xs, state, episode_starts, core.diagnostics).report
    maps = memory_maps(core, report, episode_starts, row=0)
    maps["query_key"].at(step=17)  # of FWM: [chain, read, past]

A map is of one row of the batch. Cells are 0 where there is nothing to look back at: in later steps and other episodes.
A report knows of its own steps alone, so that what the state before them held is in no cell.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from functools import singledispatch

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from engram.policies.core import Core
from engram.policies.fwm import FWM
from engram.policies.fwp_stack import FastWeightProgrammer
from engram.policies.jbfw import JBFW
from engram.policies.mnm import MNM
from engram.policies.rmc import RMC
from engram.policies.stm import STM

Report = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Map:
    """An array whose axes have names."""

    values: np.ndarray
    """float64"""
    axes: tuple[str, ...]
    """one name each; "step" is when the memory was asked, "past" the step at which it was written"""
    meaning: str
    """what a cell is"""
    labels: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """axis -> what its positions are called, where that is more than their number"""

    def at(self, **positions: int) -> "Map":
        """The map at one position of each of these axes, without them."""
        self._check(positions)
        return self._keep(self.values[tuple(positions.get(axis, slice(None)) for axis in self.axes)], positions)

    def mean(self, *axes: str) -> "Map":
        """The mean over these axes."""
        self._check(axes)
        return self._keep(self.values.mean(tuple(self.axes.index(axis) for axis in axes)), axes)

    def _check(self, axes: Collection[str]) -> None:
        for axis in axes:
            if axis not in self.axes:
                raise ValueError(f"no axis of this map is called {axis!r}; choose from {', '.join(self.axes)}")

    def _keep(self, values: np.ndarray, gone: Collection[str]) -> "Map":
        axes = tuple(axis for axis in self.axes if axis not in gone)
        labels = {axis: names for axis, names in self.labels.items() if axis in axes}
        return Map(values, axes, self.meaning, labels)


@singledispatch
def memory_maps(core: Core, report: Report, episode_starts: Tensor | None = None, row: int = 0) -> dict[str, Map]:
    """All maps of what a core did in one row of a batch.

    Args:    core: the core that made the report.
             report: its diagnostics, or at least those that the maps are made of, each [T, B, ...].
             episode_starts: bool [T, B] as the core got them, or None.
             row: which of the B rows.
    Returns: maps by name. FWM: query_key (Schlag et al. 2021, Fig. 3), surviving, attention. MNM: read_value,
             value_value, key_key (Munkhdalai et al. 2019, Fig. 5). RMC (Santoro et al. 2018, Fig. 3) and the others:
             attention.
    Raises:  ValueError if this kind of core has no maps, a report is missing, or there is no such row.
    """
    kinds = ", ".join(kind.__name__ for kind in memory_maps.registry if kind is not object)
    raise ValueError(f"{type(core).__name__} has no maps of its memory; these kinds of core have: {kinds}")


@memory_maps.register
def _of_fwm(core: FWM, report, episode_starts=None, row=0) -> dict[str, Map]:
    names = "key1", "key2", "read_n", "read_e", "beta", "memory_norm"
    key1, key2, n, e, beta, norm = _pick(core, report, names, row)
    seen = _reach(episode_starts, len(norm), row)

    def matches(first: Tensor, second: Tensor) -> Tensor:
        """<address(first, second), address written at each step>, [..., T]."""
        scores = first @ key1.T, second @ key2.T
        return scores[0] * scores[1] if core.config.key == "tensor" else scores[0] + scores[1]

    # after each write, all that the memory holds is divided by max(1, |F'|)
    log = norm.clamp(min=1).log()
    after = log.cumsum(0)
    before = after - log
    rate = core.config.scale * beta
    query_key = matches(n, e).movedim(0, -2).where(seen, 0)  # [C, N, T, T]
    surviving = (query_key * rate * torch.exp(before - after[:, None])).where(seen, 0)
    standing = matches(key1, key2) * rate * torch.exp(before - before[:, None])
    found = {
        "query_key": (query_key, "product of a read's two keys with those of a past write"),
        "surviving": (surviving, "the same times what is left of that write: the share of its change in the read"),
        "attention": (_of_values(surviving, standing, seen), "share of a past value in a read"),
    }
    axes = "step", "chain", "read", "past"
    return {name: _map(x.movedim(-2, 0), axes, meaning) for name, (x, meaning) in found.items()}


@memory_maps.register
def _of_fast_weights(core: FastWeightProgrammer, report, episode_starts=None, row=0) -> dict[str, Map]:
    names = tuple(name for name in ("query", "key", "beta") if name in core.diagnostics)
    query, key, *beta = _pick(core, report, names, row)
    query, key = query.movedim(0, -2), key.movedim(0, -2)  # [n, A, m, T, d]
    seen = _reach(episode_starts, query.shape[-2], row)
    attention = (query @ key.mT).where(seen, 0)
    if beta:  # otherwise values are added up
        rate = beta[0].movedim(0, -1)[..., None, :]
        attention = _of_values(attention * rate, key @ key.mT * rate, seen)
    axes = "step", "layer", "head", "memory", "past"
    return {"attention": _map(attention.movedim(-2, 0), axes, "share of a past value in what is read")}


@memory_maps.register
def _of_jbfw(core: JBFW, report, episode_starts=None, row=0) -> dict[str, Map]:
    hidden, query = _pick(core, report, ("hidden", "query"), row)
    steps = torch.arange(len(hidden))
    age = (steps[:, None] - steps - 1).clamp(min=0)
    weights = core.config.learning_rate * core.config.decay ** age.double()
    scores = (query.transpose(0, 1) @ hidden.T * weights).where(_reach(episode_starts, len(hidden), row).tril(-1), 0)
    meaning = "share of a past hidden vector in what the fast weights add"
    return {"attention": _map(scores.transpose(0, 1), ("step", "inner_step", "past"), meaning)}


@memory_maps.register
def _of_mnm(core: MNM, report, episode_starts=None, row=0) -> dict[str, Map]:
    read, values, keys = _pick(core, report, ("read", "values", "write_keys"), row)
    values, keys = values.mean(1), keys.mean(1)  # over the heads, as `read` is
    seen = _reach(episode_starts, len(read), row).tril(-1)

    def similarity(now: Tensor, past: Tensor, of: str) -> Map:
        cosines = F.normalize(now, dim=1) @ F.normalize(past, dim=1).T
        return _map(cosines.where(seen, 0), ("step", "past"), f"cosine of {of}")

    return {
        "read_value": similarity(read, values, "what is read and a past value"),
        "value_value": similarity(values, values, "the value written and a past one"),
        "key_key": similarity(keys, keys, "the key written under and a past one"),
    }


@memory_maps.register
def _of_rmc(core: RMC, report, episode_starts=None, row=0) -> dict[str, Map]:
    (attention,) = _pick(core, report, ("attention",), row)
    config = core.config
    rows = (*(f"slot {i}" for i in range(config.num_slots)), *(f"input {i}" for i in range(config.input_rows)))
    labels = {"slot": rows[: config.num_slots], "row": rows}
    axes, meaning = ("step", "block", "head", "slot", "row"), "weight with which a slot reads a slot or an input"
    return {"attention": _map(attention[..., : config.num_slots, :], axes, meaning, labels)}


@memory_maps.register
def _of_stm(core: STM, report, episode_starts=None, row=0) -> dict[str, Map]:
    (attention,) = _pick(core, report, ("attention",), row)
    return {"attention": _map(attention, ("step", "query", "key"), "mean over the width of tanh(query * key)")}


def _pick(core: Core, report: Report, names: tuple[str, ...], row: int) -> list[Tensor]:
    """One row of each of these reports, [T, ...]."""
    if missing := [name for name in names if name not in report]:
        raise ValueError(f"maps of {type(core).__name__} are made of {', '.join(names)}; not reported: {missing[0]}")
    rows = report[names[0]].shape[1]
    if not 0 <= row < rows:
        raise ValueError(f"row={row}, but the reports have rows 0 to {rows - 1}")
    return [report[name][:, row].detach().cpu().double() for name in names]


def _reach(episode_starts: Tensor | None, steps: int, row: int) -> Tensor:
    """Whether step t can look at step s, itself or an earlier one of its episode: bool [T, T]."""
    if episode_starts is None:
        return torch.ones(steps, steps, dtype=torch.bool).tril()
    episode = episode_starts[:, row].cpu().cumsum(0)
    return (episode[:, None] == episode).tril()


def _of_values(reads: Tensor, standing: Tensor, seen: Tensor) -> Tensor:
    """What is read of past changes -> what is read of past values, both [..., T, T].

    A change is a value less what stood in its place, u_t = v_t - sum_{s < t} standing_ts u_s, so that what reads do to
    changes, reads (I + standing)^-1 does to values.
    """
    earlier = standing.where(seen.tril(-1), 0)
    return torch.linalg.solve_triangular(earlier, reads.where(seen, 0), upper=False, left=False, unitriangular=True)


def _map(values: Tensor, axes: tuple[str, ...], meaning: str, labels: dict[str, tuple[str, ...]] | None = None) -> Map:
    return Map(values.numpy(), axes, meaning, labels or {})
