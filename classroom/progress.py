"""What a learner has done, as a map: a row a lesson, a dot an exercise, a square a guess."""

import itertools
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

TITLES = (  # by the lesson's number
    *("Start here", "Forward process", "U-Net", "Training", "Sampling", "Noisy classifier"),
    *("Classifier guidance", "Classifier-free guidance", "Counterfactual grids", "Measuring counterfactuals"),
    *("Fewer steps", "Colour", "Faces"),
)
SIGNS = {"exercise": "○◐●", "guess": "□□■"}  # by what is done
LEGEND = "● exercise right, ◐ begun, ○ not yet; ■ guess made, □ not yet"
COLOUR = "#3b82c4"  # a contrast above 3 on light pages and on dark ones
FILLS = ("transparent", f"linear-gradient(90deg, {COLOUR} 50%, transparent 50%)", COLOUR)
BAR = 20  # characters


class Item(NamedTuple):
    """An exercise or a guess: `done` is 0 for not yet, 1 for begun, 2 for done."""

    number: str
    what: str
    state: str  # in words
    kind: str  # "exercise" or "guess"
    done: int


def progress_map(items: Sequence[Item]) -> tuple[str, str]:
    """The map of these as text, and as HTML for light and dark pages, wide and narrow."""
    items = sorted(items, key=lambda item: item.number)
    lessons = {number: list(some) for number, some in itertools.groupby(items, lambda item: item.number[:2])}
    right, made = ([one.done == 2 for one in items if one.kind == kind] for kind in ("exercise", "guess"))
    said = f"{sum(right)} of {len(right)} exercises right, {sum(made)} of {len(made)} guesses made"
    share = (sum(right) + sum(made)) / max(len(items), 1)
    return _text(items, lessons, said, share), _html(items, lessons, said, share)


def _text(items: Sequence[Item], lessons: dict[str, list[Item]], said: str, share: float) -> str:
    full = round(BAR * share)
    lines = [f"What you have done: {said}", f"[{'#' * full}{'-' * (BAR - full)}] {share:.0%}"]
    for number, some in lessons.items():
        signs = " ".join(SIGNS[one.kind][one.done] for one in some)
        lines.append(f"{number} {_title(number):<27}{signs}")
    begun = [f"{one.number:<6} {one.what} - {one.state}" for one in items if one.done]
    return "\n".join([*lines, LEGEND, *begun])


def _html(items: Sequence[Item], lessons: dict[str, list[Item]], said: str, share: float) -> str:
    row = "display: flex; gap: 0.8em; align-items: center; padding: 3px 0; border-top: 1px solid #8884"
    rows = "".join(
        f'<div role="listitem" style="{row}"><span style="opacity: 0.75">{number}</span>'
        f'<span style="flex: 1">{escape(_title(number))}</span>'
        f'<span style="white-space: nowrap; line-height: 1">{"".join(map(_dot, some))}</span></div>'
        for number, some in lessons.items()
    )
    round_bar = "height: 8px; border-radius: 4px; background"
    bar = (
        f'<div role="progressbar" aria-label="done" aria-valuemin="0" aria-valuemax="100" '
        f'aria-valuenow="{100 * share:.0f}" style="{round_bar}: #8884; margin: 6px 0">'
        f'<div style="{round_bar}: {COLOUR}; width: {100 * share:.1f}%"></div></div>'
    )
    details = "".join(
        f'<div style="padding: 2px 0"><b>{one.number}</b> {escape(one.what)} – {escape(one.state)}</div>'
        for one in items
    )
    return (
        f'<div style="max-width: 560px"><strong>What you have done: {said}</strong>{bar}'
        f'<div role="list" aria-label="lessons">{rows}</div>'
        f'<div style="font-size: 85%; opacity: 0.8; margin: 4px 0">{LEGEND}</div>'
        f"<details><summary>All exercises and guesses</summary>{details}</details></div>"
    )


def _title(number: str) -> str:
    """Of a lesson; a guess that a learner asks may have any number."""
    return TITLES[int(number)] if number.isdecimal() and int(number) < len(TITLES) else ""


def _dot(item: Item) -> str:
    words = escape(f"{item.number} {item.what}: {item.state}")
    look = (
        f"display: inline-block; box-sizing: border-box; width: 13px; height: 13px; margin-left: 5px; "
        f"border: 2px solid {COLOUR}; border-radius: {'50%' if item.kind == 'exercise' else '2px'}; "
        f"background: {FILLS[item.done]}"
    )
    return f'<span role="img" title="{words}" aria-label="{words}" style="{look}"></span>'
