"""python -m lessons_lib evaluate counterfactuals --sweep: validity against proximity, for every setting."""

from __future__ import annotations

import itertools

from lessons_lib.cli import tables
from lessons_lib.cli.axiom_report import named
from lessons_lib.cli.axioms import DATASET, Trial, check, command_of, fields, measure
from lessons_lib.cli.evaluating import Judge, tell_if_circular
from lessons_lib.counterfactuals import METHODS
from lessons_lib.evaluation.curves import validity_lines, validity_proximity_figure
from lessons_lib.pipeline import CounterfactualRequest

SCALES = "1,2,3,4"
DEPTHS = "400,600,800,999"
NUM_IMAGES = 200
COLUMNS = (
    "method", "guidance", "guidance_scale", "depth", "steps", "num_images", "seed",
    "effectiveness", "effectiveness_low", "effectiveness_high", "l1", "l1_low", "l1_high",
    "features", "minimality", "back_read", "back_error", "null_1", "fid", "seconds_per_image", "command",
    "weights_sha256",
)  # fmt: skip


def run(given: dict) -> None:
    """Measure what the table does not hold yet, and draw all that it holds."""
    out = tables.check_table_name(given["out"])
    settings = _settings(given)
    judge = Judge.load(DATASET, given["evaluator_weights"], given["device"])
    shared = fields(given) | {"device": judge.device}
    requests = [
        check(judge, shared | {"method": method, "depth": depth}, scale) for method, scale, depth in settings
    ]
    tell_if_circular(judge, requests)
    tables.read_rows(out, COLUMNS)  # whatever else it is, is refused before the images are asked for
    trial = Trial.read(given, judge, NUM_IMAGES, 0)
    plan = {
        (
            command_of(request, judge, len(trial.images), trial.num_nulls),
            tables.shas(request, judge),
        ): request
        for request in requests
    }

    def measured(request: CounterfactualRequest, key: tables.Key) -> tuple[tables.Row, str]:
        result = measure(trial, request, in_full=False)
        return _row(result, *key), _told(result)

    tables.fill(out, COLUMNS, plan, measured, picture)


def picture(rows: list[tables.Row]):
    """The figure of a table."""
    return validity_proximity_figure(validity_lines(rows), rows)[0]


def _settings(given: dict) -> list[tuple[str, float, int | None]]:
    """(method, scale, depth) of each combination, the scales of a curve side by side."""
    methods = tables.parts(given["methods"] or ",".join(METHODS), tables.one_of(METHODS, "method"))
    scales = tables.parts(given["scales"] or SCALES, tables.scale)
    depths = tables.parts(given["depths"] or DEPTHS, tables.whole_number("depths"))
    if given["depths"] and set(methods) == {"same-noise"}:
        raise ValueError("The method 'same-noise' starts from noise alone and takes no --depths.")
    return [
        (method, scale, depth)
        for method in methods
        for depth, scale in itertools.product((None,) if method == "same-noise" else depths, scales)
    ]


def _row(result: dict, command: str, shas: str) -> tables.Row:
    hits, l1, back = result["effectiveness"], result["proximity"]["l1"], result["reversibility"]
    low, high = l1["interval_95"] or (None, None)
    row = {
        **{name: result[name] for name in COLUMNS[:7]},
        "effectiveness": hits["value"],
        "effectiveness_low": hits["interval_95"][0], "effectiveness_high": hits["interval_95"][1],
        "l1": l1["value"], "l1_low": low, "l1_high": high,
        "features": result["proximity"]["features"]["value"],
        "minimality": result["minimality"]["pixels"]["value"],
        "back_read": back["read_as_source"]["value"], "back_error": back["error"]["value"],
        "null_1": result["composition"].get("1", {}).get("value"),
        "fid": result["feature_fid"], "seconds_per_image": result["seconds_per_image"],
        "command": command, "weights_sha256": shas,
    }  # fmt: skip
    return tables.texts(row)


def _told(result: dict) -> str:
    back = result["reversibility"]
    return (
        f"{named(result)}; read as the target {result['effectiveness']['value']:.1%}, "
        f"L1 {result['proximity']['l1']['value']:.4f}; back read as the source "
        f"{back['read_as_source']['value']:.1%}, off by {back['error']['value']:.4f}"
    )
