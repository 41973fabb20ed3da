"""Films of episodes, as GIF."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from engram.run import RunError

HEIGHT = 240
"""pixels of a picture at least; smaller ones are magnified by a whole number"""
BAR, INK = (250, 250, 248), (40, 44, 52)


def write_film(path: str | Path, pictures: Sequence[np.ndarray], captions: Sequence[str], fps: float) -> None:
    """Write pictures, uint8 [height, width, 3], with a line of text under each, as a GIF that repeats.

    Raises: RunError if the path is not of a GIF, OSError.
    """
    check_film(path)
    frames = [_captioned(picture, text) for picture, text in zip(pictures, captions, strict=True)]
    last = round(3000 / fps) + 1000
    each = [round(1000 / fps)] * (len(frames) - 1) + [last]  # the end stays a while
    frames[0].save(path, "GIF", save_all=True, append_images=frames[1:], duration=each, loop=0, optimize=True)


def check_film(path: str | Path) -> None:
    """Raise a RunError unless the path is of a kind of film that can be written."""
    if Path(path).suffix.lower() != ".gif":
        raise RunError(f"cannot film to {path}: only .gif is written (ffmpeg -i film.gif film.mp4 makes a video of it)")


def _captioned(picture: np.ndarray, text: str) -> Image.Image:
    scale = max(1, -(-HEIGHT // picture.shape[0]))
    image = Image.fromarray(picture)
    image = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
    font = ImageFont.load_default(max(12, image.width // 22))
    lines = text.split("\n")
    height = round(font.size * 1.35)
    frame = Image.new("RGB", (image.width, image.height + height * len(lines) + 6), BAR)
    frame.paste(image, (0, 0))
    draw = ImageDraw.Draw(frame)
    for i, line in enumerate(lines):
        draw.text((6, image.height + 2 + i * height), line, INK, font)
    return frame
