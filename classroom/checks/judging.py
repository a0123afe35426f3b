"""From a learner's function to a CheckResult, whatever the function does."""

import datetime
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from typing import Any

from classroom.checks import engine, running, store
from classroom.checks.exercise import Exercise, NotUsable, Unfinished, Wrong

SIGNS = {"not_started": "○", "error": "⚠", "wrong": "✘", "right": "✔"}
COLOURS = {"not_started": "#7a869a", "error": "#d97706", "wrong": "#dc2626", "right": "#16a34a"}
UNFINISHED = "Replace the ... by your code, then run this cell again."


@dataclass(frozen=True)
class CheckResult:
    """What a check found."""

    exercise: str  # its id, such as "03.1"
    status: str  # "not_started", "error", "wrong" or "right"
    message: str  # one or two sentences
    line: str | None = None  # of the learner's function, if one is to blame

    def __repr__(self) -> str:
        where = f"\n    {self.line}" if self.line else ""
        return f"[{self.status.replace('_', ' ')}] Exercise {self.exercise}: {self.message}{where}"

    def _repr_html_(self) -> str:
        word = self.status.replace("_", " ")
        head = f"{SIGNS[self.status]} Exercise {self.exercise}: {word}"
        line = f"<br><code>{escape(self.line)}</code>" if self.line else ""
        return box(head, escape(self.message) + line, COLOURS[self.status])


class Page:
    """Something to read, as HTML in a notebook and as text elsewhere."""

    def __init__(self, text: str, html: str) -> None:
        self.text, self.html = text, html

    def __repr__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        return self.html


def box(head: str, body: str, colour: str = "#2563eb") -> str:
    """A head over HTML that reads on light and dark pages: the page's own colour beside a bar."""
    style = f"border-left: 5px solid {colour}; padding: 0.4em 0.8em; margin: 0.3em 0; background: {colour}1a"
    return f'<div role="note" style="{style}"><strong>{escape(head)}</strong><br>{body}</div>'


def judge(exercise: Exercise, function: Any, record: bool = True) -> CheckResult:
    """Check a learner's function, whatever it does; `record` keeps the result in the progress."""
    status, message, line = _not_started(exercise, function) or _examined(exercise, function)
    if record:
        _record(exercise, status)
    return CheckResult(exercise.number, status, message, line)


def _not_started(exercise: Exercise, function: Any) -> tuple[str, str, None] | None:
    if function is None or function is ...:
        return "not_started", "Write the function, then run this cell again.", None
    if not callable(function):
        call = f"checks.{exercise.check_name}(your_function)"
        return "error", f"Hand in the function itself, without calling it: {call}.", None
    if (getattr(inspect.unwrap(function), "__module__", None) or "").startswith(("lessons_lib", "classroom")):
        return "not_started", "That is the library's function: hand in your own.", None
    if running.is_stub(function):
        return "not_started", UNFINISHED, None
    if exercise.planted is not None and running.same_body(function, exercise.planted):
        message = "This is the function as it was given: find what is wrong in it and repair it."
        return "not_started", message, None
    return None


def _examined(exercise: Exercise, function: Callable) -> tuple[str, str, str | None]:
    try:
        inspect.signature(function).bind(*exercise.names)
    except TypeError:
        return "error", f"Your function must take ({', '.join(exercise.names)}), in this order.", None
    except ValueError:  # built-in functions may have no signature
        pass
    code = running.code_of(function)
    running.warm_up(code)
    try:
        return "right", running.call_with_limit(lambda: engine.examine(exercise, function), code), None
    except Wrong as error:
        line = running.line_of_return(code) if isinstance(error, NotUsable) else running.line_of(error, code)
        return "wrong", str(error), error.line or line
    except Unfinished:
        return "not_started", UNFINISHED, None
    except running.TookTooLong as error:
        message = f"Your function did not end within {running.LIMIT_S:.0f} s and was stopped."
        return "error", message, error.args[0]
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a learner's function may raise anything, SystemExit too
        if isinstance(error, TypeError) and "ellipsis" in str(error):
            return "not_started", UNFINISHED, running.line_of(error, code)
        # torch raises it too, for what a tensor of True and False cannot do.
        if isinstance(error, NotImplementedError) and "not implemented for" not in str(error):
            return "not_started", UNFINISHED, None
        text = ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])[:200].rstrip(".")
        return "error", f"Your function raised {text}.", running.line_of(error, code)


def _record(exercise: Exercise, status: str) -> None:
    before = store.section("exercises").get(exercise.number)
    before = before if isinstance(before, dict) else {}
    tries = before.get("tries", 0) if isinstance(before.get("tries", 0), int) else 0
    if status == "not_started" or before.get("status") == "right":
        return  # what was right once stays so
    today = datetime.date.today().isoformat()
    store.put("exercises", exercise.number, {"status": status, "tries": tries + 1, "date": today})
