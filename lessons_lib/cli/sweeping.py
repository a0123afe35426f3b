"""python -m lessons_lib evaluate --sweep: measure every combination into a table, and draw it.

The table is written after every row, and a row that is there is not measured again: a sweep that was stopped
goes on where it was.
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import typer

from lessons_lib import metrics, viz, weights
from lessons_lib.cli.common import check_writable
from lessons_lib.cli.evaluating import Judge, cells_right, check, command_of, measure, tell_if_circular
from lessons_lib.files import atomic_write
from lessons_lib.generation import BY_CLASSIFIER, SAMPLERS, GenerationRequest, with_defaults

METHODS = ("cfg", *BY_CLASSIFIER)
SCALES = "0,0.5,1,2,4,8"
COLUMNS = (
    "method", "classifier", "guidance_scale", "interval", "sampler", "spacing", "steps",
    "num_samples", "seed", "accuracy", "accuracy_low", "accuracy_high", "cells_right", "cells",
    "fid", "fid_floor", "diversity", "seconds_per_image", "command",
    "weights_sha256",  # of denoiser, classifier and judge, shortened: a row of other weights is an old one
)  # fmt: skip
ONE_LINE = (
    "method", "classifier", "interval", "sampler", "spacing", "steps", "num_samples", "seed", "weights_sha256"
)  # fmt: skip
# Options for one setting and what a sweep takes in their place.
IN_PLACE_OF = {
    "guidance": "methods", "guidance_scale": "scales", "sampler": "samplers", "steps": "step_counts"
}  # fmt: skip


@dataclass(frozen=True)
class Lists:
    """What a sweep combines; None stands for what the denoiser's card says."""

    methods: tuple[str, ...]
    scales: tuple[float, ...]
    samplers: tuple[str | None, ...]
    step_counts: tuple[int | None, ...]
    out: Path

    @classmethod
    def read(cls, given: dict) -> Lists | None:
        """The lists among the options of `evaluate`; None without --sweep.

        Raises:
            ValueError: one sentence, for options that do not go together, or a list that cannot be read.
        """
        _check_combination(given)
        if not given["sweep"]:
            return None
        if given["out"] is None or given["out"].suffix.lower() != ".csv":
            got = "nothing" if given["out"] is None else repr(str(given["out"]))
            raise ValueError(f"A sweep needs --out with a name that ends in .csv, got {got}.")
        return cls(
            methods=_parts(given["methods"] or "cfg,classifier", _one_of(METHODS, "method")),
            scales=_parts(given["scales"] or SCALES, _scale),
            samplers=_parts(given["samplers"], _one_of(SAMPLERS, "sampler")),
            step_counts=_parts(given["step_counts"], _count),
            out=given["out"],
        )

    def settings(self, wanted: dict) -> list[dict]:
        """The fields of a GenerationRequest for each combination, the scales of a curve side by side."""
        combined = itertools.product(self.methods, self.samplers, self.step_counts, self.scales)
        return [
            wanted | {
                "guidance": method, "guidance_scale": scale, "sampler": sampler, "steps": steps,
                "classifier": wanted["classifier"] if method in BY_CLASSIFIER else None,
            }
            for method, sampler, steps, scale in combined
        ]  # fmt: skip


def run(
    judge: Judge, name: str | None, wanted: dict, lists: Lists, num_samples: int, batch_size: int
) -> None:
    """Measure what the table does not hold yet, and draw all that it holds."""
    name, picture = name or f"{judge.dataset}-denoiser", lists.out.with_suffix(".png")
    check_writable(lists.out)
    check_writable(picture)
    if wanted["classifier"] and not set(lists.methods) & set(BY_CLASSIFIER):
        raise ValueError("--classifier steers nothing here: add classifier or classifier-x0 to --methods.")
    rows, plan = read_rows(lists.out), {}
    usual = with_defaults(GenerationRequest((0,), weights=name)).sampler
    for setting in lists.settings(wanted):
        # Named, or a classifier's own spacing would come with it, and the methods could not be compared.
        setting["sampler"] = setting["sampler"] or usual
        request = check(judge, name, setting, num_samples, batch_size)
        plan[command_of(request, judge, num_samples), _shas(request, judge)] = request, setting
    tell_if_circular(judge, [request for request, _ in plan.values()])
    there = {(row["command"], row["weights_sha256"]) for row in rows}
    left = {key: plan[key] for key in plan if key not in there}
    if len(left) < len(plan):
        print(f"{len(plan) - len(left)} of {len(plan)} combinations are in {lists.out} already.")
    reference = judge.reference() if left else None
    try:
        for count, (key, (request, setting)) in enumerate(left.items(), start=1):
            result = measure(judge, reference, name, setting, num_samples, batch_size)
            cells = cells_right(judge, name, setting, batch_size)
            rows = [row for row in rows if row["command"] != key[0]] + [_row(request, result, cells, *key)]
            write_rows(lists.out, rows)
            print(f"{count} of {len(left)}: {_told(result)}", flush=True)
    except KeyboardInterrupt:
        print(f"Stopped by Ctrl-C: {len(rows)} rows are in {lists.out}, and the same command goes on.")
        raise typer.Exit(130) from None
    with atomic_write(picture) as temporary:
        viz.sweep_figure(curves(rows))[0].savefig(temporary, facecolor="white")
    print(f"The table is {lists.out}, its picture {picture}.")


