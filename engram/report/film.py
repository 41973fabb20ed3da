"""Films of episodes, as GIF or MP4."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from engram.run import RunError

HEIGHT = 240
"""pixels of a picture at least; smaller ones are magnified by a whole number"""
BAR, INK = (250, 250, 248), (40, 44, 52)
KINDS = (".gif", ".mp4")
PAUSE = 4.0
"""seconds that the end stays"""


def write_film(path: str | Path, pictures: Sequence[np.ndarray], captions: Sequence[str], fps: float) -> None:
    """Write pictures, uint8 [height, width, 3], with a line of text under each, as a GIF that repeats or as MP4.

    Raises: RunError if the path is of neither, OSError.
    """
    check_film(path)
    frames = [_captioned(picture, text) for picture, text in zip(pictures, captions, strict=True)]
    if Path(path).suffix.lower() == ".gif":
        each = [round(1000 / fps)] * (len(frames) - 1) + [round(1000 * PAUSE)]
        frames[0].save(path, "GIF", save_all=True, append_images=frames[1:], duration=each, loop=0, optimize=True)
    else:
        _write_mp4(path, frames + frames[-1:] * round(PAUSE * fps), fps)


def _write_mp4(path: str | Path, frames: Sequence[Image.Image], fps: float) -> None:
    from imageio_ffmpeg import write_frames  # slow to import

    writer = write_frames(str(path), frames[0].size, fps=fps, macro_block_size=2, ffmpeg_log_level="error")
    writer.send(None)
    for frame in frames:
        writer.send(frame.tobytes())
    writer.close()


def check_film(path: str | Path) -> None:
    """Raise a RunError unless the path is of a kind of film that can be written."""
    if Path(path).suffix.lower() not in KINDS:
        raise RunError(f"cannot film to {path}: choose {' or '.join(KINDS)}")


def _captioned(picture: np.ndarray, text: str) -> Image.Image:
    scale = max(1, -(-HEIGHT // picture.shape[0]))
    image = Image.fromarray(picture)
    image = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
    font = ImageFont.load_default(max(12, image.width // 22))
    lines = text.split("\n")
    height = round(font.size * 1.35)
    rows = image.height + height * len(lines) + 6
    frame = Image.new("RGB", (image.width + image.width % 2, rows + rows % 2), BAR)  # MP4 has even sides alone
    frame.paste(image, (0, 0))
    draw = ImageDraw.Draw(frame)
    for i, line in enumerate(lines):
        draw.text((6, image.height + 2 + i * height), line, INK, font)
    return frame
