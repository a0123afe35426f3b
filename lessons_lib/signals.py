"""What ends a program from outside: Ctrl-C, and what a cluster's time limit or a container's stop sends."""

import contextlib
import signal
from collections.abc import Callable, Iterator

# A closed terminal sends SIGHUP. Windows has no SIGHUP, and SIGBREAK besides.
STOPS = [
    signal.Signals[name] for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)
]


class Terminated(KeyboardInterrupt):
    """Stopped by a signal that is no Ctrl-C: whatever handles Ctrl-C handles it too."""


@contextlib.contextmanager
def stops_noted() -> Iterator[list[int]]:
    """The first signal is put into the list instead of breaking off in mid-step; the second breaks off."""
    noted: list[int] = []

    def note(number: int, frame: object) -> None:
        noted.append(number)
        for each, before in previous.items():
            signal.signal(each, signal.default_int_handler if each == signal.SIGINT else before)

    with _handled(STOPS, note) as previous:
        yield noted


def stops_raised() -> contextlib.AbstractContextManager:
    """Within it Terminated is raised where Ctrl-C would raise KeyboardInterrupt."""

    def end(number: int, frame: object) -> None:
        raise Terminated(number)

    return _handled(STOPS[1:], end)


@contextlib.contextmanager
def _handled(signals: list, handler: Callable) -> Iterator[dict]:
    """Yields the handlers before. Another thread sets none; what is ignored stays so (nohup)."""
    previous = {}
    with contextlib.suppress(ValueError):
        for each in signals:
            if each == signal.SIGINT or signal.getsignal(each) != signal.SIG_IGN:
                previous[each] = signal.signal(each, handler)
    try:
        yield previous
    finally:
        with contextlib.suppress(ValueError, TypeError):  # closed in another thread; nothing to restore
            for each, before in previous.items():
                signal.signal(each, before)
