"""The checks behind the exercises: is the learner's function right, and if not, what is wrong with it?

    checks.x0_from_score(yours)      a CheckResult: not_started, error, wrong or right
    checks.hint("04.1")              a question, a formula, a line with a blank; one more at each call
    checks.predict("04.p1")          a guess before the result, and checks.reveal("04.p1") after it
    checks.progress()                what you have done

Nothing here raises because of a learner's code, and nothing is lost with progress.json but the record itself.
"""

import importlib
from collections.abc import Callable
from html import escape
from typing import Any

from classroom.checks import judging, predictions, store
from classroom.checks.exercise import Exercise
from classroom.checks.judging import CheckResult, Page
from classroom.checks.predictions import PREDICTIONS, predict, reveal  # noqa: F401 (named in __all__)
from classroom.progress import Item, progress_map

LESSONS = [importlib.import_module(f"classroom.checks.lesson{number:02}") for number in range(15)]
EXERCISES: dict[str, Exercise] = {one.number: one for lesson in LESSONS for one in lesson.EXERCISES}
_HINTS_SHOWN: dict[str, int] = {}


def _check_of(exercise: Exercise) -> Callable[[Callable | None], CheckResult]:
    """`checks.NAME` of an exercise, with its signature as its docstring."""

    def check(function: Callable | None) -> CheckResult:
        return judging.judge(exercise, function)

    check.__name__ = check.__qualname__ = exercise.check_name
    check.__doc__ = (
        f"Exercise {exercise.number}: function({', '.join(exercise.arguments)}) -> {exercise.returns}."
    )
    return check


globals().update({one.check_name: _check_of(one) for one in EXERCISES.values()})
__all__ = [
    *("EXERCISES", "PREDICTIONS", "CheckResult", "Exercise", "hint", "predict", "progress"),
    *("recall", "remember", "reveal", "yours"),
    *(one.check_name for one in EXERCISES.values()),
]


def yours(number: str, function: Callable | None) -> Callable | None:
    """The learner's function if it is right, else None: so that a widget can run on it."""
    return function if judging.judge(_exercise(number), function, record=False).status == "right" else None


def hint(number: str) -> Page:
    """The next hint of an exercise below those seen before: a question, a formula, a line with a blank."""
    hints = _exercise(number).hints
    shown = _HINTS_SHOWN[number] = min(_HINTS_SHOWN.get(number, 0) + 1, len(hints))
    lines = [f"{i}. {text}" for i, text in enumerate(hints[:shown], start=1)]
    head = f"Hint {shown} of {len(hints)} for exercise {number}"
    lines.append("Call it again for one more." if shown < len(hints) else "These are all the hints.")
    html = judging.box(head, "<br>".join(map(escape, lines)))
    return Page("\n".join([head + ":", *lines]), html)


def remember(key: str, value: Any) -> None:
    """Keep a number, a word or a list for later lessons; a TypeError if JSON cannot hold the value."""
    store.put("kept", key, value)


def recall(key: str, default: Any = None) -> Any:
    """What was kept under `key`; for the number of a prediction, the guess; else `default`."""
    kept = store.section("kept")
    if key in kept:
        return kept[key]
    found = predictions.guess(key)
    return default if found is None else found


def progress() -> Page:
    """What you have done, as a map: a row a lesson, every exercise with its state, every guess."""
    items = []
    for number, one in EXERCISES.items():
        status = _status(number)
        done = {"not_started": 0, "right": 2}.get(status, 1)
        state = f"{judging.SIGNS[status]} {status.replace('_', ' ')}"
        items.append(Item(number, one.heading.partition(" ")[2], state, "exercise", done))
    for number, asked in PREDICTIONS.items():
        made = predictions.guess(number)
        state = f"guessed: {made}" if made else "no guess yet"
        items.append(Item(number, asked.question, state, "guess", 2 if made else 0))
    return Page(*progress_map(items))


def _status(number: str) -> str:
    kept = store.section("exercises").get(number)
    status = kept.get("status") if isinstance(kept, dict) else None
    return status if status in judging.SIGNS else "not_started"


def _exercise(number: str) -> Exercise:
    if number not in EXERCISES:
        raise ValueError(f"There is no exercise {number!r}: known are {', '.join(EXERCISES)}.")
    return EXERCISES[number]
