"""The machinery of the exercises: what an exercise is, and how a learner's function becomes a CheckResult."""

from __future__ import annotations

import datetime
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from html import escape
from typing import Any

import torch
from torch import Tensor

from classroom.checks import running, store

SIGNS = {"not_started": "○", "error": "⚠", "wrong": "✘", "right": "✔"}
COLOURS = {"not_started": "#7a869a", "error": "#d97706", "wrong": "#dc2626", "right": "#16a34a"}
UNFINISHED = "Replace the ... by your code, then run this cell again."


class Wrong(Exception):
    """Raised by an exercise's check: a sentence on what is wrong, and the line if one is to blame."""

    def __init__(self, message: str, line: str | None = None) -> None:
        super().__init__(message)
        self.line = line


class NotUsable(Wrong):
    """Wrong, whatever the exercise: nothing, of another kind or shape. The line that returns it is shown."""


class NotReal(NotUsable):
    """Not usable, because the result is complex, infinite or NaN."""


class Unfinished(Exception):
    """Raised by a check for a function that is not written yet."""


@dataclass(frozen=True)
class CheckResult:
    """What a check found.

    Args:
        exercise: its id, such as "03.1".
        status: "not_started", "error", "wrong" or "right".
        message: one or two sentences.
        line: the line of the learner's function where it happened, if one is to blame.
    """

    exercise: str
    status: str
    message: str
    line: str | None = None

    def __repr__(self) -> str:
        where = f"\n    {self.line}" if self.line else ""
        return f"[{self.status.replace('_', ' ')}] Exercise {self.exercise}: {self.message}{where}"

    def _repr_html_(self) -> str:
        word = self.status.replace("_", " ")
        head = f"{SIGNS[self.status]} Exercise {self.exercise}: {word}"
        line = f"<br><code>{escape(self.line)}</code>" if self.line else ""
        return box(head, escape(self.message) + line, COLOURS[self.status])


@dataclass(frozen=True)
class Exercise:
    """An exercise whose answer is a function.

    Args:
        number: its id, "NN.k".
        check_name: it is checked by `checks.CHECK_NAME(function)`.
        arguments: the names of the function's arguments, in order.
        hints: a question, a formula, a line with a blank.
        examine: takes the learner's function; raises Wrong, or returns a sentence for a right answer.
        diagnoses: the sentence for each classic wrong answer, by a short name; the tests plant every one.
        planted: for a repair, the function as the lesson gives it.
    """

    number: str
    minutes: int
    title: str
    check_name: str
    arguments: tuple[str, ...]
    hints: tuple[str, str, str]
    examine: Callable[[Callable], str]
    diagnoses: dict[str, str] = field(default_factory=dict)
    planted: Callable | None = None


def box(head: str, body: str, colour: str) -> str:
    """A small box that reads in a light and a dark theme: the page's own text colour beside a coloured bar.

    Args:
        head: plain text.
        body: HTML.
    """
    style = f"border-left: 5px solid {colour}; padding: 0.4em 0.8em; margin: 0.3em 0; background: {colour}1a"
    return f'<div role="note" style="{style}"><strong>{escape(head)}</strong><br>{body}</div>'


def judge(exercise: Exercise, function: Any, record: bool = True) -> CheckResult:
    """Check a learner's function; whatever it does, this returns a CheckResult.

    Args:
        record: keep the result in the progress.
    """
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
        return (
            "not_started",
            "This is the function as it was given: find what is wrong in it and repair it.",
            None,
        )
    return None


def _examined(exercise: Exercise, function: Callable) -> tuple[str, str, str | None]:
    try:
        inspect.signature(function).bind(*exercise.arguments)
    except TypeError:
        return "error", f"Your function must take ({', '.join(exercise.arguments)}), in this order.", None
    except ValueError:  # built-in functions may have no signature
        pass
    code = running.code_of(function)
    try:
        return "right", running.call_with_limit(lambda: exercise.examine(function), code), None
    except Wrong as error:
        line = running.line_of_return(code) if isinstance(error, NotUsable) else None
        return "wrong", str(error), error.line or line
    except (Unfinished, NotImplementedError):
        return "not_started", UNFINISHED, None
    except running.TookTooLong as error:
        seconds = f"{running.LIMIT_S:.0f} s"
        return "error", f"Your function did not end within {seconds} and was stopped.", error.line
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a learner's function may raise anything, SystemExit too
        if isinstance(error, TypeError) and "ellipsis" in str(error):
            return "not_started", UNFINISHED, running.line_of(error, code)
        text = (str(error).strip().splitlines() or [""])[0][:200]
        message = (
            f"Your function raised {type(error).__name__}{': ' + text if text else ''}".rstrip(".") + "."
        )
        return "error", message, running.line_of(error, code)


def _record(exercise: Exercise, status: str) -> None:
    before = store.section("exercises").get(exercise.number)
    before = before if isinstance(before, dict) else {}
    tries = before.get("tries", 0) if isinstance(before.get("tries", 0), int) else 0
    if status == "not_started" or before.get("status") == "right":
        return  # what was right once stays so
    today = datetime.date.today().isoformat()
    store.put("exercises", exercise.number, {"status": status, "tries": tries + 1, "date": today})


def expect_tensor(value: Any, shape: tuple[int, ...], names: str = "") -> Tensor:
    """The learner's result, if it is a finite real tensor of that shape.

    Args:
        names: what the axes are, such as "[B, C, H, W]".

    Raises:
        Wrong: one sentence on what it is instead.
    """
    if value is ...:
        raise Unfinished
    if value is None:
        raise NotUsable("Your function returns nothing: is the `return` missing?")
    if not isinstance(value, Tensor):
        raise NotUsable(f"Your function must return a tensor, got {_a(type(value).__name__)}.")
    if tuple(value.shape) != shape:
        wanted = f"{list(shape)}{', that is ' + names if names else ''}"
        raise NotUsable(f"The result must have shape {wanted}, got {list(value.shape)}.")
    if value.is_complex():
        raise NotReal("The result is complex: somewhere the square root of a negative number is taken.")
    value = value.detach().to("cpu", torch.float64)
    if bool(value.isnan().any()):
        raise NotReal(
            "The result holds NaN: look for the square root of a negative number, or for 0 divided by 0."
        )
    if bool(value.isinf().any()):
        raise NotReal("The result holds an infinite number: look for a division by 0.")
    return value


def close(a: Tensor, b: Tensor) -> bool:
    """Equal up to float32 rounding; NaN counts as equal to NaN."""
    return a.shape == b.shape and torch.allclose(a.double(), b.double(), rtol=1e-4, atol=1e-4, equal_nan=True)


def _a(noun: str) -> str:
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"