# -- reading the options ---------------------------------------------------------------------------


def _check_combination(given: dict) -> None:
    for single, several in IN_PLACE_OF.items():
        if not given["sweep"] and given[several] is not None:
            raise ValueError(f"--{_option(several)} belongs to a sweep: add --sweep.")
        if given["sweep"] and given[single] not in (None, "cfg"):
            raise ValueError(f"A sweep takes --{_option(several)}, not --{_option(single)}.")
    if not given["sweep"] and given["out"] is not None:
        raise ValueError("--out belongs to a sweep: add --sweep.")
    for flag in ("evaluator", "card", "json"):
        if given["sweep"] and given[flag]:
            raise ValueError(f"--sweep and --{flag} do not go together.")


def _option(name: str) -> str:
    return name.replace("_", "-")


def _parts(text: str | None, read: Callable) -> tuple:
    """ "0,0.5,1" -> each part read, in order, without repetitions; (None,) if nothing was given."""
    return (None,) if text is None else tuple(dict.fromkeys(read(part.strip()) for part in text.split(",")))


def _one_of(known: tuple[str, ...], what: str) -> Callable[[str], str]:
    def read(part: str) -> str:
        if part not in known:
            raise ValueError(f"Unknown {what} {part!r}: choose from {', '.join(known)}.")
        return part

    return read


def _scale(part: str) -> float:
    try:
        return float(part)  # whether it is finite and suits the method, the request says
    except ValueError:
        raise ValueError(f"{part!r} in --scales is not a number.") from None


def _count(part: str) -> int:
    try:
        return int(part)
    except ValueError:
        raise ValueError(f"{part!r} in --step-counts is not a whole number.") from None


# -- the table -------------------------------------------------------------------------------------


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a sweep's table; none if there is no file yet.

    Raises:
        ValueError: if the file is something else.
    """
    if not path.exists():
        return []
    try:
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
        suits = tuple(reader.fieldnames or ()) == COLUMNS and all(row[COLUMNS[-1]] for row in rows)
    except (ValueError, csv.Error):  # not even text
        suits = False
    if not suits:
        raise ValueError(f"{path} is no table of a sweep: name another --out, or delete it.")
    return rows


def write_rows(path: Path, rows: list[dict]) -> None:
    """Write the whole table, or leave the old one."""
    with atomic_write(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _row(
    request: GenerationRequest, result: dict, cells: metrics.Share, command: str, shas: str
) -> dict[str, str]:
    accuracy, fid = result["accuracy"], result["fid"] or {}
    low, high = accuracy["interval_95"]
    row = {
        "method": request.guidance, "classifier": request.classifier,
        "guidance_scale": request.guidance_scale,
        "interval": "{}-{}".format(*request.interval) if request.interval else None,
        "sampler": request.sampler, "spacing": request.spacing,
        "steps": request.steps, "num_samples": result["num_samples"], "seed": request.seed,
        "accuracy": accuracy["value"], "accuracy_low": low, "accuracy_high": high,
        "cells_right": cells.successes, "cells": cells.total,
        "fid": fid.get("value"), "fid_floor": fid.get("floor"), "diversity": result["diversity"],
        "seconds_per_image": result["seconds_per_image"], "command": command, "weights_sha256": shas,
    }  # fmt: skip
    return {name: "" if value is None else str(value) for name, value in row.items()}


def _shas(request: GenerationRequest, judge: Judge) -> str:
    names = [request.weights, *([request.classifier] if request.is_steered else [])]
    return " ".join(
        sha[:12] for sha in [*(weights.read_card(name)["sha256"] for name in names), judge.sha256]
    )


def _told(result: dict) -> str:
    words = [f"{result['settings']}; read right {100 * result['accuracy']['value']:.1f}%"]
    if result["fid"]:
        words.append(f"feature FID {result['fid']['value']:.3f}")
    if result["diversity"] is not None:
        words.append(f"diversity {result['diversity']:.2f}")
    return ", ".join(words)


# -- the picture -----------------------------------------------------------------------------------


def curves(rows: list[dict[str, str]]) -> dict[str, list[dict[str, str]]]:
    """The rows of each line by its label, which names what the lines differ in; each sorted by its scale."""
    telling = [ONE_LINE[0]]
    for name in ONE_LINE[1:]:  # it tells something if it differs between rows that are alike so far
        if len({_of(row, [*telling, name]) for row in rows}) > len({_of(row, telling) for row in rows}):
            telling.append(name)
    shown = {"interval": "t {}", "steps": "{} steps", "num_samples": "{} samples", "seed": "seed {}"}
    found: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        label = ", ".join(shown.get(name, "{}").format(row[name]) for name in telling if row[name])
        found.setdefault(label, []).append(row)
    return {label: sorted(mine, key=_scale_of) for label, mine in found.items()}


def _of(row: dict[str, str], names: list[str]) -> tuple[str, ...]:
    return tuple(row[name] for name in names)


def _scale_of(row: dict[str, str]) -> float:
    return float(row["guidance_scale"])
