"""How Mini-Pacman looks: the colour, the planes and the letter of every cell.

A palette has an entry for each power that Pacman may have left (P: 0 to the duration of a pill) and each cell (C).
"""

import numpy as np

from engram.envs.mini_pacman_map import FOOD, GHOST, PACMAN, PILL, WALL


def rgb_palettes(num_pills: int, pill_duration: int) -> np.ndarray:
    """Colours, uint8 [P, C, 3]. A ghost is red without power, yellow under full power, orange between."""
    wall, food, pill, ghost, pacman = _layers(num_pills)
    edible = np.arange(pill_duration + 1) / pill_duration
    palettes = np.zeros((pill_duration + 1, len(wall), 3))
    palettes[:, wall] = 1, 1, 1
    palettes[:, food] = 0, 0, 1
    palettes[:, pill] = 0, 1, 1
    palettes[:, ghost] = np.stack([np.ones_like(edible), edible, np.zeros_like(edible)], 1)[:, None]
    palettes[:, pacman] = 0, 1, 0
    return np.round(255 * palettes).astype(np.uint8)


def plane_palettes(num_pills: int, pill_duration: int) -> np.ndarray:
    """Planes for wall, food, Pacman, dangerous ghost, edible ghost and pill, uint8 [P, C, 6]."""
    wall, food, pill, ghost, pacman = _layers(num_pills)
    edible = np.arange(pill_duration + 1)[:, None] / pill_duration
    planes = [wall, food, pacman, ghost * (1 - edible), ghost * edible, pill]
    return np.round(255 * np.stack(np.broadcast_arrays(*planes), 2)).astype(np.uint8)


def letters(num_pills: int) -> str:
    """The letter of each cell."""
    shown = np.full(PILL * (num_pills + 1), " ")
    for letter, layer in zip("#.oGP", _layers(num_pills), strict=True):
        shown[layer] = letter
    return "".join(shown)


def _layers(num_pills: int) -> tuple[np.ndarray, ...]:
    """Which cells, bool [C], have a wall, food, a pill, a ghost, Pacman; in colour each hides those before it."""
    cells = np.arange(PILL * (num_pills + 1))
    return cells & WALL > 0, cells & FOOD > 0, cells >= PILL, cells & GHOST > 0, cells & PACMAN > 0
