"""python -m lessons_lib evaluate, until it is two groups of commands of its own."""

from __future__ import annotations

import typer

from lessons_lib.cli import axioms, evaluating, face_measures, reading, sweeping
from lessons_lib.cli import options as o

# Options of sample and evaluate that are fields of a GenerationRequest.
REQUESTED = (
    "guidance", "guidance_scale", "classifier", "interval", "sampler", "steps", "spacing", "seed", "precision"
)  # fmt: skip
INTERVENING = ("method", "depth", "null_images", "depths")  # options of evaluate counterfactuals alone
NUM_SAMPLES = 2000

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def evaluate(
    dataset: o.Measured,
    method: o.InterventionMethod = None,
    depth: o.InterventionDepth = None,
    null_images: o.NullImages = None,
    guidance: o.Guidance = "cfg",
    guidance_scale: o.Scale = None,
    classifier: o.Classifier = None,
    interval: o.Interval = None,
    sampler: o.Sampler = None,
    steps: o.Steps = None,
    spacing: o.Spacing = None,
    num_samples: o.NumSamples = None,
    seed: o.Seed = 0,
    weights: o.Weights = None,
    evaluator_weights: o.EvaluatorWeights = None,
    evaluator: o.Evaluator = False,
    card: o.Card = False,
    batch_size: o.BatchSize = 100,
    device: o.Device = "auto",
    precision: o.NetworkPrecision = "float32",
    json: o.Json = False,
    by_timestep: o.ByTimestep = False,
    sweep: o.Sweep = False,
    scales: o.Scales = None,
    methods: o.Methods = None,
    depths: o.Depths = None,
    samplers: o.Samplers = None,
    step_counts: o.StepCounts = None,
    out: o.Table = None,
    attribute: o.OneAttribute = None,
    num_counterfactuals: o.NumCounterfactuals = None,
) -> None:
    """Draw images and measure them: accuracy by class, feature FID, diversity, seconds an image.

    Or measure counterfactuals of test images: effectiveness, composition, reversibility, proximity.
    """
    _evaluate(dict(locals()))


def _evaluate(given: dict) -> None:
    """Choose the form of the command by its switches."""
    dataset, device, card, json = (given[name] for name in ("dataset", "device", "card", "json"))
    if dataset == "celeba":
        return face_measures.run(given)
    for name in ("attribute", "num_counterfactuals"):
        if given[name] is not None:
            raise ValueError(f"{o.flag(name)} belongs to celeba.")
    if dataset == "counterfactuals":
        return axioms.run(given)
    for name in INTERVENING:
        if given[name] is not None:
            raise ValueError(f"{o.flag(name)} belongs to evaluate counterfactuals.")
    if given["by_timestep"]:
        for name in ("sweep", "evaluator"):
            if given[name]:
                raise ValueError(f"--by-timestep and {o.flag(name)} do not go together.")
        return reading.run(dataset, given["classifier"], device, card, json)
    lists = sweeping.Lists.read(given)
    judge = evaluating.Judge.load(dataset, given["evaluator_weights"], device)
    wanted = {name: given[name] for name in REQUESTED}
    weights, batch_size = given["weights"], given["batch_size"]
    num_samples = NUM_SAMPLES if given["num_samples"] is None else given["num_samples"]
    if lists:
        return sweeping.run(judge, weights, wanted, lists, num_samples, batch_size)
    if given["evaluator"]:
        return evaluating.run_evaluator(judge, card, json)
    if card:
        return evaluating.run_card(judge, weights, wanted, batch_size, json)
    return evaluating.run(judge, weights, wanted, num_samples, batch_size, json)
