"""python -m lessons_lib evaluate --sweep: measure every combination into a table, and draw it."""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass
from pathlib import Path

from lessons_lib import evaluation
from lessons_lib.cli import tables
from lessons_lib.cli.evaluating import Judge, cells_right, check, command_of, measure, tell_if_circular
from lessons_lib.evaluation.curves import named_lines, sweep_figure
from lessons_lib.pipeline import BY_CLASSIFIER, GenerationRequest
from lessons_lib.samplers import SAMPLERS

METHODS = ("cfg", *BY_CLASSIFIER)
SCALES = "0,0.5,1,2,4,8"
COLUMNS = (
    "method", "classifier", "guidance_scale", "interval", "sampler", "spacing", "steps",
    "num_samples", "seed", "accuracy", "accuracy_low", "accuracy_high", "cells_right", "cells",
    "fid", "fid_floor", "diversity", "seconds_per_image", "command",
    "weights_sha256",
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
        tables.check_in_place_of(given, IN_PLACE_OF, ("evaluator", "card", "json"))
        if not given["sweep"]:
            return None
        return cls(
            out=tables.check_table_name(given["out"]),
            methods=tables.parts(given["methods"] or "cfg,classifier", tables.one_of(METHODS, "method")),
            scales=tables.parts(given["scales"] or SCALES, tables.scale),
            samplers=tables.parts(given["samplers"], tables.one_of(SAMPLERS, "sampler")),
            step_counts=tables.parts(given["step_counts"], tables.whole_number("step-counts")),
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
    name = name or f"{judge.dataset}-denoiser"
    if wanted["classifier"] and not set(lists.methods) & set(BY_CLASSIFIER):
        raise ValueError("--classifier steers nothing here: add classifier or classifier-x0 to --methods.")
    plan = {}
    usual = GenerationRequest((0,), weights=name).plan().request.sampler
    for setting in lists.settings(wanted):
        # Named, or a classifier's own spacing would come with it, and the methods could not be compared.
        setting["sampler"] = setting["sampler"] or usual
        request = check(judge, name, setting, num_samples, batch_size)
        plan[command_of(request, judge, num_samples), tables.shas(request, judge)] = request, setting
    tell_if_circular(judge, [request for request, _ in plan.values()])
    reference = functools.cache(judge.reference)  # asked for with the first row that is missing

    def measured(planned: tuple, key: tables.Key) -> tuple[tables.Row, str]:
        request, setting = planned
        result = measure(judge, reference(), name, setting, num_samples, batch_size)
        cells = cells_right(judge, name, setting, batch_size)
        return _row(request, result, cells, *key), _told(result)

    tables.fill(lists.out, COLUMNS, plan, measured, lambda rows: sweep_figure(curves(rows))[0])


def _row(
    request: GenerationRequest, result: dict, cells: evaluation.Share, command: str, shas: str
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
    return tables.texts(row)


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
    shown = {"interval": "t {}", "steps": "{} steps", "num_samples": "{} samples", "seed": "seed {}"}
    found = named_lines(rows, ONE_LINE, shown)
    return {label: sorted(mine, key=_scale_of) for label, mine in found.items()}


def _scale_of(row: dict[str, str]) -> float:
    return float(row["guidance_scale"])
