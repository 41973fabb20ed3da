"""What dataclasses whose fields are flags of a command line have in common."""

from typing import ClassVar


class Flags:
    """Base of a dataclass whose field `name` is the flag --SECTION.NAME."""

    section: ClassVar[str] = ""
    """where the fields are on the command line; empty for flags without a section"""

    def require(self, valid: bool, field: str, demand: str) -> None:
        """Raise a ValueError that names the field, its value, what it has to be and its flag, unless it is valid."""
        if not valid:
            flag = f"--{'.'.join(filter(None, (self.section, field.replace('_', '-'))))}"
            raise ValueError(f"{field}={getattr(self, field)}, but it must be {demand} ({flag})")
