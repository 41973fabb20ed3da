"""The page: data as JSON, the scripts that draw it, and Plotly, in one file that asks for nothing else."""

import base64
import io
import json
import math
import os
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from engram.checkpoint import is_stream, write_atomically
from engram.run import RunError

SCRIPTS = (
    *("base.js", "runs.js", "curves.js", "scores.js"),
    *("maps.js", "graph.js", "steps.js", "episode.js", "sentence.js", "heatmaps.js", "memory.js"),
    "sections.js",
)


def write_page(path: str | Path, data: dict[str, Any]) -> None:
    """Write a report.

    Args: data: what the scripts draw, as JSON would hold it, with arrays and pictures besides.
    Raises: RunError if Plotly is not installed, OSError.
    """
    parts = files(__package__)
    page = parts.joinpath("page.html").read_text()
    content = json.dumps(_plain(data), allow_nan=False, separators=(",", ":"))
    scripts = "\n".join(parts.joinpath(name).read_text() for name in SCRIPTS)
    filled = {
        "STYLE": parts.joinpath("style.css").read_text(),
        "DATA": content.replace("<", "\\u003c"),  # nothing in it can end the element
        "PLOTLY": plotly_script().replace("</script", "<\\/script"),
        "SCRIPTS": scripts,
    }
    for name, text in filled.items():
        page = page.replace(f"@{name}@", text, 1)
    write_atomically(Path(path), page.encode())


def check_writable(path: str | Path) -> None:
    """Raise a RunError where a file could not be written, before anything is computed."""
    folder = Path(path).parent
    if not Path(path).name:
        raise RunError(f"cannot write {str(path)!r}: it names no file")
    if not folder.is_dir():
        raise RunError(f"cannot write {path}: there is no folder {folder}")
    if Path(path).is_dir():
        raise RunError(f"cannot write {path}: it is a folder")
    where = path if is_stream(Path(path)) else folder
    if not os.access(where, os.W_OK):
        raise RunError(f"cannot write {path}: no permission to write {where}")


def check_page(path: str | Path) -> None:
    """Raise a RunError unless a page can go there, before anything is computed."""
    if Path(path).suffix.lower() not in (".html", ".htm"):
        raise RunError(f"cannot report to {path}: a report is a page, .html")
    check_writable(path)
    plotly_script()


def plotly_script() -> str:
    """plotly.js. Raises: RunError if the package that brings it is not installed."""
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise RunError("--report needs Plotly: pip install plotly") from None
    return get_plotlyjs()


def _plain(value: Any) -> Any:
    """The value as JSON holds it: numbers with six digits, NaN and infinities as null, pictures as PNG."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, np.ndarray):
        if value.dtype == np.uint8 and value.ndim == 3:
            return png(value)
        if value.dtype.kind == "f" and value.ndim > 1:
            return packed(value)
        return [_number(item) for item in value.tolist()] if value.ndim == 1 else [_plain(row) for row in value]
    if isinstance(value, np.generic):
        return _number(value.item())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _number(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    short = float(f"{value:.6g}") if abs(value) < 1e5 else round(value, 1)
    return None if not math.isfinite(short) else int(short) if short.is_integer() else short


def packed(values: np.ndarray) -> dict[str, Any]:
    """An array of reals as 16-bit multiples of `scale`, in base64: three characters a cell, of which there are many."""
    finite = np.nan_to_num(values, posinf=0, neginf=0)
    scale = float(np.abs(finite).max(initial=0)) / 32767 or 1.0
    steps = np.round(finite / scale).astype("<i2")
    return {"shape": values.shape, "scale": scale, "data": base64.b64encode(steps.tobytes()).decode()}


def png(picture: np.ndarray) -> str:
    """A picture uint8 [height, width, 3] as the address of an image."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
