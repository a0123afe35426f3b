"""Guidance: wrappers that turn a network into an EpsFn, and an EpsFn into a steered one.

An EpsFn takes (x_t [B, C, H, W], t [B] int64) and returns the noise in x_t, in x_t's shape and dtype.
Samplers know nothing else, so every sampler works with every guidance. A LogProbFn takes what an EpsFn takes
and returns log p(what is wanted given x_t), [B].
"""

import inspect
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lessons_lib.names import place_of, refuse
from lessons_lib.schedules import NoiseSchedule, predict_x0

EpsFn = Callable[[Tensor, Tensor], Tensor]
LogProbFn = Callable[[Tensor, Tensor], Tensor]
Classifier = Callable[..., Tensor]  # (x_t, t), or of clean images (x_0), -> logits
Interval = tuple[int, int] | None  # (t_low, t_high), inclusive; None: all timesteps


# -- one network -----------------------------------------------------------------------------------
def unconditional(model: nn.Module) -> EpsFn:
    """eps(x_t): the network without a label (w = 0)."""
    return lambda x_t, t: _eps(model, x_t, t, None)


def conditional(model: nn.Module, y: Tensor) -> EpsFn:
    """eps(x_t | y): the network told y [B] or [B, K], one a sample (w = 1)."""
    return lambda x_t, t: _eps(model, x_t, t, _labels_for(x_t, y))


def with_cfg(model: nn.Module, y: Tensor, guidance_scale: float, interval: Interval = None) -> EpsFn:
    """Classifier-free guidance: eps = eps_uncond + w (eps_cond - eps_uncond).

    Ho & Salimans 2022, eq. 6, whose w is ours minus 1. w = 0 is unconditional, w = 1 conditional, above 1
    amplified; but for 0 and 1 both predictions are one batch of 2B. Outside the interval w = 1
    (Kynkäänniemi et al. 2024). y: [B] int64 labels; or [B, K] attributes, 1 yes, 0 no, -1 untold.
    """
    check_interval(interval)
    if interval is None and guidance_scale == 0:
        return unconditional(model)
    if guidance_scale == 1:
        return conditional(model, y)

    def eps_fn(x_t: Tensor, t: Tensor) -> Tensor:
        labels = _labels_for(x_t, y)
        both = torch.cat([torch.full_like(labels, model.null_label), labels])
        eps_uncond, eps_cond = _eps(model, torch.cat([x_t, x_t]), torch.cat([t, t]), both).chunk(2)
        scale = _scale_at(t, x_t, guidance_scale, interval, outside=1.0)
        return eps_uncond + scale * (eps_cond - eps_uncond)

    return eps_fn


def in_bfloat16(eps_fn: EpsFn) -> EpsFn:
    """The same EpsFn (or LogProbFn) with its networks run in bfloat16, where the hardware multiplies it.

    Guidance, log-probabilities and the sampler's state keep float32.
    """

    def fast(x_t: Tensor, t: Tensor) -> Tensor:
        with torch.autocast(x_t.device.type, torch.bfloat16):
            return eps_fn(x_t, t)

    return fast


