"""From a request to Steps: weights, defaults, guidance, sampler."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from lessons_lib import weights
from lessons_lib.guidance import (
    EpsFn,
    LogProbFn,
    attribute_log_prob,
    class_log_prob,
    in_bfloat16,
    unconditional,
    with_cfg,
    with_classifier,
    x0_log_prob,
)
from lessons_lib.names import place_of
from lessons_lib.pipeline.request import GenerationRequest
from lessons_lib.samplers import (
    DEFAULT_SPACING,
    SampleNoise,
    Step,
    sample_ddim,
    sample_ddpm,
    sample_dpmpp_2m,
    timesteps_for,
)
from lessons_lib.schedules import NoiseSchedule

CLASSIFIER = "mnist-noisy-classifier"  # guides where neither the request nor the denoiser's card names one
MUST_AGREE = {"num_classes": "classes", "image_size": "pixels a side", "in_channels": "channels"}


def load_model(name: str | Path, device: str | None = None) -> tuple[nn.Module, NoiseSchedule, dict]:
    """`load_pretrained`, kept in memory until the weights or their card change.

    Raises:
        WeightsError: as load_pretrained.
    """
    path = weights.weights_path(name)
    files = (path, path.with_suffix(".json"))  # the card alone changes when it gets new metrics
    stamps = tuple(file.stat().st_mtime_ns if file.exists() else 0 for file in files)
    return _load_model(str(name), device or "cpu", stamps)


@functools.lru_cache(maxsize=8)
def _load_model(name: str, device: str, stamps: tuple[int, ...]) -> tuple[nn.Module, NoiseSchedule, dict]:
    # Weights that were made under inference_mode could never take part in a gradient.
    with torch.inference_mode(False):
        return weights.load_pretrained(name, device)


def with_defaults(request: GenerationRequest) -> GenerationRequest:
    """The request with every None filled in from the card of its weights, or the classifier's.

    Of a classifier come its scale and, where no sampler is asked for, the spacing of the timesteps.

    Raises:
        WeightsError: as load_pretrained.
    """
    defaults = load_model(request.weights, request.device)[2].get("defaults", {})
    classifier, its_scale, spacing = None, _first(defaults.get("guidance_scale"), 2.0), None
    if request.is_steered:  # the denoiser's card has w, which is no s
        classifier = _first(request.classifier, defaults.get("classifier"), CLASSIFIER)
        its_defaults = load_model(classifier, request.device)[2].get("defaults", {})
        its_scale = its_defaults.get("guidance_scale", 1.0)
        if request.sampler is None and request.guidance == "classifier":  # as it was measured, as a whole
            spacing = its_defaults.get("spacing")
    sampler = _first(request.sampler, defaults.get("sampler"), "ddim")
    return dataclasses.replace(
        request,
        classifier=classifier,
        guidance_scale=_first(request.guidance_scale, its_scale),
        sampler=sampler,
        spacing=_first(request.spacing, spacing, DEFAULT_SPACING[sampler]),
        steps=_first(request.steps, defaults.get("steps"), 25),
    )


def generate(request: GenerationRequest) -> Iterator[Step]:
    """Draw what was asked for.

    Yields:
        one Step for each network evaluation; the last one's x_t [B, C, H, W] in [-1, 1] are the images.

    Raises:
        ValueError: if a label, the number of steps, the interval or the classifier does not suit these
            weights.
        WeightsError: if the weights cannot be loaded, or are not a denoiser's (or classifier's).
    """
    request = with_defaults(request)
    yield from generate_with(*denoiser(request), request)


def check_request(request: GenerationRequest) -> int:
    """Refuse before any work what `generate` would refuse; returns K, the number of labels to choose from.

    With an attribute, or rows of them, that is 2: no and yes.

    Raises:
        ValueError, WeightsError: as `generate`.
    """
    request = with_defaults(request)
    model, schedule = denoiser(request)
    prepare(model, schedule, request)
    if request.attribute is not None or request.in_rows:
        return 2
    return known_classes(model, _suited_classifier(model, schedule, request) if request.is_steered else None)


def generate_with(model: nn.Module, schedule: NoiseSchedule, request: GenerationRequest) -> Iterator[Step]:
    """As `generate`, with a network in hand; guidance_scale, sampler and steps must be set."""
    eps_fn, timesteps = prepare(model, schedule, request)
    noise_fn, x_T = starting_noise(model, request)
    if request.sampler == "ddpm":
        return sample_ddpm(eps_fn, schedule, x_T, timesteps, noise_fn=noise_fn)
    if request.sampler == "dpmpp_2m":
        return sample_dpmpp_2m(eps_fn, schedule, x_T, timesteps)
    return sample_ddim(eps_fn, schedule, x_T, timesteps, eta=request.eta, noise_fn=noise_fn)


def generate_images(request: GenerationRequest) -> Tensor:
    """The images only: [B, C, H, W] in [-1, 1]."""
    *_, last = generate(request)
    return last.x_t.clamp(-1, 1)


def starting_noise(model: nn.Module, request: GenerationRequest) -> tuple[SampleNoise, Tensor]:
    """The noise source of a request, and the x_T [B, C, H, W] drawn from it."""
    indices = request.sample_indices or range(len(request.labels))
    noise_fn = SampleNoise([(request.seed, k) for k in indices])
    config, parameter = model.config, next(model.parameters())
    shape = (len(request.labels), config.in_channels, config.image_size, config.image_size)
    return noise_fn, noise_fn(torch.empty(shape, device=parameter.device))


def denoiser(request: GenerationRequest) -> tuple[nn.Module, NoiseSchedule]:
    """The network that draws, and its schedule; WeightsError if these weights cannot draw."""
    model, schedule, _ = load_model(request.weights, request.device)
    if schedule is None or not hasattr(model, "null_label"):
        raise weights.WeightsError(f"The weights {str(request.weights)!r} are no denoiser: they cannot draw.")
    return model, schedule


def prepare(model: nn.Module, schedule: NoiseSchedule, request: GenerationRequest) -> tuple[EpsFn, Tensor]:
    """The guided network and the timesteps; every error that can be seen beforehand is raised here."""
    spacing = request.spacing or DEFAULT_SPACING[request.sampler]
    timesteps = timesteps_for(schedule, request.steps, spacing)
    _check_interval(schedule, request)
    fast = in_bfloat16 if request.precision == "bf16" else _unchanged
    if request.guidance == "none":
        return fast(unconditional(model)), timesteps
    classifier = _suited_classifier(model, schedule, request) if request.is_steered else None
    y, scale, interval = _labels(model, classifier, request), request.guidance_scale, request.interval
    if classifier is None:
        return fast(with_cfg(model, y, scale, interval)), timesteps
    base = unconditional(model)
    log_prob_fn = _log_prob(classifier, request, base, schedule, y)
    return with_classifier(fast(base), fast(log_prob_fn), schedule, scale, interval), timesteps


def _labels(model: nn.Module, classifier: nn.Module | None, request: GenerationRequest) -> Tensor:
    """What is asked for: y [B], or [B, K] of a denoiser that is told attributes."""
    if classifier is None and (model.config.multi_label or request.attribute is not None or request.in_rows):
        return _attributes(model, request)
    num_labels = 2 if request.attribute is not None else known_classes(model, classifier)
    for label in request.labels:
        if not 0 <= label < num_labels:
            raise ValueError(f"Unknown label {label}: choose from 0 to {num_labels - 1}.")
    return torch.tensor(request.labels)


def _attributes(model: nn.Module, request: GenerationRequest) -> Tensor:
    """y [B, K], 1 yes, 0 no, -1 untold."""
    name, count = str(request.weights), model.config.num_classes
    if not model.config.multi_label:
        raise ValueError(f"The denoiser {name!r} is told no attributes: steer it with guidance classifier.")
    if request.in_rows:
        if wrong := [row for row in request.labels if len(row) != count]:
            raise ValueError(f"The denoiser {name!r} is told {count} attributes, got {len(wrong[0])}.")
        return torch.tensor(request.labels)
    if request.attribute is None:
        raise ValueError(f"The denoiser {name!r} is told attributes: name one, such as Smiling.")
    y = torch.full((len(request.labels), count), -1)
    y[:, attribute_place(request)] = torch.tensor(request.labels)
    return y


def _log_prob(
    classifier: nn.Module, request: GenerationRequest, base: EpsFn, schedule: NoiseSchedule, y: Tensor
) -> LogProbFn:
    """log p(what the request asks for, given x_t)."""
    if request.guidance == "classifier-x0":
        return x0_log_prob(classifier, base, schedule, y)
    if request.attribute is None:
        return class_log_prob(classifier, y)
    return attribute_log_prob(classifier, attribute_place(request), y)


def attribute_place(request: GenerationRequest) -> int:
    """The number of the request's attribute among those of its classifier, or with "cfg" of its denoiser.

    Raises:
        ValueError: for an unknown attribute, with the names that are most like it.
        WeightsError: as load_pretrained.
    """
    asked = request.attribute
    name = request.weights if request.guidance == "cfg" else request.classifier or CLASSIFIER
    card = load_model(str(name), request.device)[2]
    known = card.get("class_names") or [str(k) for k in range(card["config"]["num_classes"])]
    if isinstance(asked, str):
        return place_of(asked, known, "attribute")
    if not 0 <= asked < len(known):
        raise ValueError(f"Unknown attribute {asked}: choose from 0 to {len(known) - 1}.")
    return asked


def _check_interval(schedule: NoiseSchedule, request: GenerationRequest) -> None:
    last = schedule.num_timesteps - 1
    if request.interval is not None and not 0 <= request.interval[0] <= request.interval[1] <= last:
        raise ValueError(
            f"The guidance interval must be (t_low, t_high) with 0 <= t_low <= t_high <= {last}, "
            f"got {request.interval}."
        )


def _unchanged(function: EpsFn) -> EpsFn:
    return function


def known_classes(model: nn.Module, classifier: nn.Module | None = None) -> int:
    """K: the denoiser's; of one that is told nothing, or attributes, the classifier's; or else 0."""
    classes = 0 if model.config.multi_label else model.config.num_classes
    return classes or (classifier.config.num_classes if classifier else 0)


# -- the classifier that steers --------------------------------------------------------------------


def _suited_classifier(model: nn.Module, schedule: NoiseSchedule, request: GenerationRequest) -> nn.Module:
    """The classifier, if it can steer this denoiser.

    Raises:
        ValueError: one sentence, if it cannot.
        WeightsError: if these weights are no classifier.
    """
    name, where = str(request.classifier or CLASSIFIER), next(model.parameters()).device
    classifier, its_schedule, _ = load_model(name, str(where) if where.index else where.type)
    if hasattr(classifier, "null_label"):
        raise weights.WeightsError(f"The weights {name!r} are no classifier: they cannot steer.")
    if request.guidance == "classifier":
        if its_schedule is None:
            raise weights.WeightsError(
                f"The classifier {name!r} reads clean images only: steer with guidance classifier-x0."
            )
        mine, its = (f"{each.name}, T={each.num_timesteps}" for each in (schedule, its_schedule))
        if mine != its:
            raise ValueError(f"The classifier {name!r} was trained on another schedule ({its}; not {mine}).")
    _check_attribute(name, classifier, request)
    for what, words in MUST_AGREE.items():
        mine, its = getattr(model.config, what), getattr(classifier.config, what)
        # A denoiser without classes is never told a label here: the classifier's may be any.
        if mine != its and (what != "num_classes" or known_classes(model)):
            raise ValueError(f"The classifier {name!r} has {its} {words} but the denoiser has {mine}.")
    return classifier


def _check_attribute(name: str, classifier: nn.Module, request: GenerationRequest) -> None:
    reads_attributes = getattr(classifier.config, "multi_label", False)
    if request.guidance == "classifier-x0" and reads_attributes:
        raise ValueError(f"The classifier {name!r} reads attributes: steer with guidance classifier.")
    if reads_attributes and request.attribute is None:
        raise ValueError(f"The classifier {name!r} reads attributes: name one, such as Smiling.")
    if request.attribute is not None:
        if not reads_attributes:
            raise ValueError(f"The classifier {name!r} reads classes, not attributes.")
        attribute_place(request)


def _first(*values):
    return next(value for value in values if value is not None)
