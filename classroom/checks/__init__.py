"""The checks behind the exercises: is the learner's function right, and if not, what is wrong with it?

    checks.x0_from_score(yours)      a CheckResult: not_started, error, wrong or right
    checks.hint("04.1")              a question, a formula, a line with a blank; one more at each call
    checks.predict("04.p1")          a guess before the result, and checks.reveal("04.p1") after it
    checks.progress()                what you have done

Nothing here raises because of a learner's code, and nothing is lost with progress.json but the record itself.
"""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import Any

from classroom.checks import (
    judging,
    lesson00,
    lesson01,
    lesson02,
    lesson03,
    lesson04,
    lesson05,
    lesson06,
    lesson07,
    lesson08,
    lesson09,
    lesson10,
    lesson11,
    lesson12,
    predictions,
    store,
)
from classroom.checks.judging import CheckResult, Exercise
from classroom.checks.predictions import PREDICTIONS, predict, reveal

__all__ = [
    "EXERCISES",
    "PREDICTIONS",
    "CheckResult",
    "Exercise",
    "all_wanted",
    "any_of",
    "at_scale",
    "attribute_log_prob",
    "away_from",
    "betas_of",
    "class_gradient",
    "ddim_step",
    "flip_some",
    "grid_inputs",
    "held_still",
    "heun_step",
    "hint",
    "inverse_step",
    "invert",
    "loss_by_timestep",
    "multi_head",
    "noise_more",
    "noising_loss",
    "not_beaten",
    "order_of",
    "predict",
    "progress",
    "pulled_estimate",
    "recall",
    "receptive_field",
    "remember",
    "reveal",
    "shifted_schedule",
    "there_and_back",
    "to_shown",
    "x0_from_score",
    "yours",
]

EXERCISES: dict[str, Exercise] = {
    one.number: one
    for lesson in (
        *(lesson00, lesson01, lesson02, lesson03, lesson04, lesson05),
        *(lesson06, lesson07, lesson08, lesson09, lesson10, lesson11, lesson12),
    )
    for one in lesson.EXERCISES
}
_HINTS_SHOWN: dict[str, int] = {}


def to_shown(function: Callable | None) -> CheckResult:
    """Exercise 00.1: function(x) from [-1, 1] to [0, 1]."""
    return judging.judge(EXERCISES["00.1"], function)


def betas_of(function: Callable | None) -> CheckResult:
    """Exercise 01.1: function(abar) -> the betas that make this curve, [T]."""
    return judging.judge(EXERCISES["01.1"], function)


def noise_more(function: Callable | None) -> CheckResult:
    """Exercise 01.2: function(x, abar, abar_next, eps) -> the image at abar_next, [B, C, H, W]."""
    return judging.judge(EXERCISES["01.2"], function)


def receptive_field(function: Callable | None) -> CheckResult:
    """Exercise 02.1: function(layers) -> how many input pixels along one side an output pixel depends on."""
    return judging.judge(EXERCISES["02.1"], function)


def multi_head(function: Callable | None) -> CheckResult:
    """Exercise 02.2: function(q, k, v, heads) -> attention in several heads, [B, N, C]."""
    return judging.judge(EXERCISES["02.2"], function)


def noising_loss(function: Callable | None) -> CheckResult:
    """Exercise 03.1: the training loss, function(model, schedule, x_0, generator) -> loss."""
    return judging.judge(EXERCISES["03.1"], function)


def loss_by_timestep(function: Callable | None) -> CheckResult:
    """Exercise 03.2: function(eps_fn, schedule, x_0, timesteps, generator) -> [len(timesteps)]."""
    return judging.judge(EXERCISES["03.2"], function)


def x0_from_score(function: Callable | None) -> CheckResult:
    """Exercise 04.1: function(x_t, score, abar) -> the estimate of x_0, [B, C, H, W]."""
    return judging.judge(EXERCISES["04.1"], function)


def ddim_step(function: Callable | None) -> CheckResult:
    """Exercise 04.2: function(x_t, eps, abar, abar_prev, eta, noise) -> x_prev [B, C, H, W]."""
    return judging.judge(EXERCISES["04.2"], function)


def attribute_log_prob(function: Callable | None) -> CheckResult:
    """Exercise 05.1: function(logit, value) -> log p(attribute = value), [B]."""
    return judging.judge(EXERCISES["05.1"], function)


def class_gradient(function: Callable | None) -> CheckResult:
    """Exercise 05.2: function(classifier, x_t, t, y) -> the gradient of log p(y given x_t), [B, C, H, W]."""
    lesson05.warm_up(function)
    return judging.judge(EXERCISES["05.2"], function)


def pulled_estimate(function: Callable | None) -> CheckResult:
    """Exercise 06.1: function(x_0, gradient, abar, s) -> the estimate after guidance, [B, C, H, W]."""
    return judging.judge(EXERCISES["06.1"], function)


def any_of(function: Callable | None) -> CheckResult:
    """Exercise 06.2: function(logits, wanted) -> log p(y is one of the wanted), [B]."""
    return judging.judge(EXERCISES["06.2"], function)


def at_scale(function: Callable | None) -> CheckResult:
    """Exercise 07.1: function(eps_a, a, eps_b, b, w) -> the guided prediction at scale w, [B, C, H, W]."""
    return judging.judge(EXERCISES["07.1"], function)


def away_from(function: Callable | None) -> CheckResult:
    """Exercise 07.2: function(model, x_t, t, y, y_not, w) -> eps guided from y_not to y, [B, C, H, W]."""
    return judging.judge(EXERCISES["07.2"], function)