# -- a second network pulls ------------------------------------------------------------------------
def with_classifier(
    eps_fn: EpsFn, log_prob_fn: LogProbFn, schedule: NoiseSchedule,
    guidance_scale: float, interval: Interval = None,
) -> EpsFn:  # fmt: skip
    """Classifier guidance: eps = eps_model - s sqrt(1 - abar_t) grad log p(y given x_t).

    Dhariwal & Nichol 2021, alg. 2: the score of p(x_t) p(y given x_t)^s, written as a noise. It works inside
    a sampler's no_grad, leaves the caller's grad mode alone, and its result carries no graph.

    Args:
        eps_fn: what is steered, as a rule `unconditional(model)`.
        log_prob_fn: see `class_log_prob`, `attribute_log_prob` and `x0_log_prob`; ValueError in the call if
            it does not return one differentiable number a sample; RuntimeError under inference_mode.
        guidance_scale: s, finite and at least 0, or ValueError; 0 gives eps_fn back as it is.
        interval: where s holds; outside s = 0, and the classifier is asked only if a sample lies inside.
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
        scale = _scale_at(t, x_t, guidance_scale, interval, outside=0.0)
        if interval is not None and not scale.any():
            return eps
        _, noise = schedule.signal_and_noise(t, x_t)
        return eps - scale * noise * _gradient(log_prob_fn, x_t, t)

    return guided


def class_log_prob(classifier: Classifier, y: Tensor) -> LogProbFn:
    """log p(y given x_t), from a classifier of noisy images: (x_t, t) -> logits [B, K].

    classifier: in eval mode, and trained on the schedule that it guides on; y: [B] int64. Else ValueError.
    """
    _check_eval(classifier)
    return lambda x_t, t: _class_log_prob(_logits(classifier, x_t, t), y)


def attribute_log_prob(classifier: Classifier, index: int, value: bool | Tensor) -> LogProbFn:
    """log p(attribute is value, given x_t), from a classifier of yes-or-no attributes: logits [B, A].

    index is in 0 … A-1; value True or False (1 or 0) for all samples, or [B], one a sample. Else ValueError.
    """
    _check_eval(classifier)
    values = torch.as_tensor(value)
    if not bool(((values == 0) | (values == 1)).all()):  # CelebA's own files say -1 for no
        raise ValueError(f"An attribute's value must be True or False (1 or 0), got {value!r}.")

    def log_prob_fn(x_t: Tensor, t: Tensor) -> Tensor:
        logits = _logits(classifier, x_t, t)
        logit = logits[:, place_of(index, range(logits.shape[1]), "attribute")]
        labels = _labels_for(x_t, values.expand(len(x_t)) if values.ndim == 0 else values)
        # log(1 - sigmoid(z)) is logsigmoid(-z), which stays finite where 1 - sigmoid(z) rounds to 0.
        return F.logsigmoid(torch.where(labels == 1, logit, -logit))

    return log_prob_fn


def x0_log_prob(classifier: Classifier, eps_fn: EpsFn, schedule: NoiseSchedule, y: Tensor) -> LogProbFn:
    """log p(y given x̂_0), from a classifier of clean images that reads the estimate made at x_t.

    The gradient goes back through the network that made it (universal guidance, Bansal et al. 2023): eps_fn,
    as a rule `unconditional(model)`. The classifier, in eval mode, is (x_0) -> logits [B, K], such as an
    Evaluator, or (x, t) -> logits, such as a NoisyClassifier, which is told t = 0; y as in class_log_prob.
    """
    _check_eval(classifier)
    parameters = inspect.signature(getattr(classifier, "forward", classifier)).parameters.values()
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    takes_t = sum(p.kind in kinds and p.default is p.empty for p in parameters) > 1  # else x_0 alone

    def log_prob_fn(x_t: Tensor, t: Tensor) -> Tensor:
        # Not clipped to [-1, 1], as a sampler would: a clipped pixel has gradient 0, and in the first steps,
        # where guidance decides most, nearly every pixel of the estimate lies outside.
        x_0 = predict_x0(schedule, x_t, t, eps_fn(x_t, t))
        told = (torch.zeros_like(t),) if takes_t else ()
        return _class_log_prob(_logits(classifier, x_0, *told), y)

    return log_prob_fn


# -- what they share -------------------------------------------------------------------------------
def _eps(model: nn.Module, x_t: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
    return model(x_t.to(_dtype_of(model, x_t)), t, y).to(x_t.dtype)


def _logits(classifier: Classifier, x: Tensor, *t: Tensor) -> Tensor:
    """[B, K] in float32, or in float64 if the classifier works in it."""
    _check_eval(classifier)
    logits = classifier(x.to(_dtype_of(classifier, x)), *t)
    return logits if logits.dtype == torch.float64 else logits.float()


def _class_log_prob(logits: Tensor, y: Tensor) -> Tensor:
    labels, num_classes = _labels_for(logits, y), logits.shape[1]
    if not bool(((y >= 0) & (y < num_classes)).all()):  # y, as a rule on the CPU: no wait for a GPU
        raise ValueError(f"The labels {y.tolist()} must be from 0 to {num_classes - 1}.")
    return F.log_softmax(logits, dim=1).gather(1, labels[:, None])[:, 0]


def _gradient(log_prob_fn: LogProbFn, x_t: Tensor, t: Tensor) -> Tensor:
    """grad log p(y given x_t) of each sample: [B, C, H, W]."""
    with torch.enable_grad():  # the sampler holds no_grad
        x = x_t.detach().clone().requires_grad_()
        log_probs = log_prob_fn(x, t)
        # The sum, never the mean: a sample's gradient must not depend on how many others are in its batch.
        total = log_probs.sum()
    wanted, got = list(t.shape), list(log_probs.shape)
    refuse({f"log_prob_fn must return one number a sample, {wanted}, got {got}.": got != wanted})
    gradient = torch.autograd.grad(total, x, allow_unused=True)[0] if total.requires_grad else None
    refuse({"log_prob_fn's result has no gradient in x_t: was it computed under no_grad?": gradient is None})
    return gradient


def _dtype_of(model: Callable[..., Tensor], x: Tensor) -> torch.dtype:
    """What x is cast to for a network: its weights may be float32 while the sampler's state is float64."""
    parameters = model.parameters() if isinstance(model, nn.Module) else ()
    return next((p.dtype for p in parameters), x.dtype)  # a toy model may have none


def _labels_for(x: Tensor, y: Tensor) -> Tensor:
    """y [B] or [B, K] on the device of x [B, …]; ValueError if there is not one label a sample."""
    if len(y) != len(x):
        raise ValueError(f"There are {len(y)} labels for {len(x)} samples: one label a sample is needed.")
    return y.to(x.device)


def _scale_at(t: Tensor, x: Tensor, scale: float, interval: Interval, outside: float) -> Tensor | float:
    """`scale` for samples whose t lies in the interval, `outside` for others: [B, 1, …, 1], or a number."""
    if interval is None:
        return scale
    inside = ((t >= interval[0]) & (t <= interval[1])).to(x.device)
    return x.new_full(t.shape, outside).masked_fill(inside, scale).view(-1, *(1,) * (x.ndim - 1))


def check_interval(interval: Interval, last: float = math.inf) -> None:
    """Raise ValueError for an empty interval, or one beyond the last timestep."""
    if interval is not None and not 0 <= interval[0] <= interval[1] <= last:
        allowed = "0 <= t_low <= t_high" + (f" <= {last}" if last < math.inf else "")
        raise ValueError(f"The guidance interval must be (t_low, t_high) with {allowed}, got {interval}.")


def _check_eval(classifier: Classifier) -> None:
    if getattr(classifier, "training", False):
        raise ValueError("The classifier is in training mode, where dropout makes noise: call its eval().")
