"""Classifier guidance: the gradient of a second network's log-probability pulls the sample.

A LogProbFn takes (x_t [B, C, H, W], t [B] int64) and returns log p(what is wanted, given x_t), [B].
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lessons_lib.guidance.networks import EpsFn, Interval, check_interval, dtype_of, inside, labels_like
from lessons_lib.schedules import NoiseSchedule, predict_x0

LogProbFn = Callable[[Tensor, Tensor], Tensor]


def with_classifier(
    eps_fn: EpsFn,
    log_prob_fn: LogProbFn,
    schedule: NoiseSchedule,
    guidance_scale: float,
    interval: Interval | None = None,
) -> EpsFn:
    """Classifier guidance: eps = eps_model - s sqrt(1 - abar_t) grad log p(y given x_t).

    Dhariwal & Nichol 2021, alg. 2: the score of p(x_t) p(y given x_t)^s, written as a noise. It works inside
    a sampler's no_grad, leaves the caller's grad mode alone, and its result carries no graph.

    Args:
        eps_fn: what is steered, as a rule `unconditional(model)`.
        log_prob_fn: (x_t, t) -> [B], see `class_log_prob`, `attribute_log_prob` and `x0_log_prob`.
        guidance_scale: s; 0 gives eps_fn back as it is.
        interval: (t_low, t_high), inclusive: the timesteps where s holds; outside them s = 0, and where no
            sample lies inside, the classifier is not asked.

    Raises:
        ValueError: for a scale that is negative or not finite, or an empty interval; in the call, if
            log_prob_fn does not return one differentiable number a sample.
        RuntimeError: in the call, under torch.inference_mode.
    """
    check_interval(interval)
    if not math.isfinite(guidance_scale) or guidance_scale < 0:
        raise ValueError(f"The classifier's scale must be finite and at least 0, got {guidance_scale!r}.")
    if guidance_scale == 0:
        return eps_fn

    def guided(x_t: Tensor, t: Tensor) -> Tensor:
        if torch.is_inference_mode_enabled():  # there the gradient would be missing without a word
            raise RuntimeError("Classifier guidance needs a gradient: use torch.no_grad, not inference_mode.")
        with torch.no_grad():
            eps = eps_fn(x_t, t)
        scale = inside(interval, t, x_t, guidance_scale, outside=0.0)
        if interval is not None and not scale.any():
            return eps
        _, noise = schedule.signal_and_noise(t, x_t)
        return eps - scale * noise * _gradient(log_prob_fn, x_t, t)

    return guided


def class_log_prob(classifier: Callable[[Tensor, Tensor], Tensor], y: Tensor) -> LogProbFn:
    """log p(y given x_t), from a classifier of noisy images: (x_t, t) -> logits [B, K].

    Args:
        classifier: in eval mode, trained on the schedule that it guides on.
        y: [B] int64 labels, one a sample.

    Raises:
        ValueError: if the classifier is in training mode; in the call, if there is not one label a sample, or
            a label that the classifier does not know.
    """
    _check_eval(classifier)

    def log_prob_fn(x_t: Tensor, t: Tensor) -> Tensor:
        return _log_prob_of(_logits(classifier, x_t, t), y)

    return log_prob_fn


def attribute_log_prob(
    classifier: Callable[[Tensor, Tensor], Tensor], index: int, value: bool | Tensor
) -> LogProbFn:
    """log p(attribute is value, given x_t), from a classifier of yes-or-no attributes: logits [B, A].

    Args:
        index: which attribute, 0 … A-1.
        value: True or False (1 or 0) for all samples, or [B], one a sample.

    Raises:
        ValueError: if a value is neither 0 nor 1, or the classifier is in training mode; in the call, for an
            attribute that it does not know, or another number of values than samples.
    """
    _check_eval(classifier)
    wanted = torch.as_tensor(value)
    if not bool(((wanted == 0) | (wanted == 1)).all()):  # CelebA's own files say -1 for no
        raise ValueError(f"An attribute's value must be True or False (1 or 0), got {value!r}.")

    def log_prob_fn(x_t: Tensor, t: Tensor) -> Tensor:
        logits = _logits(classifier, x_t, t)
        if not 0 <= index < logits.shape[1]:
            raise ValueError(f"Unknown attribute {index}: choose from 0 to {logits.shape[1] - 1}.")
        mine = labels_like(wanted.expand(len(x_t)) if wanted.ndim == 0 else wanted, x_t)
        # log(1 - sigmoid(z)) is logsigmoid(-z), which stays finite where 1 - sigmoid(z) rounds to 0.
        return F.logsigmoid(torch.where(mine == 1, logits[:, index], -logits[:, index]))

    return log_prob_fn


def x0_log_prob(
    classifier: Callable[..., Tensor], eps_fn: EpsFn, schedule: NoiseSchedule, y: Tensor
) -> LogProbFn:
    """log p(y given x̂_0), from a classifier of clean images that reads the estimate made at x_t.

    The gradient goes back through the network that made the estimate (universal guidance, Bansal et al.
    2023).

    Args:
        classifier: in eval mode, (x_0) -> logits [B, K], such as an Evaluator, or (x, t) -> logits, such as a
            NoisyClassifier, which is told t = 0.
        eps_fn: makes the estimate, as a rule `unconditional(model)`.
        y: [B] int64 labels, one a sample.

    Raises:
        ValueError: as `class_log_prob`.
    """
    _check_eval(classifier)
    takes_t = _takes_a_timestep(classifier)

    def log_prob_fn(x_t: Tensor, t: Tensor) -> Tensor:
        # Not clipped to [-1, 1], as a sampler would: a clipped pixel has gradient 0, and in the first steps,
        # where guidance decides most, nearly every pixel of the estimate lies outside.
        x_0 = predict_x0(schedule, x_t, t, eps_fn(x_t, t))
        told = (torch.zeros_like(t),) if takes_t else ()
        return _log_prob_of(_logits(classifier, x_0, *told), y)

    return log_prob_fn


def _gradient(log_prob_fn: LogProbFn, x_t: Tensor, t: Tensor) -> Tensor:
    """grad log p(y given x_t) of each sample: [B, C, H, W]."""
    with torch.enable_grad():  # the sampler holds no_grad
        x = x_t.detach().clone().requires_grad_()
        log_probs = log_prob_fn(x, t)
        # The sum, never the mean: a sample's gradient must not depend on how many others are in its batch.
        total = log_probs.sum()
    if log_probs.shape != t.shape:
        raise ValueError(
            f"log_prob_fn must return one number a sample, {list(t.shape)}, got {list(log_probs.shape)}."
        )
    found = torch.autograd.grad(total, x, allow_unused=True)[0] if total.requires_grad else None
    if found is None:
        raise ValueError("log_prob_fn's result has no gradient in x_t: was it computed under no_grad?")
    return found


def _logits(classifier: Callable[..., Tensor], x: Tensor, *t: Tensor) -> Tensor:
    """[B, K] in float32, or in float64 if the classifier works in it."""
    _check_eval(classifier)
    logits = classifier(x.to(dtype_of(classifier, x)), *t)
    return logits if logits.dtype == torch.float64 else logits.float()


def _log_prob_of(logits: Tensor, y: Tensor) -> Tensor:
    labels, num_classes = labels_like(y, logits), logits.shape[1]
    if not bool(((y >= 0) & (y < num_classes)).all()):  # y, as a rule on the CPU: no wait for a GPU
        raise ValueError(f"The labels {y.tolist()} must be from 0 to {num_classes - 1}.")
    return F.log_softmax(logits, dim=1).gather(1, labels[:, None])[:, 0]


def _check_eval(classifier: Callable[..., Tensor]) -> None:
    if getattr(classifier, "training", False):
        raise ValueError("The classifier is in training mode, where dropout makes noise: call its eval().")


def _takes_a_timestep(classifier: Callable[..., Tensor]) -> bool:
    """Whether it must be called as (x, t): it has two parameters without a default."""
    function = classifier.forward if isinstance(classifier, nn.Module) else classifier
    needed = [
        each
        for each in inspect.signature(function).parameters.values()
        if each.default is each.empty and each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)
    ]
    return len(needed) > 1
