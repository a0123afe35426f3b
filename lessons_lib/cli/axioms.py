"""python -m lessons_lib evaluate counterfactuals: how sound are they, by the axioms, on real test images?

Source labels are the images' own, each target is one random other label. Every intervention starts from 8-bit
pixels, the one back and the null interventions too. A null intervention (source = target) asks for no change:
it is decoded as the image was abducted, under its own label at w = 1, whatever guidance the others have; a
denoiser that knows no labels has no guidance then. The way back has the guidance and scale of the way there.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import time
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm.auto import tqdm

from lessons_lib import data, evaluation, weights
from lessons_lib.cli.axiom_report import report
from lessons_lib.cli.common import progress_bar
from lessons_lib.cli.evaluating import SOURCES, Judge, share_json, tell_if_circular
from lessons_lib.cli.options import PROGRAM
from lessons_lib.cli.tables import check_in_place_of, option
from lessons_lib.counterfactuals import in_8_bits
from lessons_lib.pipeline import (
    CounterfactualRequest,
    check_counterfactual,
    counterfactual_defaults,
    counterfactuals,
    in_batches,
    load_model,
    tells_sources,
)

DATASET = "mnist"
CFG_SCALE = 3.0
STEPS = 25
NUM_IMAGES = 1000
REAL_IMAGES = 3000  # training images that distances and minimality are held against
STORED_IMAGES = 100
NULLS = (1, 10)
SETTINGS = ("method", "guidance", "guidance_scale", "classifier", "depth", "steps", "seed", "precision")
# Options of evaluate that mean nothing here.
FOREIGN = (
    "interval", "sampler", "spacing", "evaluator", "card", "by_timestep", "samplers", "step_counts"
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Trial:
    """What all settings of one command share: the judge, the images and what they should become.

    Args:
        images: the first of the test images.
        target: [N] int64, another label for each.
        num_nulls: how many of the images get null interventions.
        batch_size: images at once.
    """

    judge: Judge
    images: data.ImageSet
    target: Tensor
    num_nulls: int
    batch_size: int

    @classmethod
    def read(cls, given: dict, judge: Judge, num_images: int, num_nulls: int | None) -> Trial:
        """From the options of `evaluate`.

        Args:
            num_images: the default of --num-samples, or all test images if there are fewer.
            num_nulls: the default of --null-images; None is all images.

        Raises:
            ValueError: one sentence, for numbers that there are not as many images for.
        """
        test = data.load(judge.dataset, "test")
        count, nulls = given["num_samples"], given["null_images"]
        count = min(num_images, len(test)) if count is None else count
        if not 1 <= count <= len(test):
            raise ValueError(f"--num-samples must be between 1 and {len(test)} (test images), got {count}.")
        nulls = (count if num_nulls is None else num_nulls) if nulls is None else nulls
        if not 0 <= nulls <= count:
            raise ValueError(f"--null-images must be between 0 and {count} (--num-samples), got {nulls}.")
        images = test.subset(torch.arange(count))
        jump = torch.randint(
            1, judge.num_classes, (count,), generator=torch.Generator().manual_seed(given["seed"])
        )
        target = (images.labels + jump) % judge.num_classes
        return cls(judge, images, target, nulls, given["batch_size"])

    @functools.cached_property
    def reference(self) -> evaluation.Reference:
        """Of the feature FID."""
        return self.judge.reference()

    @functools.cached_property
    def real(self) -> evaluation.RealFeatures:
        """Of distances and minimality."""
        train = data.load(self.judge.dataset, "train")
        return evaluation.real_features(
            self.judge.model, *train.batch(torch.arange(len(train))[:REAL_IMAGES])
        )


def run(given: dict) -> None:
    """Measure one setting, or with --sweep many; `given` holds the options of `evaluate`."""
    check_options(given)
    if given["sweep"]:
        from lessons_lib.cli import axiom_sweep  # which imports this module

        return axiom_sweep.run(given)
    wanted = fields(given) | {"method": given["method"] or "ddim", "depth": given["depth"]}
    judge = Judge.load(DATASET, given["evaluator_weights"], given["device"])
    request = check(judge, wanted | {"device": judge.device}, given["guidance_scale"])
    tell_if_circular(judge, [request.decoding()])
    trial = Trial.read(given, judge, NUM_IMAGES, None)
    result = measure(trial, request)
    print(json.dumps(result) if given["json"] else report(result))


# -- before the work -------------------------------------------------------------------------------


def check_options(given: dict) -> None:
    """Refuse options that mean nothing here, and those of a sweep without one or the other way round."""
    for name in FOREIGN:
        if given[name]:  # none of them has a default that does anything
            raise ValueError(f"--{option(name)} means nothing for evaluate counterfactuals.")
    single = {"method": "methods", "guidance_scale": "scales", "depth": "depths"}
    check_in_place_of(given, single, ("json",))
    if given["batch_size"] < 1:
        raise ValueError(f"The batch size must be at least 1, got {given['batch_size']}.")


def fields(given: dict) -> dict:
    """Those fields of a CounterfactualRequest that one setting and a sweep have in common."""
    steps = STEPS if given["steps"] is None else given["steps"]
    same = {name: given[name] for name in ("guidance", "classifier", "seed", "precision")}
    return same | {"steps": steps, "weights": given["weights"] or f"{DATASET}-denoiser"}


def check(judge: Judge, wanted: dict, scale: float | None) -> CounterfactualRequest:
    """Refuse, before any work, what cannot be measured; returns the request for one image, filled in.

    Raises:
        ValueError, WeightsError: one sentence, as check_counterfactual; also for another number of classes.
    """
    if scale is None and wanted["guidance"] == "cfg":
        scale = CFG_SCALE
    request = CounterfactualRequest((0,), (0,), guidance_scale=scale, **wanted)
    num_classes = check_counterfactual(request)
    if num_classes != judge.num_classes:
        raise ValueError(
            f"{request.weights} has {num_classes} classes but {judge.name} knows {judge.num_classes}."
        )
    return counterfactual_defaults(request)


# -- measuring -------------------------------------------------------------------------------------


class Intervene:
    """(x_0, source, target) -> counterfactuals, as `measure_axioms` calls it with all images at once.

    Image k's noise comes from (seed, k) in every intervention: whatever the batch size, and on the way back
    too. It is told nothing of the image.
    """

    def __init__(self, request: CounterfactualRequest, batch_size: int, bar: tqdm) -> None:
        self.request, self.batch_size, self.bar = request, batch_size, bar
        self.seconds: list[float] = []  # of each intervention on all images

    def __call__(self, x_0: Tensor, source: Tensor, target: Tensor) -> Tensor:
        is_null = bool((source == target).all())
        labels = {"sources": tuple(source.tolist()), "targets": tuple(target.tolist())}
        request = dataclasses.replace(self.request, **labels, **null_fields(self.request) if is_null else {})
        started, drawn = time.perf_counter(), []
        for part, mine in in_batches(request, x_0, self.batch_size):
            *_, last = counterfactuals(part, mine)
            drawn.append(last.x_t.clamp(-1, 1).cpu())
            self.bar.update(len(mine))
        self.seconds.append(time.perf_counter() - started)
        return torch.cat(drawn)


def null_fields(request: CounterfactualRequest) -> dict:
    """What a null intervention changes in a request: decoding is as abduction was."""
    if tells_sources(load_model(request.weights, request.device)[0], request):
        return {"guidance": "cfg", "guidance_scale": 1.0, "classifier": None}
    return {"guidance_scale": 0.0}


def measure(trial: Trial, request: CounterfactualRequest, in_full: bool = True) -> dict:
    """All measures of one setting, for JSON.

    Args:
        request: of one image, filled in.
        in_full: with ten null interventions, not one, and with stored latents.
    """
    judge, count, nulls = trial.judge, len(trial.images), trial.num_nulls
    times = NULLS if in_full else NULLS[:1]
    stored = min(STORED_IMAGES, count) if request.method == "ddim" and in_full else 0
    x_0, source = trial.images.batch(torch.arange(count))
    real, statistics = trial.real, trial.reference.statistics
    started = time.perf_counter()
    with progress_bar(2 * count + nulls * max(times) + stored, "intervening", unit="image") as bar:
        intervene = Intervene(request, trial.batch_size, bar)
        found = evaluation.measure_axioms(
            intervene, judge.model, x_0, source, trial.target, real, statistics, times=(), batch_size=count
        )
        if nulls:
            kept = evaluation.composition(intervene, x_0[:nulls], source[:nulls], times, batch_size=nulls)
            found = dataclasses.replace(found, composition=kept)
        latents = _with_stored_latents(intervene, judge, x_0[:stored], source[:stored]) if stored else None
    return {
        "command": command_of(request, judge, count, nulls),
        **{name: getattr(request, name) for name in SETTINGS},
        "null_guidance_scale": null_fields(request)["guidance_scale"],
        "null_images": nulls,
        "starts_from": "8-bit pixels",
        "images": f"the first {count:,} test images of {SOURCES[trial.images.source]}",
        **_judged_by(request, judge),
        **found.as_json(),
        **_references(trial),
        "with_stored_latents": latents,
        "seconds_per_image": round(intervene.seconds[0] / count, 5),
        "seconds": round(time.perf_counter() - started, 2),
        "batch_size": trial.batch_size,
        "device": torch.cuda.get_device_name() if judge.device == "cuda" else judge.device,
        "threads": torch.get_num_threads(),
    }


def _with_stored_latents(intervene: Intervene, judge: Judge, x_0: Tensor, source: Tensor) -> dict:
    """How well images come back whose latents are kept: apart from the axioms, which it would make trivial.

    Ten null interventions, or there and back, are then one decoding of the latent under the own label.
    """
    back = intervene(in_8_bits(x_0), source, source)
    return {
        "num_images": len(x_0),
        "error": round(float(evaluation.proximity(judge.model, in_8_bits(x_0), back).l1), 5),
        "read_as_source": share_json(evaluation.accuracy(judge.model, back, source).overall),
    }


def _judged_by(request: CounterfactualRequest, judge: Judge) -> dict:
    steered = request.guidance == "classifier"
    guide = {"classifier_sha256": weights.read_card(request.classifier)["sha256"]} if steered else {}
    return {
        "weights": str(request.weights),
        "weights_sha256": weights.read_card(request.weights)["sha256"],
        **guide,
        "evaluator": judge.name,
        "evaluator_sha256": judge.sha256,
    }


def _references(trial: Trial) -> dict:
    reference = trial.reference
    source = SOURCES[reference.source]
    real = SOURCES[data.load(trial.judge.dataset, "train").source]
    return {
        "feature_fid_floor": round(reference.floor, 4),
        "feature_fid_reference": f"{reference.statistics.count:,} training images of {source}",
        "real_images": f"the first {len(trial.real.labels):,} training images of {real}",
    }


def command_of(request: CounterfactualRequest, judge: Judge, num_images: int, num_nulls: int) -> str:
    """The command that measures this again; the request's defaults must be filled in."""
    words = [f"{PROGRAM} evaluate counterfactuals --method {request.method} --guidance {request.guidance}"]
    if request.classifier is not None:
        words.append(f"--classifier {request.classifier}")
    words.append(f"--guidance-scale {request.guidance_scale:g}")
    if request.depth is not None:
        words.append(f"--depth {request.depth}")
    words.append(f"--steps {request.steps} --num-samples {num_images} --null-images {num_nulls}")
    usual = {field.name: field.default for field in dataclasses.fields(request)}
    words += [
        f"--{name} {getattr(request, name)}"
        for name in ("seed", "precision", "weights")
        if getattr(request, name) != usual[name]
    ]
    if judge.name != f"{DATASET}-evaluator":
        words.append(f"--evaluator-weights {judge.name}")
    return " ".join(words)