def grid_inputs(function: Callable | None) -> CheckResult:
    """Exercise 08.1: function(x_T, num_classes) -> x [N*K, C, H, W] and y [N*K], row after row."""
    return judging.judge(EXERCISES["08.1"], function)


def inverse_step(function: Callable | None) -> CheckResult:
    """Exercise 08.2: function(eps_fn, x, t_to, abar, abar_to) -> x at abar_to, [B, C, H, W]."""
    return judging.judge(EXERCISES["08.2"], function)


def there_and_back(function: Callable | None) -> CheckResult:
    """Exercise 09.1: function(intervene, x_0, source, target) -> the error of each image, [B]."""
    return judging.judge(EXERCISES["09.1"], function)


def invert(function: Callable | None) -> CheckResult:
    """Exercise 09.2: function(eps_fn, schedule, x_0, timesteps) -> x_T, [B, C, H, W]."""
    return judging.judge(EXERCISES["09.2"], function)


def order_of(function: Callable | None) -> CheckResult:
    """Exercise 10.1: function(steps, errors) -> p, where the errors fall as steps**-p."""
    return judging.judge(EXERCISES["10.1"], function)


def heun_step(function: Callable | None) -> CheckResult:
    """Exercise 10.2: function(eps_fn, x_t, t, t_next, abar, abar_next) -> x_next, [B, C, H, W]."""
    return judging.judge(EXERCISES["10.2"], function)


def shifted_schedule(function: Callable | None) -> CheckResult:
    """Exercise 11.1: function(abar, factor) -> the abar whose SNR is 1/factor² of it, [T]."""
    return judging.judge(EXERCISES["11.1"], function)


def flip_some(function: Callable | None) -> CheckResult:
    """Exercise 11.2: function(x_0, generator) -> the images, about half of them mirrored, [B, C, H, W]."""
    return judging.judge(EXERCISES["11.2"], function)


def not_beaten(function: Callable | None) -> CheckResult:
    """Exercise 11.3: function(rows) -> those that no other row beats in accuracy and FID."""
    return judging.judge(EXERCISES["11.3"], function)


def all_wanted(function: Callable | None) -> CheckResult:
    """Exercise 12.1: function(logits, wanted) -> log p(all that is wanted), [B]."""
    return judging.judge(EXERCISES["12.1"], function)


def held_still(function: Callable | None) -> CheckResult:
    """Exercise 12.2: function(pull, other) -> pull without its part along other, [B, C, H, W]."""
    return judging.judge(EXERCISES["12.2"], function)


def yours(number: str, function: Callable | None) -> Callable | None:
    """The learner's function if it is right, else None: so that a widget can run on it.

    Raises:
        ValueError: for an unknown exercise.
    """
    return function if judging.judge(_exercise(number), function, record=False).status == "right" else None


class Page:
    """Something to read, as HTML in a notebook and as text elsewhere."""

    def __init__(self, text: str, html: str) -> None:
        self.text, self.html = text, html

    def __repr__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        return self.html


def hint(number: str) -> Page:
    """The next hint of an exercise below those seen before: a question, a formula, a line with a blank.

    Raises:
        ValueError: for an unknown exercise.
    """
    hints = _exercise(number).hints
    shown = _HINTS_SHOWN[number] = min(_HINTS_SHOWN.get(number, 0) + 1, len(hints))
    lines = [f"{i}. {text}" for i, text in enumerate(hints[:shown], start=1)]
    head = f"Hint {shown} of {len(hints)} for exercise {number}"
    lines.append("Call it again for one more." if shown < len(hints) else "These are all the hints.")
    html = judging.box(head, "<br>".join(map(escape, lines)), predictions.BLUE)
    return Page("\n".join([head + ":", *lines]), html)


def remember(key: str, value: Any) -> None:
    """Keep a number, a word or a list for later lessons.

    Raises:
        TypeError: if JSON cannot hold the value.
    """
    store.put("kept", key, value)


def recall(key: str, default: Any = None) -> Any:
    """What was kept under `key`; for the number of a prediction, the guess; else `default`."""
    kept = store.section("kept")
    if key in kept:
        return kept[key]
    found = predictions.guess(key)
    return default if found is None else found


def progress() -> Page:
    """What you have done: every exercise with its state, every prediction with your guess."""
    states = {number: _state(number) for number in EXERCISES}
    guesses = {number: predictions.guess(number) for number in PREDICTIONS}
    rows = [
        (one.number, f"{one.title} ({one.minutes} min)", states[one.number]) for one in EXERCISES.values()
    ]
    rows += [
        (number, asked.question, f"guessed: {guesses[number]}" if guesses[number] else "no guess yet")
        for number, asked in PREDICTIONS.items()
    ]
    rows.sort()
    right, made = list(states.values()).count(_state_text("right")), sum(map(bool, guesses.values()))
    head = f"What you have done: {right} of {len(EXERCISES)} exercises right"
    head += f", {made} of {len(PREDICTIONS)} guesses made"
    text = "\n".join([head, *(f"{number:<6} {what} - {state}" for number, what, state in rows)])
    cells = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    html = f"<strong>{head}</strong><table><tr><th>number</th><th>what</th><th>state</th></tr>{cells}</table>"
    return Page(text, html)


def _state(number: str) -> str:
    kept = store.section("exercises").get(number)
    status = kept.get("status") if isinstance(kept, dict) else None
    return _state_text(status if status in judging.SIGNS else "not_started")


def _state_text(status: str) -> str:
    return f"{judging.SIGNS[status]} {status.replace('_', ' ')}"


def _exercise(number: str) -> Exercise:
    if number not in EXERCISES:
        raise ValueError(f"There is no exercise {number!r}: known are {', '.join(EXERCISES)}.")
    return EXERCISES[number]
