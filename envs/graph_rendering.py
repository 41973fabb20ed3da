"""Pictures and text of a GraphPOMDP member: plain numpy, no plotting library."""

import numpy as np

_SIZE = 360
_RADIUS = 130
_BACKGROUND, _INK, _EDGE = (250, 250, 248), (40, 44, 52), (130, 138, 150)
_NODE, _AGENT, _GOAL = (221, 227, 235), (88, 184, 108), (250, 204, 62)

_GLYPHS = {  # 3 x 5 pixels, one octal digit a row
    "0": 0o75557,
    "1": 0o26227,
    "2": 0o71747,
    "3": 0o71717,
    "4": 0o55711,
    "5": 0o74717,
    "6": 0o74757,
    "7": 0o71222,
    "8": 0o75757,
    "9": 0o75717,
    ",": 0o00024,
}


class Canvas:
    """A picture, float [size, size, 3], with anti-aliased shapes; points are (x, y) arrays in pixels."""

    def __init__(self, size: int, background: tuple[int, int, int]):
        self.pixels = np.full((size, size, 3), background, np.float64)

    def _fill(self, low: np.ndarray, high: np.ndarray, distance, colour: tuple[int, int, int]) -> None:
        """Colour the pixels of a box where `distance(x, y)` from the shape's edge is negative."""
        (left, top), (right, bottom) = np.clip([low - 1, high + 2], 0, len(self.pixels)).astype(int)
        y, x = np.mgrid[top:bottom, left:right] + 0.5
        cover = np.clip(0.5 - distance(x, y), 0, 1)[..., None]
        box = self.pixels[top:bottom, left:right]
        box += cover * (np.array(colour) - box)

    def disc(self, centre: np.ndarray, radius: float, colour: tuple[int, int, int]) -> None:
        """A filled disc."""
        self._fill(
            centre - radius, centre + radius, lambda x, y: np.hypot(x - centre[0], y - centre[1]) - radius, colour
        )

    def line(self, start: np.ndarray, end: np.ndarray, width: float, colour: tuple[int, int, int], taper: float = 1):
        """A line with round ends; its width shrinks to `taper` times `width` on the way."""
        along = end - start
        length = np.hypot(*along)

        def distance(x, y):
            part = np.clip(((x - start[0]) * along[0] + (y - start[1]) * along[1]) / length**2, 0, 1)
            gap = np.hypot(x - start[0] - part * along[0], y - start[1] - part * along[1])
            return gap - width / 2 * (1 - part * (1 - taper))

        self._fill(np.minimum(start, end) - width, np.maximum(start, end) + width, distance, colour)

    def text(self, centre: np.ndarray, text: str, scale: int, colour: tuple[int, int, int]) -> None:
        """Digits and commas, `scale` pixels per dot."""
        rows = [
            "0".join(f"{_GLYPHS[letter] >> 3 * row & 7:03b}" for letter in text)  # one empty column between glyphs
            for row in range(4, -1, -1)
        ]
        dots = np.kron(np.array([[dot == "1" for dot in row] for row in rows]), np.ones((scale, scale), bool))
        left, top = np.round(centre - np.array(dots.shape[::-1]) / 2).astype(int)
        self.pixels[top : top + dots.shape[0], left : left + dots.shape[1]][dots] = colour


def draw_graph(graph: np.ndarray, agent: int, goal: int, progress: float) -> np.ndarray:
    """States on a circle, edges with the actions that take them, agent green, goal yellow, progress as a bar.

    Args:
        graph: successor table [S, A].
        agent, goal: states.
        progress: elapsed part of the episode, 0 to 1.

    Returns:
        uint8 [360, 360, 3].
    """
    canvas = Canvas(_SIZE, _BACKGROUND)
    num_states = len(graph)
    angles = 2 * np.pi * np.arange(num_states) / num_states - np.pi / 2
    centres = _SIZE / 2 + _RADIUS * np.stack([np.cos(angles), np.sin(angles)], 1)
    radius = min(24.0, 0.5 * np.pi * _RADIUS / num_states)
    labels = []
    for state, successor in sorted(_edges(graph)):
        along = centres[successor] - centres[state]
        along /= np.hypot(*along)
        aside = 0.3 * radius * np.array([-along[1], along[0]])  # keeps an edge apart from the one that comes back
        start, end = centres[state] + aside + radius * along, centres[successor] + aside - 1.05 * radius * along
        canvas.line(start, end, 2, _EDGE)
        canvas.line(end - 0.5 * radius * along, end, 0.5 * radius, _EDGE, taper=0.1)
        labels.append((start + 0.36 * (end - start), _edges(graph)[state, successor]))
    for state, centre in enumerate(centres):
        canvas.disc(centre, radius, _INK)
        canvas.disc(centre, radius - 1.5, _AGENT if state == agent else _GOAL if state == goal else _NODE)
        if radius > 12:
            canvas.text(centre, str(state), 3, _INK)
    if radius > 12:
        for place, actions in labels:
            canvas.disc(place, 7 + 4 * len(actions), _BACKGROUND)
            canvas.text(place, ",".join(map(str, actions)), 2, _INK)
    bar = np.array([6.0, _SIZE - 8.0]), np.array([_SIZE - 6.0, _SIZE - 8.0])
    canvas.line(*bar, 5, _NODE)
    if progress > 0:
        canvas.line(bar[0], bar[0] + progress * (bar[1] - bar[0]), 5, _EDGE)
    return canvas.pixels.round().astype(np.uint8)


def describe_graph(graph: np.ndarray, agent: int, goal: int) -> str:
    """One line per state: a mark on agent (A) and goal (G), and where each set of actions leads."""
    lines = []
    for state in range(len(graph)):
        mark = "A" if state == agent else "G" if state == goal else " "
        ways = (
            f"{','.join(map(str, taken))} -> {end}" for (start, end), taken in _edges(graph).items() if start == state
        )
        lines.append(f"{mark} {state}: " + "; ".join(ways))
    return "\n".join(lines)


def _edges(graph: np.ndarray) -> dict[tuple[int, int], list[int]]:
    """Actions by (state, successor)."""
    edges = {}
    for state, action in np.argwhere(graph >= 0):
        edges.setdefault((int(state), int(graph[state, action])), []).append(int(action))
    return edges
