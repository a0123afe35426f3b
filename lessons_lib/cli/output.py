"""Printing that never ends the work: a closed pipe, a full disk, a console without Chinese letters."""

import contextlib
import errno
import os
import sys
from collections.abc import Callable, Iterator

UNHEARD = (errno.EPIPE, errno.EINVAL, errno.EIO)  # nobody reads on; the second is Windows' word for it


class _Output:
    """A stream that notes in `failed` what it cannot write, and goes on."""

    def __init__(self, stream, failed: list[OSError]) -> None:
        self.stream, self.failed = stream, failed

    def __getattr__(self, name: str):
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        try:
            self._try(self.stream.write, text)
        except UnicodeEncodeError:
            known = self.stream.encoding
            self._try(self.stream.write, text.encode(known, "backslashreplace").decode(known))
        return len(text)

    def flush(self) -> None:
        self._try(self.stream.flush)

    def _try(self, work: Callable, *given: str) -> None:
        try:
            work(*given)
        except OSError as error:
            if error.errno not in UNHEARD:
                self.failed.append(error)
            # All that follows, at the end too, goes nowhere.
            with contextlib.suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), self.stream.fileno())


@contextlib.contextmanager
def printing() -> Iterator[list[OSError]]:
    """Print to streams that never fail; the list gets why stdout could not take what somebody waits for."""
    before, failed = (sys.stdout, sys.stderr), []
    sys.stdout, sys.stderr = _Output(sys.stdout, failed), _Output(sys.stderr, [])
    try:
        yield failed
        sys.stdout.flush()
    finally:
        sys.stdout, sys.stderr = before
