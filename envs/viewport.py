"""Grids of cells as an agent sees them, and as pictures and text.

A cell is a small integer; a palette uint8 [C, 3] says which colour each of the C kinds of cell has.
"""

from typing import Any

import numpy as np

from engram.kernels import njit

CELL_SIZE = 16
"""Side of a cell in a picture, in pixels."""

MAX_VIEW = 199
"""Side of the largest window, which shows a grid of 101 x 101 cells whole from anywhere within its walls."""

MOVES = np.array([(-1, 0), (1, 0), (0, -1), (0, 1)])
"""Rows and columns that the actions lead by: 0 up, 1 down, 2 left, 3 right."""

_FRAME = np.array((255, 64, 160), np.uint8)


@njit(cache=True)
def crop(grid, row, column, outside, window):
    """Copy the cells of `grid` [H, W] around (row, column) into `window` [V, U]; `outside` stands beyond the grid."""
    height, width = grid.shape
    rows, columns = window.shape
    top, left = row - rows // 2, column - columns // 2
    if top >= 0 and left >= 0 and top + rows <= height and left + columns <= width:
        for i in range(rows):
            for j in range(columns):
                window[i, j] = grid[top + i, left + j]
        return
    for i in range(rows):
        for j in range(columns):
            inside = 0 <= top + i < height and 0 <= left + j < width
            window[i, j] = grid[top + i, left + j] if inside else outside


@njit(cache=True)
def paint(cells, palette, planes):
    """Write the colours [K, C] of `cells` [H, W] into `planes` [C, H, W]."""
    height, width = cells.shape
    for i in range(height):
        for j in range(width):
            for channel in range(planes.shape[0]):
                planes[channel, i, j] = palette[cells[i, j], channel]


def check_view(view: Any) -> None:
    """Raise a ValueError unless `view` is "full" or the side of a window with a cell in its centre."""
    is_integer = isinstance(view, int | np.integer) and not isinstance(view, bool)
    if view != "full" and (not is_integer or not 3 <= view <= MAX_VIEW or view % 2 == 0):
        raise ValueError(f"view must be an odd integer in 3..{MAX_VIEW}, or 'full'; got {view!r}")


def draw_cells(cells: np.ndarray, palette: np.ndarray, view: tuple[int, int, int] | None = None) -> np.ndarray:
    """Picture of a grid, with the agent's view framed.

    Args:
        cells: [H, W].
        palette: uint8 [C, 3].
        view: row and column of its centre and its odd side, in cells; None draws no frame.

    Returns:
        uint8 [16 H, 16 W, 3].
    """
    picture = np.kron(palette[cells], np.ones((CELL_SIZE, CELL_SIZE, 1), np.uint8))
    if view is not None:
        row, column, size = view
        top, left = max(row - size // 2, 0) * CELL_SIZE, max(column - size // 2, 0) * CELL_SIZE
        bottom, right = (row + size // 2 + 1) * CELL_SIZE, (column + size // 2 + 1) * CELL_SIZE
        seen = picture[top:bottom, left:right]
        seen[:2] = seen[-2:] = seen[:, :2] = seen[:, -2:] = _FRAME
    return picture


def write_cells(cells: np.ndarray, symbols: str) -> str:
    """Text of a grid [H, W], a line per row; `symbols[c]` is a cell c."""
    return "\n".join("".join(symbols[cell] for cell in row) for row in cells)
