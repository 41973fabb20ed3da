"""Where text comes from, and what is said when it is not there."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import tyro

DATA_DIR = os.environ.get("ENGRAM_DATA") or None
"""the folder of a user who names none"""
DataDir = Annotated[str | None, tyro.conf.arg(name="data-dir", prefix_name=False)]
"""of a task's field: its flag is --data-dir"""
GENERATED, REAL, PARTLY_GENERATED = "generated", "real", "partly generated"


class Corpus(NamedTuple):
    content: Any
    """what a parser made of the lines"""
    origin: str
    """generated, real or partly generated"""
    notes: dict[str, Any]
    """what a report should say of it; "differs" is a dict of all that is not as published"""


def missing(paths: Sequence[Path], source: str) -> ValueError:
    """The error for files that the user's folder lacks: those sought, and where they come from."""
    return ValueError(f"--data-dir has no {' or '.join(str(path) for path in paths)}; {source}")
