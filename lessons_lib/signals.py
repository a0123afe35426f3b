"""What ends a program from outside: Ctrl-C, and what a cluster's time limit or a container's stop sends."""

import contextlib
import signal
from collections.abc import Iterator

# A closed terminal sends SIGHUP. Windows has neither it nor, from elsewhere, SIGTERM, but SIGBREAK.
STOPS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)
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

    previous = _handled(STOPS, note)
    try:
        yield noted
    finally:
        _restore(previous)


@contextlib.contextmanager
def stops_raised() -> Iterator[None]:
    """Raises Terminated where Ctrl-C would raise KeyboardInterrupt."""

    def end(number: int, frame: object) -> None:
        raise Terminated(number)

    previous = _handled(STOPS[1:], end)
    try:
        yield
    finally:
        _restore(previous)


def _handled(signals: list, handler: object) -> dict:
    """Set the handler; returns those before. Other threads have none, and what is ignored stays (nohup)."""
    previous = {}
    with contextlib.suppress(ValueError):
        for each in signals:
            if each == signal.SIGINT or signal.getsignal(each) != signal.SIG_IGN:
                previous[each] = signal.signal(each, handler)
    return previous


def _restore(previous: dict) -> None:
    with contextlib.suppress(ValueError, TypeError):  # closed in another thread; nothing to restore
        for each, before in previous.items():
            signal.signal(each, before)
