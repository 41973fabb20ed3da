"""How a user stops a run: by a signal that the training loop obeys where it can save."""

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

MESSAGE = b"stopping as soon as it can be saved; Ctrl-C once more stops at once\n"


class StopRequest:
    """While it is entered, the first SIGINT or SIGTERM only sets `requested`, so that the loop ends where it can save.

        with StopRequest() as stop:
            for ...:
                if stop.requested:
                    run.save_checkpoint(step, state)
                    sys.exit(stop.exit_status)

    It says so on standard error. Ctrl-C after that raises KeyboardInterrupt at once. Python delivers signals to the
    main thread alone: entered in another thread, this does nothing and nothing is ever requested.
    """

    signals = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self._signal: int | None = None
        self._previous: dict[signal.Signals, Any] = {}

    @property
    def requested(self) -> bool:
        """Whether a signal has come."""
        return self._signal is not None

    @property
    def exit_status(self) -> int:
        """128 + the signal's number, as shells report it: 130 for SIGINT, 143 for SIGTERM; 0 without a request."""
        return 0 if self._signal is None else 128 + self._signal

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._receive) for number in self.signals}
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler or signal.SIG_DFL)  # None: the handler was not Python's, and is lost

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not self.requested:
            self._signal = number
            os.write(2, MESSAGE)  # not print, which a signal may find in the midst of another
