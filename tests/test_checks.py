"""The checks: each accepts right answers, names the classic wrong ones, and survives everything else."""

import contextlib
import functools
import itertools
import json
import math
import os
import re
import threading
import time

import planted_06
import planted_07
import planted_08
import planted_09
import planted_10
import planted_11
import planted_12
import pytest
import torch
import torch.nn.functional as F

from classroom import checks
from classroom.checks import (
    judging,
    lesson01,
    lesson02,
    lesson05,
    lesson06,
    lesson07,
    lesson08,
    lesson09,
    lesson10,
    lesson11,
    lesson12,
    predictions,
    running,
    store,
)
from lessons_lib import counterfactuals, evaluation, guidance, samplers, schedules, toy, unet
from lessons_lib.recipes.losses import random_flip
from lessons_lib.schedules import q_sample

EXERCISES = list(checks.EXERCISES.values())


@pytest.fixture(autouse=True)
def progress_file(tmp_path, monkeypatch):
    """Every test starts as a learner who has done nothing."""
    path = tmp_path / "progress.json"
    monkeypatch.setenv("LESSONS_PROGRESS", str(path))
    monkeypatch.setattr(store, "_UNWRITTEN", {})
    monkeypatch.setattr(checks, "_HINTS_SHOWN", {})
    monkeypatch.setattr(predictions, "PREDICTIONS", predictions.PREDICTIONS)
    return path


def check(number, function):
    return getattr(checks, checks.EXERCISES[number].check_name)(function)


# ---- right answers, each written in more than one way ----


def draw(schedule, x_0, generator):
    t = torch.randint(schedule.num_timesteps, (len(x_0),), generator=generator)
    return t, torch.randn(x_0.shape, generator=generator)


def loss_as_in_the_lesson(model, schedule, x_0, generator):
    t, eps = draw(schedule, x_0, generator)
    return ((model(q_sample(schedule, x_0, t, eps), t) - eps) ** 2).mean()


def loss_by_hand(model, schedule, x_0, generator):
    eps = torch.empty_like(x_0).normal_(generator=generator)
    t = (torch.rand(x_0.shape[0], generator=generator) * schedule.num_timesteps).long()
    abar = schedule.alphas_cumprod.float()[t][:, None, None, None]
    x_t = abar**0.5 * x_0 + (1 - abar) ** 0.5 * eps
    return torch.nn.functional.mse_loss(model(x_t, t), eps)


def losses_in_a_loop(eps_fn, schedule, x_0, timesteps, generator):
    losses = []
    for t in timesteps:
        eps = torch.randn(x_0.shape, generator=generator)
        batch_t = torch.full((len(x_0),), int(t))
        losses.append(((eps_fn(q_sample(schedule, x_0, batch_t, eps), batch_t) - eps) ** 2).mean())
    return torch.stack(losses)


def losses_of_one_noise(eps_fn, schedule, x_0, timesteps, generator):
    eps = torch.randn(x_0.shape, generator=generator)
    batches = [torch.full((x_0.shape[0],), t) for t in timesteps]
    with torch.no_grad():
        guesses = [eps_fn(q_sample(schedule, x_0, t, eps), t) for t in batches]
    return torch.tensor([float(torch.nn.functional.mse_loss(guess, eps)) for guess in guesses])


def losses_in_one_batch(eps_fn, schedule, x_0, timesteps, generator):
    t = torch.tensor(timesteps).repeat_interleave(len(x_0))
    many = x_0.repeat(len(timesteps), 1, 1, 1)
    eps = torch.randn(many.shape, generator=generator)
    errors = (eps_fn(q_sample(schedule, many, t, eps), t) - eps) ** 2
    return errors.view(len(timesteps), -1).mean(dim=1)


def x0_of_score(x_t, score, abar):
    return (x_t + (1 - abar) * score) / math.sqrt(abar)


def x0_by_way_of_eps(x_t, score, abar):
    eps = -score * (1 - abar) ** 0.5
    return x_t / abar**0.5 - eps * (1 / abar - 1) ** 0.5


def step_as_in_the_paper(x_t, eps, abar, abar_prev, eta, noise):
    root = math.sqrt
    sigma = eta * root((1 - abar_prev) / (1 - abar)) * root(1 - abar / abar_prev)
    x_0 = (x_t - root(1 - abar) * eps) / root(abar)
    return root(abar_prev) * x_0 + root(1 - abar_prev - sigma**2) * eps + sigma * noise


def step_with_tensors(x_t, eps, abar, abar_prev, eta, noise):
    a, p = torch.tensor(abar, dtype=torch.float64), torch.tensor(abar_prev, dtype=torch.float64)
    variance = eta**2 * (1 - p) / (1 - a) * (1 - a / p)
    x_0 = (x_t - (1 - a).sqrt() * eps) / a.sqrt()
    rest = (1 - p - variance).clamp(min=0).sqrt()
    return torch.lerp(x_0 * 0, x_0, p.sqrt().float()) + rest * eps + variance.sqrt() * noise


def shown_by_scale(x):
    return x * 0.5 + 0.5


def shown_and_clipped(x):
    return torch.clip((1 + x) / 2, 0, 1)


def betas_by_ratio(abar):
    return 1 - abar / torch.cat([torch.ones(1, dtype=abar.dtype), abar[:-1]])


def betas_in_a_loop(abar):
    betas, before = [], 1.0
    for now in abar.tolist():
        betas.append((before - now) / before)
        before = now
    return torch.tensor(betas)


def betas_by_logarithms(abar):
    return -torch.expm1(torch.diff(abar.log(), prepend=torch.zeros(1, dtype=abar.dtype)))


def betas_by_pad_in_place(abar):
    alphas = abar.clone()
    alphas[1:] /= abar[:-1]
    return (1 - alphas).clamp_(max=schedules.MAX_BETA)


def more_by_ratio(x, abar, abar_next, eps):
    ratio = abar_next / abar
    return math.sqrt(ratio) * x + math.sqrt(1 - ratio) * eps


def more_by_missing_variance(x, abar, abar_next, eps):
    shrink = abar_next**0.5 / abar**0.5
    missing = (1 - abar_next) - shrink**2 * (1 - abar)
    return shrink * x + missing**0.5 * eps


def more_in_place_with_tensors(x, abar, abar_next, eps):
    a, p = torch.tensor(abar, dtype=torch.float64), torch.tensor(abar_next, dtype=torch.float64)
    return x.mul_((p / a).sqrt()).add_(eps.mul_(((a - p) / a).sqrt()))


def field_forwards(layers):
    seen, jump = 1, 1
    for kernel, stride in layers:
        seen += (kernel - 1) * jump
        jump *= stride
    return seen


def field_backwards(layers):
    seen = 1.0
    while layers:
        kernel, stride = layers.pop()
        seen = (seen - 1) * stride + kernel
    return seen


def field_in_tensors(layers):
    kernels, strides = torch.tensor(layers).unbind(1)
    jumps = torch.cat([torch.ones(1, dtype=torch.int64), strides.cumprod(0)[:-1]])
    return ((kernels - 1) * jumps).sum() + 1


def field_by_gradient(layers):
    """No formula: the input pixels in a row that an output pixel's gradient reaches."""
    size = 200
    x = torch.ones(1, 1, size, size, dtype=torch.float64, requires_grad=True)
    h = x
    for kernel, stride in layers:
        conv = torch.nn.Conv2d(1, 1, kernel, stride, bias=False, dtype=torch.float64)
        torch.nn.init.constant_(conv.weight, 1 / kernel**2)
        h = conv(h)
    h[0, 0, 0, 0].backward()
    return int((x.grad[0, 0].abs().sum(dim=0) > 0).sum())


def heads_written_out(q, k, v, heads):
    B, N, C = q.shape
    q, k, v = (x.view(B, N, heads, C // heads).transpose(1, 2) for x in (q, k, v))
    weights = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(C // heads), dim=-1)
    return (weights @ v).transpose(1, 2).reshape(B, N, C)


def heads_with_einsum(q, k, v, heads):
    q, k, v = (x.unflatten(-1, (heads, -1)) for x in (q, k, v))
    scores = torch.einsum("bihd,bjhd->bhij", q, k) * q.shape[-1] ** -0.5
    return torch.einsum("bhij,bjhd->bihd", scores.softmax(dim=3), v).flatten(2)


def heads_with_the_fused_kernel(q, k, v, heads):
    q, k, v = (x.reshape(*x.shape[:2], heads, -1).permute(0, 2, 1, 3) for x in (q, k, v))
    return torch.nn.functional.scaled_dot_product_attention(q, k, v).permute(0, 2, 1, 3).flatten(2)


def heads_in_a_loop(q, k, v, heads):
    result, width = torch.empty_like(q), q.shape[2] // heads
    for h in range(heads):
        own = slice(h * width, (h + 1) * width)
        scores = torch.bmm(q[..., own], k[..., own].mT) / width**0.5
        result[..., own] = torch.bmm(scores.softmax(dim=2), v[..., own])
    return result


def heads_with_chunk(q, k, v, heads):
    pieces = zip(*(x.chunk(heads, dim=-1) for x in (q, k, v)), strict=True)
    # Scores of keys and queries, transposed: the keys are then the first of the two axes.
    each = [((k @ q.mT) / math.sqrt(q.shape[-1])).softmax(dim=1).mT @ v for q, k, v in pieces]
    return torch.cat(each, dim=-1)


def yes_or_no_by_sign(logit, value):
    return F.logsigmoid(torch.where(value == 1, logit, -logit))


def yes_or_no_by_softplus(logit, value):
    return -F.softplus((1 - 2 * value) * logit)


def yes_or_no_by_cross_entropy(logit, value):
    return -F.binary_cross_entropy_with_logits(logit, value.to(logit), reduction="none")


def yes_or_no_by_two_classes(logit, value):
    both = torch.stack([torch.zeros_like(logit), logit], dim=1)
    return both.double().log_softmax(dim=1)[torch.arange(len(value)), value]


def yes_or_no_in_a_loop(logit, value):
    pairs = zip(logit, value, strict=True)
    return torch.stack([F.logsigmoid(one if yes else -one) for one, yes in pairs])


def yes_or_no_by_bernoulli(logit, value):
    return torch.distributions.Bernoulli(logits=logit).log_prob(value.float())


def yes_or_no_by_weights(logit, value):
    return value * F.logsigmoid(logit) + (1 - value) * F.logsigmoid(-logit)


def gradient_as_in_the_lesson(classifier, x_t, t, y):
    with torch.enable_grad():
        x = x_t.detach().requires_grad_()
        log_p = classifier(x, t).log_softmax(dim=1)
        return torch.autograd.grad(log_p[torch.arange(len(y)), y].sum(), x)[0]


def gradient_by_backward(classifier, x_t, t, y):
    x = x_t.clone()
    with torch.enable_grad():
        x.requires_grad = True
        loss = F.cross_entropy(classifier(x, t), y, reduction="sum")
    loss.backward()
    return -x.grad


def gradient_a_sample_at_a_time(classifier, x_t, t, y):
    found = torch.zeros_like(x_t)
    for i in range(len(y)):
        with torch.enable_grad():
            x = x_t[i : i + 1].clone().double().requires_grad_(True)
            log_p = F.log_softmax(classifier(x, t[i : i + 1]), dim=-1)[0, y[i]]
            (found[i : i + 1],) = torch.autograd.grad(log_p, x)
    return found


def gradient_of_an_expectation(classifier, x_t, t, y):
    """By hand: the gradient of the logit of y less the classes' mean of it."""
    rows = torch.autograd.functional.jacobian(lambda x: classifier(x, t).sum(dim=0), x_t)
    p = classifier(x_t, t).softmax(dim=1)
    return rows[y, torch.arange(len(y))] - torch.einsum("bk,kbchw->bchw", p, rows)


def gradient_with_vmap(classifier, x_t, t, y):
    def log_p(x, t, y):
        return classifier(x[None], t[None])[0].log_softmax(dim=0).gather(0, y[None])[0]

    return torch.func.vmap(torch.func.grad(log_p))(x_t, t, y)


@torch.enable_grad()
def gradient_with_the_library(classifier, x_t, t, y):
    x = x_t.detach().clone().requires_grad_()
    guidance.class_log_prob(classifier, y)(x, t).sum().backward()
    return x.grad


@torch.enable_grad()
def gradient_with_ones(classifier, x_t, t, y):
    x = x_t.clone().requires_grad_()
    log_p = -F.cross_entropy(classifier(x, t), y, reduction="none")
    return torch.autograd.grad(log_p, x, grad_outputs=torch.ones_like(log_p))[0]


RIGHT = [
    ("00.1", shown_by_scale),
    ("00.1", shown_and_clipped),
    ("01.1", betas_by_ratio),
    ("01.1", betas_in_a_loop),
    ("01.1", betas_by_logarithms),
    ("01.1", betas_by_pad_in_place),
    ("01.2", more_by_ratio),
    ("01.2", more_by_missing_variance),
    ("01.2", more_in_place_with_tensors),
    ("02.1", field_forwards),
    ("02.1", field_backwards),
    ("02.1", field_in_tensors),
    ("02.1", field_by_gradient),
    ("02.2", heads_written_out),
    ("02.2", heads_with_einsum),
    ("02.2", heads_with_the_fused_kernel),
    ("02.2", heads_in_a_loop),
    ("02.2", heads_with_chunk),
    ("03.1", loss_as_in_the_lesson),
    ("03.1", loss_by_hand),
    ("03.2", losses_in_a_loop),
    ("03.2", losses_of_one_noise),
    ("03.2", losses_in_one_batch),
    ("04.1", x0_of_score),
    ("04.1", x0_by_way_of_eps),
    ("04.2", step_as_in_the_paper),
    ("04.2", step_with_tensors),
    ("05.1", yes_or_no_by_sign),
    ("05.1", yes_or_no_by_softplus),
    ("05.1", yes_or_no_by_cross_entropy),
    ("05.1", yes_or_no_by_two_classes),
    ("05.1", yes_or_no_in_a_loop),
    ("05.1", yes_or_no_by_bernoulli),
    ("05.1", yes_or_no_by_weights),
    ("05.2", gradient_as_in_the_lesson),
    ("05.2", gradient_by_backward),
    ("05.2", gradient_a_sample_at_a_time),
    ("05.2", gradient_of_an_expectation),
    ("05.2", gradient_with_the_library),
    *planted_06.RIGHT,
    *planted_07.RIGHT,
    *planted_08.RIGHT,
    *planted_09.RIGHT,
    *planted_10.RIGHT,
    *planted_11.RIGHT,
    *planted_12.RIGHT,
]


@pytest.mark.parametrize("number, function", RIGHT, ids=lambda value: getattr(value, "__name__", value))
def test_right_answer_is_accepted(number, function):
    begun = time.perf_counter()
    result = check(number, function)
    assert (result.status, result.line) == ("right", None), result
    assert time.perf_counter() - begun < 5  # under a second, on a machine that does nothing else


# ---- classic wrong answers: the right one with one thing replaced ----


def wrong_loss(
    t=lambda T, B, g: torch.randint(T, (B,), generator=g),
    eps=lambda x, g: torch.randn(x.shape, generator=g),
    x_t=q_sample,
    told=lambda schedule, t: t,
    loss=lambda guess, eps, x_0, x_t: ((guess - eps) ** 2).mean(),
):
    def noising_loss(model, schedule, x_0, generator):
        own_t = t(schedule.num_timesteps, len(x_0), generator)
        own_eps = eps(x_0, generator)
        noisy = x_t(schedule, x_0, own_t, own_eps)
        return loss(model(noisy, told(schedule, own_t)), own_eps, x_0, noisy)

    return noising_loss


def factors(signal, noise):
    def mix(schedule, x_0, t, eps):
        abar = schedule.alphas_cumprod[t].float().view(-1, 1, 1, 1)
        return abar**signal * x_0 + (1 - abar) ** noise * eps

    return mix


def randint(low, high):
    return lambda T, B, g: torch.randint(low(T), high(T), (B,), generator=g)


WRONG_LOSS = [
    ("one t", wrong_loss(t=lambda T, B, g: torch.randint(T, (1,), generator=g).repeat(B))),
    ("one t", wrong_loss(t=lambda T, B, g: torch.randint(T, (1,), generator=g))),
    ("t = 0", wrong_loss(t=lambda T, B, g: torch.zeros(B, dtype=torch.int64))),
    ("last t", wrong_loss(t=randint(lambda T: 0, lambda T: T - 1))),
    ("first t", wrong_loss(t=randint(lambda T: 1, lambda T: T))),
    ("uneven t", wrong_loss(t=lambda T, B, g: (torch.rand(B, generator=g) * (T - 1)).round().long())),
    ("clean", wrong_loss(x_t=lambda schedule, x_0, t, eps: x_0)),
    ("noise only", wrong_loss(x_t=lambda schedule, x_0, t, eps: eps)),
    ("root", wrong_loss(x_t=factors(1, 1))),
    ("root", wrong_loss(x_t=factors(0.5, 1))),
    ("root", wrong_loss(x_t=factors(1, 0.5))),
    ("other t", wrong_loss(told=lambda schedule, t: (t + 1) % schedule.num_timesteps)),
    ("uniform", wrong_loss(eps=lambda x, g: torch.rand(x.shape, generator=g))),
    ("uniform", wrong_loss(eps=lambda x, g: torch.rand(x.shape, generator=g) * 2 - 1)),
    ("same noise", wrong_loss(eps=lambda x, g: torch.randn(x.shape[1:], generator=g).expand_as(x))),
    ("x_0", wrong_loss(loss=lambda guess, eps, x_0, x_t: ((guess - x_0) ** 2).mean())),
    ("x_t", wrong_loss(loss=lambda guess, eps, x_0, x_t: ((guess - x_t) ** 2).mean())),
    ("sum", wrong_loss(loss=lambda guess, eps, x_0, x_t: ((guess - eps) ** 2).sum())),
    ("sum", wrong_loss(loss=lambda guess, eps, x_0, x_t: ((guess - eps) ** 2).sum(dim=(1, 2, 3)).mean())),
    ("not reduced", wrong_loss(loss=lambda guess, eps, x_0, x_t: (guess - eps) ** 2)),
    ("root of loss", wrong_loss(loss=lambda guess, eps, x_0, x_t: ((guess - eps) ** 2).mean().sqrt())),
    ("absolute", wrong_loss(loss=lambda guess, eps, x_0, x_t: (guess - eps).abs().mean())),
    ("detached", wrong_loss(loss=lambda guess, eps, x_0, x_t: ((guess - eps) ** 2).mean().item())),
    ("detached", wrong_loss(loss=lambda guess, eps, x_0, x_t: ((guess - eps) ** 2).mean().detach())),
    ("generator", wrong_loss(eps=lambda x, g: torch.randn_like(x))),
    ("generator", wrong_loss(t=lambda T, B, g: torch.randint(T, (B,)))),
]


def wrong_losses(
    batch_t=lambda x_0, t: torch.full((len(x_0),), int(t)),
    eps=lambda x, g: torch.randn(x.shape, generator=g),
    x_t=q_sample,
    one=lambda guess, eps, x_0: ((guess - eps) ** 2).mean(),
    order=lambda timesteps: timesteps,
    result=torch.stack,
):
    def loss_by_timestep(eps_fn, schedule, x_0, timesteps, generator):
        losses = []
        for t in order(timesteps):
            own_eps = eps(x_0, generator)
            noisy = x_t(schedule, x_0, torch.full((len(x_0),), int(t)), own_eps)
            losses.append(one(eps_fn(noisy, batch_t(x_0, t)), own_eps, x_0))
        return result(losses)

    return loss_by_timestep


WRONG_LOSSES = [
    ("one number", wrong_losses(result=lambda losses: torch.stack(losses).mean())),
    ("one number", wrong_losses(result=lambda losses: float(sum(losses)) / len(losses))),
    ("no batch", wrong_losses(batch_t=lambda x_0, t: torch.tensor(t))),
    ("no batch", wrong_losses(batch_t=lambda x_0, t: t)),
    ("no batch", wrong_losses(batch_t=lambda x_0, t: torch.tensor([t]))),
    ("order", wrong_losses(order=sorted)),
    ("order", wrong_losses(result=lambda losses: torch.stack(losses[::-1]))),
    ("clean", wrong_losses(x_t=lambda schedule, x_0, t, eps: x_0)),
    ("x_0", wrong_losses(one=lambda guess, eps, x_0: ((guess - x_0) ** 2).mean())),
    ("sum", wrong_losses(one=lambda guess, eps, x_0: ((guess - eps) ** 2).sum())),
    ("sum", wrong_losses(one=lambda guess, eps, x_0: ((guess - eps) ** 2).sum() / len(x_0))),
    ("root", wrong_losses(one=lambda guess, eps, x_0: ((guess - eps) ** 2).mean().sqrt())),
    ("absolute", wrong_losses(one=lambda guess, eps, x_0: (guess - eps).abs().mean())),
    ("noise", wrong_losses(eps=lambda x, g: torch.rand(x.shape, generator=g))),
    ("noise", wrong_losses(x_t=factors(1, 1))),
]
WRONG_X0 = [
    ("sign", lambda x_t, score, abar: (x_t - (1 - abar) * score) / math.sqrt(abar)),
    ("root", lambda x_t, score, abar: (x_t + math.sqrt(1 - abar) * score) / math.sqrt(abar)),
    ("as eps", lambda x_t, score, abar: (x_t - math.sqrt(1 - abar) * score) / math.sqrt(abar)),
    ("no division", lambda x_t, score, abar: x_t + (1 - abar) * score),
    ("abar", lambda x_t, score, abar: (x_t + (1 - abar) * score) / abar),
    ("multiplied", lambda x_t, score, abar: (x_t + (1 - abar) * score) * math.sqrt(abar)),
]

RIGHT_SIGMA = "eta * r((1 - p) / (1 - a)) * r(1 - a / p)"
RIGHT_X0 = "(x - r(1 - a) * e) / r(a)"
RIGHT_STEP = "r(p) * x_0 + r(1 - p - s**2) * e + s * n"
ROOTS = {
    "math": math.sqrt,
    "power": lambda value: value**0.5,
    "torch": lambda value: torch.tensor(float(value)).sqrt(),
}


def wrong_step(sigma=RIGHT_SIGMA, x_0=RIGHT_X0, step=RIGHT_STEP, root="math"):
    """A step written as formulas: x, e, n images, a and p abar and abar_prev, r the square root, s sigma."""

    def ddim_step(x_t, eps, abar, abar_prev, eta, noise):
        names = {"x": x_t, "e": eps, "n": noise, "a": abar, "p": abar_prev, "eta": eta, "r": ROOTS[root]}
        names |= {"s": eval(sigma, names)}
        names |= {"x_0": eval(x_0, names)}
        return eval(step, names)

    return ddim_step


def exchange(formula):
    """a for p and p for a."""
    return re.sub(r"\b[ap]\b", lambda match: "pa"["ap".index(match.group())], formula)


WRONG_STEP = [
    ("direction", wrong_step(step="r(p) * x_0 + r(1 - p) * e + s * n")),
    ("eta 0", wrong_step(sigma="0.0")),
    ("eta 0", wrong_step(step="r(p) * x_0 + r(1 - p - s**2) * e")),
    ("eta 1", wrong_step(sigma="r((1 - p) / (1 - a)) * r(1 - a / p)")),
    ("sigma not squared", wrong_step(step="r(p) * x_0 + r(1 - p - s) * e + s * n")),
    ("sigma not squared", wrong_step(step="r(p) * x_0 + r(1 - p - s) * e + s * n", root="torch")),
    ("variance", wrong_step(step="r(p) * x_0 + r(1 - p - s**2) * e + s**2 * n")),
    ("last step", wrong_step(sigma="eta * r(1 - a / p)", root="torch")),
    ("last step", wrong_step(sigma="eta * r(1 - a / p)")),
    (
        "last step",
        wrong_step(
            sigma=RIGHT_SIGMA + " if p < 1 else eta * 0.1",
            step=RIGHT_STEP.replace("p - s**2", "p - s**2 * (p < 1)"),
        ),
    ),
    ("swapped", wrong_step(x_0=RIGHT_X0.replace("a", "p"), step=RIGHT_STEP.replace("p", "a"))),
    ("swapped", wrong_step(*map(exchange, (RIGHT_SIGMA, RIGHT_X0, RIGHT_STEP)))),
    ("swapped", wrong_step(*map(exchange, (RIGHT_SIGMA, RIGHT_X0, RIGHT_STEP)), root="power")),
    ("x_t", wrong_step(step=RIGHT_STEP.replace("x_0", "x"))),
    ("root", wrong_step(x_0="(x - (1 - a) * e) / r(a)")),
    ("root", wrong_step(x_0="(x - r(1 - a) * e) / a")),
    ("root", wrong_step(step="r(p) * x_0 + (1 - p - s**2) * e + s * n")),
    ("root", wrong_step(step="p * x_0 + r(1 - p - s**2) * e + s * n")),
    ("root", wrong_step(sigma="eta * (1 - p) / (1 - a) * (1 - a / p)")),
    ("root", wrong_step(sigma="eta * r((1 - p) / (1 - a)) * (1 - a / p)")),
    ("clipped", wrong_step(x_0=f"({RIGHT_X0}).clamp(-1, 1)")),
]
WRONG_SHOWN = [
    ("only halved", lambda x: 0.5 * x),
    ("only shifted", lambda x: 1 + x),
    ("order", lambda x: x / 2 + 1),
    ("sign", lambda x: (x - 1) / 2),
    ("cut off", torch.relu),
    ("absolute", torch.abs),
    ("bytes", lambda x: 127.5 * x + 127.5),
    ("unchanged", lambda x: x),
]


def before(abar, first=1.0):
    return torch.cat([torch.full((1,), first, dtype=abar.dtype), abar[:-1]])


def shifted_to(abar, *, front=(), back=()):
    """The betas but the first, with something before or behind them."""
    front, back = (torch.tensor(some, dtype=abar.dtype) for some in (front, back))
    return torch.cat([front, betas_by_ratio(abar)[1:], back])


WRONG_BETAS = [
    ("first missing", lambda a: 1 - a[1:] / a[:-1]),
    ("first missing", lambda a: a[1:] / a[:-1]),
    ("first missing", lambda a: -torch.diff(a)),
    ("wrapped", lambda a: 1 - a / a.roll(1)),
    ("wrapped", lambda a: torch.stack([1 - a[t] / a[t - 1] for t in range(len(a))])),
    ("first", lambda a: shifted_to(a, front=[0.0])),
    ("first", lambda a: shifted_to(a, front=[float(a[0])])),
    ("first", lambda a: 1 - a / before(a, first=0.0)),  # infinite there
    ("first", lambda a: 1 - a / before(a, first=float(a[0]))),
    ("shifted", lambda a: shifted_to(a, back=[0.0])),
    ("shifted", lambda a: 1 - a.roll(-1) / a),
    ("shifted", lambda a: betas_by_ratio(a).roll(1)),
    ("reversed", lambda a: betas_by_ratio(a).flip(0)),
    ("reversed", lambda a: shifted_to(a, front=[0.0]).flip(0)),
    ("turned", lambda a: 1 - before(a) / a),
    ("turned", lambda a: before(a) / a - 1),
    ("turned", lambda a: before(a) / a),
    ("turned", lambda a: 1 - a.roll(1) / a),
    ("sign", lambda a: a / before(a) - 1),
    ("alphas", lambda a: a / before(a)),
    ("alphas", lambda a: a / before(a, first=0.0)),
    ("alphas", lambda a: torch.exp(torch.diff(a.log(), prepend=torch.zeros(1, dtype=a.dtype)))),
    ("difference", lambda a: before(a) - a),
    ("difference", lambda a: torch.diff(a, prepend=torch.ones(1, dtype=a.dtype))),
    ("difference", lambda a: before(a, first=0.0) - a),
    ("difference", lambda a: 1 - (before(a) - a)),
    ("cumulated", lambda a: 1 - a),
    ("root", lambda a: (1 - a / before(a)).sqrt()),
    ("root", lambda a: 1 - (a / before(a)).sqrt()),
    ("root", lambda a: (a / before(a)).sqrt()),
    ("log", lambda a: before(a).log() - a.log()),
    ("log", lambda a: torch.diff(a.log(), prepend=torch.zeros(1, dtype=a.dtype))),
    ("cumprod", lambda a: torch.cumprod(1 - a, dim=0)),
    ("cumprod", lambda a: 1 - torch.cumprod(a, dim=0)),
    ("cumprod", lambda a: torch.cumprod(a, dim=0)),
    ("cumprod", lambda a: 1 - torch.cumprod(1 - a, dim=0)),
]


def wrong_more(signal="r(p / a)", noise="r(1 - p / a)", root="math", then=lambda x: x):
    """A jump written as two factors: a and p abar and abar_next, r the square root."""

    def noise_more(x, abar, abar_next, eps):
        names = {"a": abar, "p": abar_next, "r": ROOTS[root]}
        return then(eval(signal, names) * x + eval(noise, names) * eps)

    return noise_more


WRONG_MORE = [
    ("clean", wrong_more("r(p)", "r(1 - p)")),
    ("clean", wrong_more("r(p)")),
    ("difference", wrong_more(noise="r(a - p)")),
    ("difference", wrong_more("r(p)", "r(a - p)")),
    ("too much", wrong_more(noise="r(1 - p)")),
    ("old eps", wrong_more(noise="r(1 - p) - r(p / a) * r(1 - a)")),
    ("old level", wrong_more("r(a)", "r(1 - a)")),
    ("not shrunk", wrong_more("1")),
    ("not shrunk", wrong_more("1", "r(a - p)")),
    ("not shrunk", wrong_more("1", "r(1 - p)")),
    ("root", wrong_more("p / a")),
    ("root", wrong_more(noise="1 - p / a")),
    ("root", wrong_more("p / a", "1 - p / a")),
    ("root", wrong_more("p / a", "r(1 - (p / a)**2)")),
    ("root", wrong_more(noise="a - p")),
    ("root", wrong_more("p / a", "a - p")),
    ("root", wrong_more("p", "1 - p")),
    ("root", wrong_more("r(p)", "1 - p")),
    ("root", wrong_more("p", "r(1 - p)")),
    ("outside", wrong_more(noise="1 - r(p / a)")),
    ("exchanged", wrong_more("r(1 - p / a)", "r(p / a)")),
    ("exchanged", wrong_more("r(1 - p)", "r(p)")),
    *[("turned", wrong_more("r(a / p)", "r(1 - a / p)", root=root)) for root in ROOTS],
    *[("turned", wrong_more(noise="r(1 - a / p)", root=root)) for root in ROOTS],
    ("turned", wrong_more("r(p)", "r(1 - a / p)")),
    ("turned", wrong_more("1", "r(1 - a / p)")),
    ("turned", wrong_more("r(a / p)")),
    ("turned", wrong_more("r(a / p)", "r(a / p - 1)")),
    ("turned", wrong_more("r(a / p)", "r(a - p)")),
    ("noise levels", wrong_more(noise="r(1 - (1 - a) / (1 - p))")),
    ("noise levels", wrong_more("r((1 - a) / (1 - p))", "r(1 - (1 - a) / (1 - p))")),
    *[("noise levels", wrong_more(noise="r((1 - p) / (1 - a))", root=root)) for root in ROOTS],
    ("sign", wrong_more(noise="-r(1 - p / a)")),
    ("no noise", wrong_more(noise="0")),
    ("full noise", wrong_more(noise="1")),
    ("full noise", wrong_more("1", "1")),
    ("clipped", wrong_more(then=lambda x: x.clamp(-1, 1))),
    ("own noise", lambda x, a, p, eps: math.sqrt(p / a) * x + math.sqrt(1 - p / a) * torch.randn_like(x)),
]


def wrong_field(start=1, add="(k - 1) * jump", jump="jump * s", early=False, layers=list, then=int):
    """A walk through the layers: k and s the layer's kernel and stride."""

    def receptive_field(given):
        seen, names = start, {"jump": 1}
        for k, s in layers(given):
            names |= {"k": k, "s": s}
            now = eval(jump, names)
            seen += eval(add, names | ({"jump": now} if early else {}))
            names["jump"] = now
        return then(seen)

    return receptive_field


WRONG_FIELD = [
    ("strides", wrong_field(jump="1")),
    ("strides", lambda layers: sum(kernel for kernel, stride in layers)),
    ("strides", wrong_field(add="k")),
    ("too early", wrong_field(early=True)),
    ("too early", wrong_field(add="(k - 1) * s")),
    ("not multiplied", wrong_field(jump="s")),
    ("added", wrong_field(jump="jump + s")),
    ("added", wrong_field(jump="jump + s - 1")),
    ("added", wrong_field(jump="jump + s", add="(k - 1) * max(1, jump - 1)")),
    ("whole", lambda layers: 1 + math.prod(s for _, s in layers) * sum(k - 1 for k, _ in layers)),
    ("whole", lambda layers: 1 + math.prod(s for _, s in layers[:-1]) * sum(k - 1 for k, _ in layers)),
    ("order", wrong_field(layers=reversed)),
    (
        "order",
        lambda layers: functools.reduce(lambda seen, layer: (seen - 1) * layer[1] + layer[0], layers, 1),
    ),
    ("product", lambda layers: math.prod(kernel for kernel, stride in layers)),
    ("k", wrong_field(add="k * jump")),
    ("k", wrong_field(start=0, add="k * jump")),
    ("from 0", wrong_field(start=0)),
    ("jump", lambda layers: math.prod(stride for kernel, stride in layers)),
    ("jump", lambda layers: math.prod(stride for kernel, stride in layers[:-1])),
    ("last layer", wrong_field(layers=lambda layers: layers[:-1])),
    ("radius", wrong_field(then=lambda seen: (seen - 1) / 2)),
    ("radius", wrong_field(then=lambda seen: (seen - 1) // 2)),
    ("radius", wrong_field(then=lambda seen: seen / 2)),
    ("radius", wrong_field(then=lambda seen: torch.tensor(seen // 2))),
    ("squared", wrong_field(then=lambda seen: seen**2)),
]


def wrong_heads(
    split="x.view(B, N, h, C // h).transpose(1, 2)",
    qkv="q, k, v",
    scores="q @ k.transpose(-1, -2)",
    scale="math.sqrt(C // h)",
    weights="scores.softmax(-1)",
    mixed="weights @ v",
    merge="mixed.transpose(1, 2).reshape(B, N, C)",
):
    """Attention written as formulas."""

    def multi_head(q, k, v, heads):
        names = dict(zip("BNC", q.shape, strict=True)) | {"h": heads, "math": math, "torch": torch}
        names |= dict(zip("qkv", (eval(split, names | {"x": x}) for x in (q, k, v)), strict=True))
        names |= dict(zip("qkv", eval(qkv, names), strict=True))
        names["scores"] = eval(scores, names) / eval(scale, names)
        names["weights"] = eval(weights, names)
        names["mixed"] = eval(mixed, names)
        return eval(merge, names)

    return multi_head


SPLIT_ONLY_VIEWED = "x.view(B, h, N, C // h)"
SPLIT_EVERY = "x.view(B, N, C // h, h).permute(0, 3, 1, 2)"
WHOLE = {"split": "x", "merge": "mixed"}
WRONG_HEADS = [
    ("weights", wrong_heads(merge="weights")),
    ("weights", wrong_heads(merge="weights.mean(1)")),
    ("weights", wrong_heads(merge="weights.flatten(0, 1)")),
    ("apart", wrong_heads(merge="mixed")),
    ("apart", wrong_heads(merge="mixed.transpose(1, 2)")),
    ("apart", wrong_heads(merge="torch.stack(mixed.unbind(1))")),
    ("apart", wrong_heads(merge="torch.cat(mixed.unbind(1), dim=0)")),
    ("apart", wrong_heads(merge="torch.cat(mixed.unbind(1), dim=1)")),
    ("part", wrong_heads(merge="mixed.mean(1)")),
    ("part", wrong_heads(merge="mixed[:, 0]")),
    ("one head", wrong_heads(**WHOLE)),
    ("one head", wrong_heads(**WHOLE, scale="math.sqrt(C)")),
    ("no scale", wrong_heads(scale="1")),
    ("all channels", wrong_heads(scale="math.sqrt(C)")),
    ("scale root", wrong_heads(scale="C / h")),
    ("multiplied", wrong_heads(scale="1 / math.sqrt(C // h)")),
    ("over queries", wrong_heads(weights="scores.softmax(-2)")),
    ("over heads", wrong_heads(weights="scores.softmax(1)")),
    ("over batch", wrong_heads(weights="scores.softmax(0)")),
    ("no softmax", wrong_heads(weights="scores")),
    ("mixed", wrong_heads(split=SPLIT_ONLY_VIEWED)),
    ("mixed", wrong_heads(split=SPLIT_ONLY_VIEWED, merge="mixed.reshape(B, N, C)")),
    ("mixed", wrong_heads(split="x.view(B * h, N, C // h)", merge="mixed.view(B, N, C)")),
    ("merged", wrong_heads(merge="mixed.reshape(B, N, C)")),
    ("merged", wrong_heads(merge="torch.stack(mixed.unbind(1), dim=-1).flatten(2)")),
    ("interleaved", wrong_heads(split=SPLIT_EVERY)),
    ("interleaved", wrong_heads(split=SPLIT_EVERY, merge="mixed.permute(0, 2, 3, 1).reshape(B, N, C)")),
    ("swapped", wrong_heads(qkv="k, q, v")),
    ("swapped", wrong_heads(scores="k @ q.transpose(-1, -2)")),
    ("transposed", wrong_heads(mixed="weights.transpose(-1, -2) @ v")),
    ("transposed", wrong_heads(mixed="torch.einsum('bhij,bhid->bhjd', weights, v)")),
    ("not v", wrong_heads(mixed="weights @ k")),
    ("not v", wrong_heads(mixed="weights @ q")),
]


def wrong_yes_or_no(formula):
    """A formula: z and v the logit and the value, p the probability of 1, q that of the value."""

    def attribute_log_prob(logit, value):
        p, ls, one = torch.sigmoid(logit), F.logsigmoid, value == 1
        names = {"z": logit, "v": value, "p": p, "ls": ls, "one": one, "F": F, "torch": torch}
        return eval(formula, names | {"q": torch.where(one, p, 1 - p)})

    return attribute_log_prob


WRONG_LOG_PROB = [
    (name, wrong_yes_or_no(formula))
    for name, formula in [
        ("unstable", "q.log()"),
        ("unstable", "torch.log(p) * v + torch.log(1 - p) * (1 - v)"),
        ("unstable", "torch.where(one, p.log(), torch.log1p(-p))"),
        ("unstable", "-torch.log(1 + torch.exp((1 - 2 * v) * z))"),
        ("unstable", "torch.where(one, z.double(), -z.double()).sigmoid().log()"),
        ("unstable", "torch.where(one, ls(z), torch.log(1 - p))"),
        ("unstable", "torch.where(one, z, 0) - torch.log(1 + z.exp())"),
        ("flat", "torch.log(q + 1e-8)"),
        ("flat", "torch.log(q + 1e-5)"),
        ("flat", "torch.log(q + 1e-3)"),
        ("flat", "torch.where(one, torch.log(p + 1e-12), ls(-z))"),
        ("flat", "q.clamp(min=1e-12).log()"),
        ("flat", "-F.binary_cross_entropy(p, v.float(), reduction='none')"),
        ("flat", "q.log().nan_to_num()"),
        ("flat", "torch.distributions.Bernoulli(probs=p).log_prob(v.float())"),
        ("flat", "ls(torch.where(one, z, -z).clamp(-50, 50))"),
        ("no log", "q"),
        ("no log", "p"),
        ("no log", "p * v + (1 - p) * (1 - v)"),
        ("value", "ls(z)"),
        ("value", "p.log()"),
        ("value", "-F.softplus(z)"),
        ("turned", "ls(torch.where(v == 0, z, -z))"),
        ("turned", "ls((1 - 2 * v) * z)"),
        ("loss", "-ls(torch.where(one, z, -z))"),
        ("loss", "F.binary_cross_entropy_with_logits(z, v.float(), reduction='none')"),
        ("loss", "F.softplus(torch.where(one, -z, z))"),
        ("half", "v * ls(z)"),
        ("half", "(1 - v) * ls(-z)"),
        ("complement", "torch.where(one, ls(z), 1 - ls(z))"),
        ("complement", "torch.where(one, ls(z), -ls(z))"),
        ("factor", "ls(v * z)"),
        ("twice", "ls(torch.where(one, p, -p))"),
        ("twice", "-F.binary_cross_entropy_with_logits(p, v.float(), reduction='none')"),
        ("twice", "ls(torch.where(one, z, -z).sigmoid())"),
        ("over batch", "z.log_softmax(dim=0)"),
        ("over batch", "torch.where(one, z, -z).log_softmax(dim=0)"),
        ("over batch", "z.softmax(0).log()"),
        ("over batch", "torch.where(one, z, -z).softmax(0)"),
        ("logits", "z"),
        ("logits", "torch.where(one, z, -z)"),
        ("base", "torch.log2(q)"),
        ("base", "torch.log10(q)"),
        ("one number", "ls(torch.where(one, z, -z)).sum()"),
        ("one number", "ls(torch.where(one, z, -z)).mean(dim=0, keepdim=True)"),
        ("one number", "F.binary_cross_entropy_with_logits(z, v.float())"),
        ("both", "torch.stack([ls(-z), ls(z)], dim=1)"),
        ("both", "torch.stack([ls(-z), ls(z)])"),
    ]
]

ALL_OF_IT = (
    "with torch.enable_grad():",
    "    x = x_t.detach().clone().requires_grad_()",
    "    logits = classifier(x, t)",
    "    log_p = F.log_softmax(logits, dim=1)",
    "    chosen = log_p.gather(1, y[:, None])",
    "    total = chosen.sum()",
    "    g = torch.autograd.grad(total, x)[0]",
    "return g",
)


def wrong_gradient(*lines):
    """The right function with each given line in the place of the one that sets the same name."""
    names = [line.split()[0] for line in ALL_OF_IT]
    body = list(ALL_OF_IT)
    for line in lines:
        place = names.index(line.split()[0])
        body[place] = body[place][: len(body[place]) - len(body[place].lstrip())] + line
    space = {"torch": torch, "F": F, "contextlib": contextlib}
    exec("def class_gradient(classifier, x_t, t, y):\n    " + "\n    ".join(body), space)
    return space["class_gradient"]


def gradient_in_place(classifier, x_t, t, y):
    with torch.enable_grad():
        x_t.requires_grad_()
        classifier(x_t, t).log_softmax(dim=1).gather(1, y[:, None]).sum().backward()
    return x_t.grad


def gradient_with_grad_left_on(classifier, x_t, t, y):
    torch.set_grad_enabled(True)
    x = x_t.detach().requires_grad_()
    return torch.autograd.grad(classifier(x, t).log_softmax(dim=1).gather(1, y[:, None]).sum(), x)[0]


def gradient_of_log_p_outside(classifier, x_t, t, y):
    x = x_t.detach().requires_grad_()
    with torch.enable_grad():
        logits = classifier(x, t)
    return torch.autograd.grad(logits.log_softmax(dim=1).gather(1, y[:, None]).sum(), x)[0]


def gradient_of_another_copy(classifier, x_t, t, y):
    with torch.enable_grad():
        x, other = x_t.clone().requires_grad_(), x_t.clone().requires_grad_()
        return torch.autograd.grad(classifier(x, t).log_softmax(dim=1).gather(1, y[:, None]).sum(), other)[0]


LOSS = "total = F.cross_entropy(logits, y{})"
WRONG_GRADIENT = [
    (name, function if callable(function) else wrong_gradient(*function))
    for name, function in [
        ("no_grad", ("with contextlib.nullcontext():",)),
        ("no_grad", ("with contextlib.nullcontext():", "x = x_t.requires_grad_()")),
        ("no_grad", ("with contextlib.nullcontext():", "total = chosen")),
        ("no_grad", ("with contextlib.nullcontext():", "g = total.backward() or x.grad")),
        ("no_grad", ("with torch.no_grad():",)),
        ("no_grad", gradient_of_log_p_outside),
        ("no path", ("x = x_t.clone()",)),
        ("no path", ("with contextlib.nullcontext():", "x = x_t")),
        ("no path", ("logits = classifier(x, t).detach()",)),
        ("no path", gradient_of_another_copy),
        ("not summed", ("total = chosen",)),
        ("not summed", ("total = chosen", "g = total.backward() or x.grad")),
        ("tuple", ("g = torch.autograd.grad(total, x)",)),
        ("log p", ("return chosen[:, 0]",)),
        ("log p", ("return chosen",)),
        ("log p", ("return log_p",)),
        ("log p", ("return total",)),
        ("mean", ("total = chosen.mean()",)),
        ("mean", (LOSS.format("").replace("F", "-F"),)),
        ("mean", ("g = torch.autograd.grad(total, x)[0] / len(y)",)),
        ("probability", ("log_p = logits.softmax(dim=1)",)),
        ("probability", ("log_p = logits.softmax(dim=1)", "total = chosen.mean()")),
        ("logit", ("log_p = logits",)),
        ("logit", ("log_p = -logits", "total = chosen.mean()")),
        ("label", ("chosen = log_p.max(dim=1).values",)),
        ("label", ("chosen = log_p.gather(1, logits.argmax(dim=1)[:, None])",)),
        ("label", ("total = logits.max(dim=1).values.sum()",)),
        ("label", ("total = logits.softmax(dim=1).max(dim=1).values.sum()",)),
        ("label", ("chosen = log_p[:, y[0]]",)),
        ("all labels", ("chosen = log_p[:, y]",)),
        ("all labels", ("chosen = log_p[:, y]", "total = chosen.mean()")),
        ("all classes", ("total = log_p.sum()",)),
        ("all classes", ("total = log_p.mean()",)),
        ("all classes", ("total = logits.sum()",)),
        ("all classes", ("total = logits.mean()",)),
        ("zero", ("total = logits.softmax(dim=1).sum()",)),
        ("zero", ("return torch.zeros_like(g)",)),
        ("sign", (LOSS.format(", reduction='sum'"),)),
        ("sign", (LOSS.format(""),)),
        ("sign", ("return -g",)),
        ("axis", ("log_p = F.log_softmax(logits, dim=0)",)),
        ("axis", ("log_p = F.softmax(logits, dim=0)",)),
        ("twice", ("logits = classifier(x, t).softmax(dim=1)",)),
        ("twice", ("total = -F.cross_entropy(logits.softmax(dim=1), y)",)),
        ("sigmoid", ("log_p = F.logsigmoid(logits)",)),
        (
            "sigmoid",
            ("total = -F.multilabel_soft_margin_loss(logits, F.one_hot(y, 6), reduction='sum') * 6",),
        ),
        ("norm", ("return g / g.norm()",)),
        ("norm", ("return g / (g.flatten(1).norm(dim=1)[:, None, None, None] + 1e-8)",)),
        ("norm", ("return F.normalize(g, dim=1)",)),
        ("norm", ("return F.normalize(g.flatten(1)).view_as(g)",)),
        ("norm", ("return g / g.abs().max()",)),
        ("norm", ("return g / g.abs().amax(dim=(1, 2, 3), keepdim=True)",)),
        ("t", ("logits = classifier(x, torch.zeros_like(t))",)),
        ("t", ("logits = classifier(x, t - 1)",)),
        ("t", ("logits = classifier(x, t / 1000)",)),
        ("t", ("logits = classifier(x, t[:1].expand(len(t)))",)),
        ("t", ("logits = classifier(x, y)",)),
        ("copy", gradient_in_place),
        ("copy", ("x = x_t.requires_grad_()",)),
        ("copy", ("return x_t.copy_(g)",)),
        ("graph", ("g = torch.autograd.grad(total, x, create_graph=True)[0]",)),
        ("left on", gradient_with_grad_left_on),
    ]
]
WRONG = {
    "00.1": WRONG_SHOWN,
    "01.1": WRONG_BETAS,
    "01.2": WRONG_MORE,
    "02.1": WRONG_FIELD,
    "02.2": WRONG_HEADS,
    "03.1": WRONG_LOSS,
    "03.2": WRONG_LOSSES,
    "04.1": WRONG_X0,
    "04.2": WRONG_STEP,
    "05.1": WRONG_LOG_PROB,
    "05.2": WRONG_GRADIENT,
    **planted_06.WRONG,
    **planted_07.WRONG,
    **planted_08.WRONG,
    **planted_09.WRONG,
    **planted_10.WRONG,
    **planted_11.WRONG,
    **planted_12.WRONG,
}
PLANTED = [(number, name, function) for number, wrong in WRONG.items() for name, function in wrong]


@pytest.mark.parametrize(
    "number, name, function",
    PLANTED,
    ids=[f"{number}-{name}-{i}" for i, (number, name, _) in enumerate(PLANTED)],
)
def test_wrong_answer_is_named(number, name, function):
    result = check(number, function)
    assert result.message == checks.EXERCISES[number].diagnoses[name]
    assert result.status == "wrong"


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda one: one.number)
def test_every_diagnosis_has_a_wrong_answer(exercise):
    assert {name for name, _ in WRONG[exercise.number]} == set(exercise.diagnoses)
    assert len(exercise.diagnoses) >= 3
    assert len(set(exercise.diagnoses.values())) == len(exercise.diagnoses)


def test_formulas_of_the_wrong_steps_are_otherwise_right():
    for root in ROOTS:
        assert checks.ddim_step(wrong_step(root=root)).status == "right"


def test_right_step_agrees_with_the_library():
    schedule = schedules.NoiseSchedule.cosine(50)
    x_T, eps = torch.randn(2, 3, 4, 5, dtype=torch.float64), torch.randn(2, 3, 4, 5, dtype=torch.float64)
    noise = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    for timesteps in ([30, 7], [30]):
        walk = samplers.sample_ddim(
            lambda x, t: eps, schedule, x_T, timesteps, eta=0.7, noise_fn=lambda x: noise, clip_x0=False
        )
        abar = float(schedule.alphas_cumprod[30])
        abar_prev = float(schedule.alphas_cumprod[7]) if len(timesteps) == 2 else 1.0
        mine = step_as_in_the_paper(x_T, eps, abar, abar_prev, 0.7, noise)
        torch.testing.assert_close(next(walk).x_t, mine)


@pytest.mark.parametrize("function", [gradient_with_vmap, gradient_with_ones])
def test_right_gradient_of_what_torch_imports_late_is_accepted(function):
    torch.func.grad(torch.sum)(torch.zeros(2))  # its first use imports for longer than a check may last
    result = checks.class_gradient(function)
    assert result.status == "right", result


def test_template_of_the_wrong_gradients_is_otherwise_right():
    assert checks.class_gradient(wrong_gradient()).status == "right"


# ---- lessons 01, 02 and 05: against the library, and whether the names can be trusted ----


def test_right_betas_are_the_schedules():
    for schedule in (schedules.NoiseSchedule.linear(50), schedules.NoiseSchedule.cosine(20)):
        for function in (betas_by_ratio, betas_by_logarithms, betas_by_pad_in_place):
            torch.testing.assert_close(function(schedule.alphas_cumprod), schedule.betas)


def test_right_jump_from_a_clean_image_is_q_sample():
    schedule = schedules.NoiseSchedule.cosine(20)
    x_0, eps = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    for t in (0, 7, 19):
        expected = q_sample(schedule, x_0, torch.full((2,), t), eps)
        abar = float(schedule.alphas_cumprod[t])
        torch.testing.assert_close(more_by_ratio(x_0, 1.0, abar, eps), expected)


def test_right_jumps_add_up():
    """Two jumps keep as much signal and leave as much noise as one."""
    one, zero = torch.ones(1, 1, 1, 1, dtype=torch.float64), torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    levels = (0.9, 0.5, 0.02)
    signal = one
    old, new = more_by_ratio(one, *levels[:2], zero), more_by_ratio(zero, *levels[:2], one)
    signal, first = (more_by_ratio(x, *levels[1:], zero) for x in (old, new))
    second = more_by_ratio(zero, *levels[1:], one)
    torch.testing.assert_close(signal, more_by_ratio(one, levels[0], levels[2], zero))
    torch.testing.assert_close(first**2 + second**2, more_by_ratio(zero, levels[0], levels[2], one) ** 2)


def test_right_receptive_field_is_what_gradients_reach():
    for layers in (*lesson02.STACKS, [(5, 1)] * 4, [(3, 2)] * 5):
        assert field_forwards(list(layers)) == field_by_gradient(list(layers)), layers


@pytest.mark.parametrize("channels, channels_per_head", [(64, 16), (32, 32)])
def test_right_heads_agree_with_the_network(channels, channels_per_head):
    attention = unet.SelfAttention(channels, channels_per_head)
    torch.nn.init.eye_(attention.project.weight)
    x = torch.randn(2, channels, 3, 5)
    q, k, v = attention.to_qkv(attention.norm(x).flatten(2).transpose(1, 2)).chunk(3, dim=-1)
    inside = (attention(x) - x).flatten(2).transpose(1, 2)
    for function in (heads_written_out, heads_with_einsum, heads_in_a_loop, heads_with_chunk):
        torch.testing.assert_close(function(q, k, v, attention.heads), inside, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("value", [0, 1])
def test_right_yes_or_no_is_what_guides(value):
    logit = torch.tensor([-1000.0, -3.0, 0.0, 0.5, 200.0])
    log_prob_fn = guidance.attribute_log_prob(lambda x_t, t: logit[:, None], 0, bool(value))
    expected = log_prob_fn(torch.zeros(5, 1, 1, 1), torch.zeros(5, dtype=torch.int64))
    for number, function in RIGHT:
        if number == "05.1":
            mine = function(logit.clone(), torch.full((5,), value)).float()
            torch.testing.assert_close(mine, expected, msg=function.__name__)


def test_right_gradient_is_what_guides():
    schedule, classifier = schedules.NoiseSchedule.cosine(1000), lesson05.Classifier().eval()
    x_t, t, y = lesson05._inputs(lesson05.CASES[0])
    log_prob_fn = guidance.class_log_prob(classifier, y)
    guided = guidance.with_classifier(lambda x, t: torch.zeros_like(x), log_prob_fn, schedule, 1.0)
    noise = (1 - schedule.alphas_cumprod[t]).sqrt().float().view(-1, 1, 1, 1)
    torch.testing.assert_close(guided(x_t, t), -noise * gradient_as_in_the_lesson(classifier, x_t, t, y))


def test_right_gradient_is_the_slope():
    """log p, followed a little way along the gradient, grows by its squared length."""
    classifier = lesson05.Classifier().double()
    x_t, t, y = lesson05._inputs(lesson05.CASES[1])
    x_t, rows = x_t.double(), torch.arange(len(y))
    gradient = gradient_as_in_the_lesson(classifier, x_t, t, y)
    before, after = (
        classifier(x_t + step * gradient, t).log_softmax(dim=1)[rows, y] for step in (-1e-4, 1e-4)
    )
    torch.testing.assert_close(
        (after - before) / 2e-4, gradient.flatten(1).pow(2).sum(dim=1), rtol=1e-5, atol=0
    )


RIGHT_PULLS = [function for number, function in planted_06.RIGHT if number == "06.1"]
RIGHT_ANY = [function for number, function in planted_06.RIGHT if number == "06.2"]


@pytest.mark.parametrize("function", RIGHT_PULLS)
def test_right_pull_is_what_guidance_does(function):
    schedule, classifier, s = schedules.NoiseSchedule.cosine(1000), lesson05.Classifier().eval(), 3.5
    for case in lesson05.CASES:
        x_t, t, y = lesson05._inputs(case)
        eps_fn = lambda x, t: torch.sin(3 * x)  # noqa: E731
        log_prob_fn = guidance.class_log_prob(classifier, y)
        guided = guidance.with_classifier(eps_fn, log_prob_fn, schedule, s)(x_t, t)
        before, after = (schedules.predict_x0(schedule, x_t, t, eps) for eps in (eps_fn(x_t, t), guided))
        gradient = gradient_as_in_the_lesson(classifier, x_t, t, y)
        for i in range(len(t)):
            abar, one = float(schedule.alphas_cumprod[t[i]]), slice(i, i + 1)
            mine = function(before[one].clone(), gradient[one].clone(), abar, s).float()
            torch.testing.assert_close(mine, after[one], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("function", RIGHT_ANY)
def test_right_one_of_one_is_what_guides(function):
    """With one wanted class a row it is class_log_prob, and so is its gradient."""
    classifier, (x_t, t, y) = lesson05.Classifier().eval(), lesson05._inputs(lesson05.CASES[0])
    x, wanted = x_t.clone().requires_grad_(), F.one_hot(y, lesson05.CLASSES).bool()
    mine, expected = function(classifier(x, t), wanted), guidance.class_log_prob(classifier, y)(x, t)
    torch.testing.assert_close(mine.float(), expected)
    mine, expected = (torch.autograd.grad(one.sum(), x)[0] for one in (mine, expected))
    torch.testing.assert_close(mine, expected)


def test_right_one_of_several_guides():
    """It goes where a classifier of two classes goes, which knows only wanted and not wanted."""
    schedule, classifier = schedules.NoiseSchedule.cosine(1000), lesson05.Classifier().eval()
    x_t, t, y = lesson05._inputs(lesson05.CASES[1])
    wanted = torch.zeros(len(y), lesson05.CLASSES, dtype=torch.bool)
    wanted[:, 1::2] = True

    def of_two(x_t, t):
        logits = classifier(x_t, t)
        return torch.stack([logits[:, 0::2].logsumexp(dim=1), logits[:, 1::2].logsumexp(dim=1)], dim=1)

    pairs = (
        lambda x_t, t: planted_06.any_by_mask(classifier(x_t, t), wanted),
        guidance.class_log_prob(of_two, torch.ones(len(y), dtype=torch.int64)),
    )
    zero = torch.zeros_like
    mine, expected = (
        guidance.with_classifier(lambda x, t: zero(x), one, schedule, 2.0)(x_t, t) for one in pairs
    )
    torch.testing.assert_close(mine, expected)


def test_mask_that_is_subtracted_shows_the_learners_line():
    def any_of(logits, wanted):
        others = 1 - wanted  # here
        return (logits.log_softmax(dim=1) - 1e9 * others).logsumexp(dim=1)

    result = checks.any_of(any_of)
    assert result.status == "wrong" and "~wanted" in result.message
    assert result.line.endswith("others = 1 - wanted  # here")


def test_gradient_that_is_overwritten_is_found_without_a_gradient_in_the_notebook():
    for mode in (torch.no_grad, torch.enable_grad):
        with mode():
            assert checks.any_of(planted_06.any_overwritten).status == "wrong"
            assert checks.any_of(planted_06.any_by_mask).status == "right"


def test_what_a_mask_cannot_do_is_an_error_and_not_a_stub():
    def any_of(logits, wanted):
        return wanted.softmax(dim=1)  # here

    def not_written(logits, wanted):
        raise NotImplementedError

    result = checks.any_of(any_of)
    assert result.status == "error" and "not implemented for 'Bool'" in result.message
    assert result.line.endswith("return wanted.softmax(dim=1)  # here")
    assert checks.any_of(not_written).status == "not_started"


@pytest.mark.parametrize("seed", range(5))
def test_right_guidance_is_right_in_any_case(seed, monkeypatch):
    for name, cases in planted_06.random_cases(seed).items():
        monkeypatch.setattr(lesson06, name, cases)
    for number, function in planted_06.RIGHT:
        result = check(number, function)
        assert result.status == "right", (function.__name__, result)


def answers(number):
    """The right answers to an exercise of lessons 07 to 12."""
    planted = (planted_07, planted_08, planted_09, planted_10, planted_11, planted_12)
    found = [function for lesson in planted for one, function in lesson.RIGHT if one == number]
    return pytest.mark.parametrize("function", found)


@answers("07.1")
def test_right_scale_of_07_is_cfg(function):
    network, (x_t, t, y, _, _) = lesson07.Network(), lesson07._inputs(lesson07.CASES[0])
    for a, b, w in ((1.0, 4.0, 7.5), (0.0, 3.0, 2.0), (5.0, 2.0, 0.0)):
        eps_a, eps_b, eps_w = (guidance.with_cfg(network, y, scale)(x_t, t) for scale in (a, b, w))
        torch.testing.assert_close(function(eps_a, a, eps_b, b, w).float(), eps_w, rtol=1e-4, atol=1e-4)


@answers("07.2")
def test_right_away_of_07_from_the_null_label_is_cfg(function):
    network = lesson07.Network()
    for case in lesson07.CASES:
        x_t, t, y, _, w = lesson07._inputs(case)
        mine = function(network, x_t, t, y, torch.full_like(y, network.null_label), w)
        torch.testing.assert_close(mine, guidance.with_cfg(network, y, w)(x_t, t))


@answers("08.1")
def test_right_inputs_of_08_make_the_librarys_grid(function):
    asked, schedule = [], schedules.NoiseSchedule.cosine(20)

    def guide(y):
        return lambda x, t: asked.append((x.clone(), y)) or torch.sin(x + y.view(-1, 1, 1, 1))

    x_T = torch.randn(3, 2, 4, 5, generator=torch.Generator().manual_seed(1))
    counterfactuals.same_noise_grid(guide, schedule, x_T, 4, torch.tensor([19, 7]))
    x, y = function(x_T, 4)
    assert torch.equal(x.float(), asked[0][0]) and torch.equal(y, asked[0][1])


@answers("08.2")
def test_right_step_of_08_is_the_inversions(function):
    schedule, timesteps = schedules.NoiseSchedule.cosine(50), torch.tensor([41, 26, 9])
    x = x_0 = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    abar = 1.0

    def eps_fn(x, t):
        return torch.sin(2 * x + t.view(-1, 1, 1, 1))

    for step in samplers.ddim_invert(eps_fn, schedule, x_0, timesteps):
        abar_to = float(schedule.alphas_cumprod[step.t])
        x, abar = function(eps_fn, x, step.t, abar, abar_to), abar_to
        torch.testing.assert_close(x, step.x_t)


class Tint(torch.nn.Linear):
    """An evaluator too simple to be good: reversibility wants one."""

    def forward(self, x):
        return super().forward(x.flatten(1))


@answers("09.1")
def test_right_error_of_09_is_the_metrics(function):
    x_0, source, target = lesson09._originals(lesson09.LABELS[0])
    found = evaluation.reversibility(lesson09.Intervention(), Tint(60, 3), x_0, source, target)
    mine = function(lesson09.Intervention(), x_0, source, target)
    assert float(mine.mean()) == pytest.approx(float(found.error), abs=1e-3)


@answers("09.2")
def test_right_inversion_of_09_is_undone_by_the_sampler(function):
    """On Gaussian data: where the planted one drifts, what is right comes back, the better the more steps."""
    schedule = schedules.NoiseSchedule.linear(2000)
    means = torch.full((1, 3), 1.5, dtype=torch.float64)  # beyond 1, as the estimates are then
    eps_fn = toy.GaussianMixture(means, 0.5).eps_fn(schedule)
    x_0 = torch.tensor([[0.9, -0.9, 0.3], [1.0, -1.0, 0.0]], dtype=torch.float64)

    def drift(invert, count):
        timesteps = schedules.spaced_timesteps(2000, count)
        x_T = invert(eps_fn, schedule, x_0, timesteps)
        *_, last = samplers.sample_ddim(eps_fn, schedule, x_T, timesteps, clip_x0=False)
        return float((last.x_t - x_0).abs().max())

    assert drift(function, 400) < drift(function, 100) / 3 < 0.05
    assert drift(lesson09.invert, 400) > 1


@answers("10.2")
def test_right_step_of_10_is_of_second_order(function):
    """On Gaussian data, against the ODE's exact end point; one slope alone is of first order."""
    mean, std, T = 0.4, 0.3, 20_000
    schedule = schedules.NoiseSchedule.linear(T)
    cloud = toy.GaussianMixture(torch.full((1, 3), mean, dtype=torch.float64), std)
    eps_fn, abars = cloud.eps_fn(schedule), schedule.alphas_cumprod
    x_T = torch.randn(5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def error(step, count):
        levels = torch.linspace(-4.6, 4.6, count + 1, dtype=torch.float64).sigmoid()  # even in log-SNR
        ts, x = torch.searchsorted(-abars, -levels).tolist(), x_T
        for t, t_next in itertools.pairwise(ts):
            batch = torch.full((5,), t), torch.full((5,), t_next)
            x = step(eps_fn, x, *batch, float(abars[t]), float(abars[t_next]))
        begin, end = ((1 - abars[t]) / abars[t] for t in (ts[0], ts[-1]))  # sigma²
        shrink = ((std**2 + end) / (std**2 + begin)).sqrt()
        exact = mean + (x_T / abars[ts[0]].sqrt() - mean) * shrink
        return float((x / abars[ts[-1]].sqrt() - exact).abs().max())

    counts = [40, 60, 100, 150]
    order = planted_10.order_by_fit(counts, [error(function, count) for count in counts])
    assert abs(order - 2) < 0.15
    order = planted_10.order_by_fit(counts, [error(planted_10.only_ddim, count) for count in counts])
    assert abs(order - 1) < 0.15


@answers("11.1")
def test_right_shift_of_11_makes_means_over_blocks_as_noisy(function):
    """Measured: a smooth picture three times as large, its noise, and the mean over 3 × 3 pixels of both."""
    abar = schedules.NoiseSchedule.cosine(50).alphas_cumprod[[4, 20, 35]]
    small = torch.linspace(-1, 1, 4, dtype=torch.float64).expand(50, 1, 40, 4)
    large = small.repeat_interleave(3, dim=2).repeat_interleave(3, dim=3)
    noise = torch.randn(large.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for old, new in zip(abar, function(abar, 3).double(), strict=True):
        signal, rest = (F.avg_pool2d(part, 3) for part in (new.sqrt() * large, (1 - new).sqrt() * noise))
        measured = signal.var() / rest.var() / small.var()
        torch.testing.assert_close(measured, old / (1 - old), rtol=0.05, atol=0.0)


@answers("11.3")
def test_right_front_of_11_is_what_a_wish_for_both_can_choose(function):
    """Every row of it is the first by some demand: the nearest of all that are as accurate as it."""
    for table in lesson11.TABLES:
        rows = lesson11._rows(table)
        first = [
            row
            for row in rows
            if all(other["fid"] >= row["fid"] for other in rows if other["accuracy"] >= row["accuracy"])
            and all(other["fid"] > row["fid"] for other in rows if other["accuracy"] > row["accuracy"])
        ]
        assert function(rows) == first


@answers("12.1")
def test_right_wishes_of_12_guide_as_each_for_itself(function):
    """The pull of all is the sum of the pulls of each, inside the library's guidance."""
    schedule, classifier = schedules.NoiseSchedule.cosine(1000), lesson05.Classifier().eval()
    (x_t, t, _), wanted = lesson05._inputs(lesson05.CASES[0]), {4: False, 0: True, 3: False}

    def pull(log_prob_fn):
        return guidance.with_classifier(lambda x, t: torch.zeros_like(x), log_prob_fn, schedule, 2.0)(x_t, t)

    mine = pull(lambda x, t: function(classifier(x, t), dict(wanted)))
    each = [pull(guidance.attribute_log_prob(classifier, i, value)) for i, value in wanted.items()]
    torch.testing.assert_close(mine.float(), sum(each))


@answers("12.2")
def test_right_pull_of_12_changes_nothing_in_the_other(function):
    """A small step along it: log p of the other attribute stays, that of the wanted one rises."""
    classifier, (x_t, t, _) = lesson05.Classifier().double(), lesson05._inputs(lesson05.CASES[0])
    wanted, other = (guidance.attribute_log_prob(classifier.eval(), i, True) for i in (1, 4))

    def gradient(log_prob_fn):
        x = x_t.double().requires_grad_()
        return torch.autograd.grad(log_prob_fn(x, t).sum(), x)[0]

    def gain(log_prob_fn, step):
        return (log_prob_fn(x_t + 1e-4 * step, t) - log_prob_fn(x_t - 1e-4 * step, t)).detach() / 2e-4

    pull = gradient(wanted)
    still = function(pull.clone(), gradient(other))
    assert float(gain(other, still).abs().max()) < 1e-5 < float(gain(other, pull).abs().min())
    assert float(gain(wanted, still).min()) > 0


def test_librarys_own_functions_are_not_started_in_12():
    wish = guidance.attribute_log_prob(lambda x_t, t: x_t, 0, True)
    for function in (guidance.attribute_log_prob, wish):
        assert checks.all_wanted(function).status == "not_started"
    assert checks.held_still(lesson12._right_held).status == "not_started"


def test_templates_of_the_wrong_answers_to_12_are_otherwise_right():
    assert checks.all_wanted(planted_12.wrong_all()).status == "right"
    assert checks.held_still(planted_12.wrong_held()).status == "right"


@pytest.mark.parametrize("seed", range(5))
def test_right_answer_to_07_to_12_is_right_in_any_case(seed, monkeypatch):
    both = (planted_07, lesson07), (planted_08, lesson08), (planted_09, lesson09), (planted_10, lesson10)
    both += ((planted_11, lesson11), (planted_12, lesson12))
    for planted, lesson in both:
        for name, cases in planted.random_cases(seed).items():
            monkeypatch.setattr(lesson, name, cases)
        for number, function in planted.RIGHT:
            result = check(number, function)
            assert result.status == "right", (function.__name__, result)


@pytest.mark.parametrize("line, words", planted_07.REFUSED)
def test_refusal_of_the_network_of_07_shows_the_learners_line(line, words):
    space = {"torch": torch}
    exec(f"def away_from(model, x_t, t, y, y_not, w):\n    eps = {line}\n    return eps", space)
    result = checks.away_from(space["away_from"])
    assert result.status == "error" and words in result.message and result.line.startswith("line 2")


@pytest.mark.parametrize("line, words", planted_08.REFUSED)
def test_refusal_of_the_network_of_08_shows_the_learners_line(line, words):
    result = checks.inverse_step(planted_08.wrong_inverse(line))
    assert result.status == "error" and words in result.message and result.line.startswith("line 4")


@pytest.mark.parametrize("name, function, words", planted_09.REFUSED)
def test_refusal_of_what_09_hands_in_shows_the_learners_line(name, function, words):
    result = getattr(checks, name)(function)
    assert result.status == "error" and words in result.message and result.line.startswith("line ")


@pytest.mark.parametrize("name, function, error, line", planted_11.REFUSED + planted_12.REFUSED)
def test_what_python_refuses_in_11_and_12_shows_the_learners_line(name, function, error, line):
    result = getattr(checks, name)(function)
    assert result.status == "error" and error in result.message and result.line.startswith(line)


def test_timestep_of_08_that_is_no_batch_shows_the_learners_line():
    def inverse_step(eps_fn, x, t_to, abar, abar_to):
        return eps_fn(x, t_to)  # here

    result = checks.inverse_step(inverse_step)
    assert result.message == lesson08.INVERSE["t"] and result.line.endswith("t_to)  # here")


@pytest.mark.parametrize("number, name", [("08.1", "repeat"), ("09.2", "unit")])
def test_planted_bugs_of_08_and_09_are_not_started_until_touched(number, name):
    bug = checks.EXERCISES[number]
    with pytest.raises(judging.Wrong) as wrong:
        bug.examine(bug.planted)
    assert str(wrong.value) == bug.diagnoses[name]

    def grid_inputs(noise, classes):
        """In a notebook, with other names."""
        images = noise.repeat(classes, 1, 1, 1)
        labels = torch.arange(classes).repeat(len(noise))
        return images, labels

    def invert(eps_fn, schedule, x_0, timesteps):
        abar = schedule.alphas_cumprod
        x, abar_now = x_0, 1.0
        for t in timesteps.flip(0).tolist():  # a comment
            eps = eps_fn(x, torch.full((len(x),), t))
            estimate = ((x - math.sqrt(1 - abar_now) * eps) / math.sqrt(abar_now)).clamp(0, 1)
            abar_now = float(abar[t])
            x = math.sqrt(abar_now) * estimate + math.sqrt(1 - abar_now) * eps
        return x

    result = check(number, {"08.1": grid_inputs, "09.2": invert}[number])
    assert result.status == "not_started" and "as it was given" in result.message


def test_planted_bug_of_11_is_not_started_until_touched():
    bug = checks.EXERCISES["11.2"]
    with pytest.raises(judging.Wrong) as wrong:
        bug.examine(bug.planted)
    assert str(wrong.value) == lesson11.FLIP["upside down"]

    def broken_flip(images, generator):
        """In a notebook, with other names."""
        coin = torch.rand(1, generator=generator) < 0.5  # a comment
        return torch.where(coin, images.flip(2), images)

    def half_repaired(x_0, generator):
        coin = torch.rand(1, generator=generator) < 0.5
        return torch.where(coin, x_0.flip(3), x_0)

    result = checks.flip_some(broken_flip)
    assert result.status == "not_started" and "as it was given" in result.message
    assert checks.flip_some(half_repaired).message == lesson11.FLIP["one coin"]
    assert checks.flip_some(random_flip).status == "not_started"


def test_coins_of_11_are_judged_the_same_every_time():
    """No luck: a right answer and a wrong one are what they are whatever the notebook's random numbers."""
    for seed in range(3):
        torch.manual_seed(seed)
        state = torch.random.get_rng_state()
        assert checks.flip_some(planted_11.flip_by_index).status == "right"
        assert checks.flip_some(planted_11.flip_one_after_another).message == lesson11.FLIP["together"]
        assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("line, words", planted_10.REFUSED)
def test_refusal_of_the_network_of_10_shows_the_learners_line(line, words):
    result = checks.heun_step(planted_10.wrong_heun(line))
    assert result.status == "error" and words in result.message and result.line.startswith("line 8")


def test_too_few_timesteps_show_the_learners_line():
    def away_from(model, x_t, t, y, y_not, w):
        labels = torch.cat([y_not, y])
        return model(torch.cat([x_t, x_t]), t, labels)  # here

    result = checks.away_from(away_from)
    assert result.message == lesson07.AWAY["t"] and result.line.endswith("t, labels)  # here")


def test_templates_of_the_wrong_answers_to_07_and_10_are_otherwise_right():
    right = planted_07.wrong_scale("A + s * d"), planted_07.wrong_away(), planted_10.wrong_heun()
    for name, function in zip(("at_scale", "away_from", "heun_step"), right, strict=True):
        assert getattr(checks, name)(function).status == "right"
    assert checks.order_of(planted_10.wrong_order("-fit(n, l)[0]")).status == "right"


def test_templates_of_the_wrong_answers_to_08_and_09_are_otherwise_right():
    right = planted_08.wrong_grid(), planted_08.wrong_inverse()
    right += planted_09.wrong_error(), planted_09.wrong_invert()
    names = ("grid_inputs", "inverse_step", "there_and_back", "invert")
    for name, function in zip(names, right, strict=True):
        assert getattr(checks, name)(function).status == "right"


def results_of_formulas():
    """For each exercise what every wrong formula gives in all its cases, after what the right one gives."""
    curves = [torch.tensor(curve, dtype=torch.float64) for curve in lesson01.CURVES]
    earlier = [lesson01._before(curve) for curve in curves]
    betas = [
        (name, torch.cat([formula(a, b)[1:] for a, b in zip(curves, earlier, strict=True)]))
        for name, formula in [("right", lambda a, b: 1 - a / b), *lesson01.WRONG_BETAS]
    ]
    more = [
        (name, torch.tensor([factors(*case) for case in lesson01.CASES], dtype=torch.float64).flatten())
        for name, factors in [("right", lesson01._right_more), *lesson01.WRONG_MORE]
    ]
    fields = [
        (name, torch.tensor([float(formula(list(stack))) for stack in lesson02.STACKS]))
        for name, formula in [("right", field_forwards), *lesson02.WRONG_FIELD]
    ]
    inputs = [lesson02._inputs(size) for size in lesson02.SIZES]
    heads = [
        (name, torch.cat([formula(*given).flatten() for given in inputs]))
        for name, formula in [("right", heads_written_out), *lesson02.WRONG_HEADS]
    ]
    ordinary = lesson05._batch(lesson05.ORDINARY)
    log_probs = [
        (name, formula(*ordinary))
        for name, formula in [("right", yes_or_no_by_sign), *lesson05.WRONG_LOG_PROB]
    ]
    right = [lesson05._gradient(lesson05._right_objective, case) for case in lesson05.CASES]
    gradients = [
        (name, torch.stack(found)) for name, found in [("right", right), *lesson05._wrong_gradients()]
    ]
    return {
        "01.1": betas,
        "01.2": more,
        "02.1": fields,
        "02.2": heads,
        "05.1": log_probs,
        "05.2": gradients,
        **planted_06.results_of_formulas(),
        **planted_07.results_of_formulas(),
        **planted_08.results_of_formulas(),
        **planted_09.results_of_formulas(),
        **planted_10.results_of_formulas(),
        **planted_11.results_of_formulas(),
        **planted_12.results_of_formulas(),
    }


FORMULAS = [f"{lesson}.{k}" for lesson in ("01", "02", "05", "06", "07", "08", "09", "10") for k in (1, 2)]
FORMULAS += ["11.1", "11.3", "12.1", "12.2"]


@pytest.mark.parametrize("number", FORMULAS)
def test_wrong_formulas_can_be_told_apart(number):
    """No two names fit the same answer, so their order does not matter; and no name fits a right one."""
    found = results_of_formulas()[number]
    for i, (name, one) in enumerate(found):
        for other_name, other in found[:i]:
            if name == other_name:
                continue
            apart = (one - other).abs().nan_to_num(nan=1.0).max()
            assert apart > 0.01, (name, other_name)


def random_cases(seed):
    """Other cases for each exercise: curves, pairs of levels, stacks of layers, sizes."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low, high):
        return int(torch.randint(low, high + 1, (1,), generator=generator))

    share = torch.rand(2, 8, generator=generator, dtype=torch.float64) * 0.9 + 0.05
    stacks = [[(kernel := draw(1, 6), draw(1, min(kernel, 3))) for _ in range(draw(1, 4))] for _ in range(4)]
    heads = [draw(1, 4) for _ in range(3)]
    return {
        "CURVES": share.cumprod(dim=1).tolist(),
        "CASES": [(1.0, float(share[0, 0])), *((a, a * p) for a, p in share.T.tolist())],
        "STACKS": stacks,
        "SIZES": [(draw(1, 3), draw(1, 6), h * draw(1, 5), h) for h in heads],
    }


@pytest.mark.parametrize("seed", range(5))
def test_right_answer_is_right_in_any_case(seed, monkeypatch):
    for name, cases in random_cases(seed).items():
        monkeypatch.setattr(lesson01 if name in ("CURVES", "CASES") else lesson02, name, cases)
    for number, function in RIGHT:
        if number[:2] in ("01", "02"):
            result = check(number, function)
            assert result.status == "right", (function.__name__, result)


UNNAMED = [
    (
        "01.1",
        lambda a: betas_by_ratio(a) * 2,
        "at t = 1 abar falls from 0.900 to 0.600, so beta should be 0.333",
    ),
    ("01.1", lambda a: betas_by_ratio(a) if len(a) == 6 else torch.full_like(a, 0.1), "numbers are off"),
    ("01.1", lambda a: betas_by_ratio(a)[:-1], "must have shape [6], that is [T], got [5]"),
    ("01.1", lambda a: torch.cat([a[:1], a]), "must have shape [6], that is [T], got [7]"),
    ("01.1", lambda a: (a - 1).sqrt(), "holds NaN"),
    ("01.1", lambda a: betas_by_ratio(a) * 1j, "complex"),
    ("01.1", lambda a: betas_by_ratio(a).tolist(), "must return a tensor, got a list"),
    ("01.2", wrong_more("0.5"), "x is multiplied by 0.500 and eps by 0.632, which should be 0.775 and 0.632"),
    ("01.2", lambda x, a, p, eps: more_by_ratio(x, a, p, eps).abs(), "the first pixel should be"),
    (
        "01.2",
        lambda x, a, p, eps: more_by_ratio(x, 1.0, p / a, eps) + (a < 0.4),
        "abar = 0.3, abar_next = 1e-05",
    ),
    ("01.2", wrong_more(noise="r(p - a)"), "The square root of a negative number is taken"),
    ("01.2", wrong_more(noise="r(p - a)", root="power"), "complex"),
    ("01.2", wrong_more(noise="r(p - a)", root="torch"), "holds NaN"),
    ("01.2", wrong_more(noise="r((a - p) / (1 - a))"), "Something is divided by 0"),
    ("01.2", lambda x, a, p, eps: more_by_ratio(x, a, p, eps)[0], "must have shape [2, 3, 4, 5]"),
    ("02.1", lambda layers: len(layers), "for layers = [(3, 1)] it should be 3, got 1"),
    ("02.1", lambda layers: field_forwards(layers) + (len(layers) == 5), "[(7, 3), (1, 1), (4, 2)"),
    ("02.1", lambda layers: 0.3, "got 0.3"),
    ("02.1", lambda layers: "seven", "one whole number, not a value of type str"),
    ("02.1", lambda layers: (7, 2), "one whole number, not a value of type tuple"),
    ("02.1", lambda layers: True, "one whole number, not a value of type bool"),
    ("02.1", lambda layers: 7j, "one whole number, not a value of type complex"),
    ("02.1", lambda layers: torch.tensor(7j), "one whole number, not a value of type complex"),
    ("02.1", lambda layers: torch.tensor([7]), "one whole number, got a tensor of shape [1]"),
    ("02.1", lambda layers: math.nan, "one whole number, got nan"),
    ("02.1", lambda layers: print(end=""), "returns nothing"),
    ("02.2", lambda q, k, v, heads: v, "with [B, N, C] = [2, 5, 12] and heads = 3 the first one should be"),
    (
        "02.2",
        lambda q, k, v, heads: heads_written_out(q, k, v, heads) if heads < 4 else v,
        "with [B, N, C] = [2, 3, 4] and heads = 4",
    ),
    ("02.2", lambda q, k, v, heads: heads_written_out(q, k, v, heads).mT, "[2, 5, 12], that is [B, N, C]"),
    ("02.2", wrong_heads(scale="0"), "holds NaN"),
    ("05.1", lambda z, v: yes_or_no_by_sign(z, v) * 3, "for logit = -2.5 and value = 1 it should be -2.579"),
    (
        "05.1",
        lambda z, v: yes_or_no_by_sign(z, v) - (z > 500).float(),
        "for logit = 1000 and value = 1 it should be 0.000, got -1.000",
    ),
    ("05.1", lambda z, v: yes_or_no_by_sign(z, v) + 0.01, "should be -2.579, got -2.569"),
    ("05.1", lambda z, v: yes_or_no_by_sign(z, v)[:, None].expand(-1, 7), "[7], that is [B], got [7, 7]"),
    ("05.1", lambda z, v: (z - 10).log(), "holds NaN"),
    ("05.1", lambda z, v: yes_or_no_by_sign(z, v).tolist(), "must return a tensor, got a list"),
    ("05.2", wrong_gradient("return 2 * g"), "with t = [40, 310, 820] and y = [4, 1, 5] one pixel should be"),
    (
        "05.2",
        lambda classifier, x_t, t, y: (
            gradient_as_in_the_lesson(classifier, x_t, t, y) * (1 + (t == 990).view(-1, 1, 1, 1))
        ),
        "with t = [990, 500, 120] and y = [0, 3, 2]",
    ),
    ("05.2", wrong_gradient("return g.sum(dim=0)"), "must have shape [3, 2, 4, 5], that is [B, C, H, W]"),
    ("05.2", wrong_gradient("return g / 0"), "infinite"),
    ("05.2", wrong_gradient("return print(end='')"), "or a .grad is None"),
    ("05.2", lambda classifier, x_t, t, y: x_t, "The classifier is never asked"),
    ("05.2", wrong_gradient("logits = classifier(t, x)"), "x_t of shape [B, C, H, W]"),
    ("05.2", wrong_gradient("logits = classifier(x, t[0])"), "t of shape [B]"),
    ("05.2", wrong_gradient("logits = classifier(x, 7)"), "t of shape [B]"),
    *planted_06.UNNAMED,
    *planted_07.UNNAMED,
    *planted_08.UNNAMED,
    *planted_09.UNNAMED,
    *planted_10.UNNAMED,
    *planted_11.UNNAMED,
    *planted_12.UNNAMED,
]


@pytest.mark.parametrize("number, function, words", UNNAMED)
def test_unnamed_wrong_answer_is_one_sentence(number, function, words):
    result = check(number, function)
    assert result.status == "wrong" and words in result.message, result
    assert "\n" not in result.message and result.message[-1] in ".?"
    assert result.message not in checks.EXERCISES[number].diagnoses.values()


def test_root_of_a_negative_number_shows_the_learners_line():
    def noise_more(x, abar, abar_next, eps):
        left = math.sqrt(abar_next - abar)
        return x + left * eps

    assert checks.noise_more(noise_more).line.endswith("left = math.sqrt(abar_next - abar)")


def test_missing_grad_mode_shows_the_learners_line():
    def class_gradient(classifier, x_t, t, y):
        x = x_t.detach().requires_grad_()
        total = classifier(x, t).log_softmax(dim=1).gather(1, y[:, None]).sum()
        return torch.autograd.grad(total, x)[0]  # here

    result = checks.class_gradient(class_gradient)
    assert "torch.no_grad()" in result.message and result.line.endswith("total, x)[0]  # here")


def test_grad_mode_of_the_notebook_does_not_matter():
    for mode in (torch.no_grad, torch.enable_grad):
        with mode():
            assert checks.class_gradient(gradient_with_grad_left_on).status == "wrong"
            assert checks.class_gradient(wrong_gradient()).status == "right"
            assert torch.is_grad_enabled() == (mode is torch.enable_grad)


@pytest.mark.parametrize(
    "line, error",
    [
        ("logits = classifier(x)", "TypeError"),
        ("chosen = log_p[y]", "IndexError"),
        ("total = chosen.reshape(7)", "RuntimeError"),
        ("g = torch.autograd.grad(total, x)[1]", "IndexError"),
    ],
)
def test_other_errors_of_a_gradient_are_told_as_they_are(line, error):
    result = checks.class_gradient(wrong_gradient(line))
    assert result.status == "error" and f"raised {error}" in result.message


def test_half_written_receptive_field_is_not_started():
    for function in (lambda layers: ... if layers else 1, lambda layers: 1 + len(layers) * ...):
        assert checks.receptive_field(function).status == "not_started"


# ---- everything else a function can do ----


def stub(*names):
    space = {}
    exec(f"def f({', '.join(names)}):\n    '''What to write.'''\n    ...", space)
    return space["f"]


def test_stub_is_not_started():
    for exercise in EXERCISES:
        result = check(exercise.number, stub(*exercise.arguments))
        assert result.status == "not_started", result
    for other in (None, ..., lambda *a: None, lambda *a: ...):
        assert checks.x0_from_score(other).status == "not_started"


def test_half_written_stub_is_not_started():
    def returns_dots(x_t, score, abar):
        eps = score * abar
        return ... if eps is not None else eps

    def computes_with_dots(x_t, score, abar):
        eps = ...
        return x_t - eps

    def not_implemented(x_t, score, abar):
        raise NotImplementedError

    for function in (returns_dots, computes_with_dots, not_implemented):
        assert checks.x0_from_score(function).status == "not_started"


def test_planted_bug_is_not_started_until_touched():
    def given(model, schedule, x_0, generator):
        """With its own docstring and names."""
        time = torch.randint(schedule.num_timesteps, (1,), generator=generator).expand(len(x_0))  # a comment
        noise = torch.randn(x_0.shape, generator=generator)
        noisy = q_sample(schedule, x_0, time, noise)
        return ((model(noisy, time) - noise) ** 2).mean()

    def touched(model, schedule, x_0, generator):
        t = torch.randint(schedule.num_timesteps, (2,), generator=generator).expand(len(x_0))
        return model(x_0, t)

    assert checks.noising_loss(given).status == "not_started"
    assert checks.noising_loss(touched).status == "error"
    bug = checks.EXERCISES["03.1"]
    with pytest.raises(judging.Wrong, match="One t for the whole batch"):
        bug.examine(bug.planted)


def test_library_function_is_not_started():
    for function in (q_sample, samplers.sample_ddim, schedules.predict_x0):
        result = checks.x0_from_score(function)
        assert result.status == "not_started" and "library's function" in result.message


def nan(x_t, score, abar):
    return x_t * float("nan")


SENTENCES = [
    (lambda x_t, score, abar: print(end=""), "wrong", "returns nothing"),
    (nan, "wrong", "holds NaN"),
    (lambda x_t, score, abar: x_t / 0, "wrong", "infinite"),
    (lambda x_t, score, abar: x_t * 1j, "wrong", "complex"),
    (
        lambda x_t, score, abar: x_t[0],
        "wrong",
        "must have shape [2, 3, 4, 5], that is [B, C, H, W], got [3, 4, 5]",
    ),
    (lambda x_t, score, abar: abar, "wrong", "must return a tensor, got a float"),
    (lambda x_t, score, abar: x_t + 7, "wrong", "first pixel should be"),
    (lambda x_t: x_t, "error", "must take (x_t, score, abar)"),
    (torch.zeros(3), "error", "without calling it"),
]


@pytest.mark.parametrize("function, status, words", SENTENCES, ids=[words for _, _, words in SENTENCES])
def test_bad_result_is_one_sentence(function, status, words):
    result = checks.x0_from_score(function)
    assert result.status == status and words in result.message
    assert "\n" not in result.message and result.message[-1] in ".?"


def test_a_result_that_cannot_be_used_shows_the_line_that_returns_it():
    def too_small(x_t, score, abar):
        x_0 = x_t[:1]
        return x_0  # here

    def forgotten(x_t, score, abar):
        x_t = x_t * abar  # the last line

    def in_two_places(x_t, score, abar):
        if abar > 0:
            return None
        return None

    assert checks.x0_from_score(too_small).line.endswith("return x_0  # here")
    assert checks.x0_from_score(forgotten).line.endswith("# the last line")
    assert checks.x0_from_score(in_two_places).line is None
    assert checks.x0_from_score(lambda x_t, score, abar: x_t + 7).line is None, (
        "a number that is off has no line"
    )


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda one: one.number)
def test_every_exercise_says_bad_results_in_one_sentence(exercise):
    def nan_like(*arguments):
        tensors = [one for one in arguments if isinstance(one, torch.Tensor)]
        return tensors[0] * math.nan if tensors else math.nan

    for bad in (lambda *a: print(end=""), lambda *a: torch.zeros(1, 2), nan_like, lambda *a: "seven"):
        result = check(exercise.number, bad)
        assert result.status == "wrong" and "\n" not in result.message, result
        assert result.message[-1] in ".?"


def test_exception_shows_the_learners_line():
    def raises(x_t, score, abar):
        total = x_t + score
        return total.reshape(7, 7)  # here

    result = checks.x0_from_score(raises)
    assert result.status == "error" and "RuntimeError" in result.message
    assert result.line.endswith("return total.reshape(7, 7)  # here")
    assert os.sep + "test_checks" not in repr(result), "no path of this machine"


def test_exception_inside_the_fake_network_shows_the_learners_line():
    def raises(model, schedule, x_0, generator):
        return model()

    result = checks.noising_loss(raises)
    assert result.status == "error" and result.line.endswith("return model()")


@pytest.mark.parametrize(
    "error", [SystemExit(3), ValueError("two\nlines"), RecursionError(), AssertionError()]
)
def test_whatever_is_raised_is_caught(error):
    def raises(*arguments):
        raise error

    for exercise in EXERCISES:
        result = check(exercise.number, raises)
        assert (
            result.status == "error" and type(error).__name__ in result.message and "\n" not in result.message
        )


def test_endless_function_is_stopped(monkeypatch):
    monkeypatch.setattr(running, "LIMIT_S", 0.3)
    monkeypatch.setattr(running.call_with_limit, "__defaults__", (0.3,))
    before = threading.active_count()

    def endless(x_t, score, abar):
        while True:
            try:
                abar += 1
            except Exception:
                abar = 0.0

    begun = time.perf_counter()
    result = checks.x0_from_score(endless)
    assert result.status == "error" and "did not end within" in result.message
    assert result.line and result.line.split(": ", 1)[1] in ("while True:", "try:", "abar += 1", "abar = 0.0")
    assert time.perf_counter() - begun < 4
    assert threading.active_count() == before, "the thread is gone"


def test_grad_mode_and_random_state_are_untouched():
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    with torch.no_grad():
        assert checks.noising_loss(loss_as_in_the_lesson).status == "right"
        assert not torch.is_grad_enabled()
    assert torch.equal(torch.random.get_rng_state(), state)


def test_inputs_cannot_be_spoilt():
    def in_place(x_t, score, abar):
        return x_t.add_(score.mul_(1 - abar)).div_(abar**0.5)

    assert checks.x0_from_score(in_place).status == "right"


# ---- showing ----


def test_result_is_told_by_sign_and_word():
    for status, sign in judging.SIGNS.items():
        result = checks.CheckResult("03.1", status, "a < b", "line 2: x = <y>")
        html = result._repr_html_()
        assert sign in html and status.replace("_", " ") in html
        assert "a &lt; b" in html and "&lt;y&gt;" in html
        assert repr(result) == f"[{status.replace('_', ' ')}] Exercise 03.1: a < b\n    line 2: x = <y>"


def test_hints_step_and_never_tell_the_answer():
    for exercise in EXERCISES:
        seen = [repr(checks.hint(exercise.number)) for _ in range(4)]
        assert [sum(hint in text for hint in exercise.hints) for text in seen] == [1, 2, 3, 3]
        assert "?" in exercise.hints[0] and "=" in exercise.hints[1] and "____" in exercise.hints[2]
        assert seen[0].startswith(f"Hint 1 of 3 for exercise {exercise.number}")
    with pytest.raises(ValueError, match=r"no exercise '99\.1'"):
        checks.hint("99.1")


def test_registry_is_what_lessons_need():
    for number, exercise in checks.EXERCISES.items():
        assert exercise.minutes in (5, 15) and exercise.title and len(exercise.hints) == 3
        assert callable(getattr(checks, exercise.check_name))
        assert number == exercise.number
    for lesson in ("01", "02", "03", "04", "05", "06", "07", "08", "09", "10", "11", "12"):
        assert {one.minutes for one in EXERCISES if one.number.startswith(lesson)} == {5, 15}


# ---- predictions and progress ----


def radio(prediction):
    return prediction.widget().children[1]


def test_prediction_is_kept_and_revealed():
    asked = checks.PREDICTIONS["03.p1"]
    buttons = radio(checks.predict("03.p1"))
    assert buttons.value is None and buttons.description and tuple(buttons.options) == asked.choices
    told = repr(checks.reveal("03.p1"))
    assert "You made no guess." in told and asked.answer in told and asked.why in told
    buttons.value = asked.choices[0]
    assert f"You guessed: {asked.choices[0]}." in repr(checks.reveal("03.p1"))
    assert f"The answer: {asked.answer}." in repr(checks.reveal("03.p1"))
    assert radio(checks.predict("03.p1")).value == asked.choices[0]
    buttons.value = asked.answer
    assert f"Right: {asked.answer}." in checks.reveal("03.p1")._repr_html_()


def test_prediction_shows_its_choices_without_a_widget():
    prediction = checks.predict("04.p1")
    bundle = prediction._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    for text in (bundle["text/plain"], bundle["text/html"], repr(prediction)):
        assert all(choice in text for choice in prediction.asked.choices)


def test_prediction_of_a_lessons_own(monkeypatch):
    monkeypatch.setattr(predictions, "PREDICTIONS", {})
    assert checks.predict("09.p1", ["up", "down"]).asked.choices == ("up", "down")
    assert "A later lesson" in repr(checks.reveal("09.p1"))
    checks.predict("09.p2", "Where to?", ["up", "down"], answer="up", why="It is light.")
    assert "The answer: up. It is light." in repr(checks.reveal("09.p2"))
    with pytest.raises(ValueError, match="not one of the choices"):
        checks.predict("09.p3", "Where to?", ["up", "down"], answer="left")
    for unknown in (checks.predict, checks.reveal):
        with pytest.raises(ValueError, match=r"no prediction '09\.p9'"):
            unknown("09.p9")


def test_registered_predictions_are_complete():
    for number, asked in checks.PREDICTIONS.items():
        assert 2 <= len(asked.choices) <= 5 and asked.question.strip()
        if not number.startswith("00"):
            assert asked.answer in asked.choices and asked.why.endswith(".")


def test_remember_and_recall(progress_file):
    assert checks.recall("01.t", 400) == 400
    checks.remember("01.t", 250)
    assert checks.recall("01.t") == 250
    assert json.loads(progress_file.read_text(encoding="utf-8"))["kept"] == {"01.t": 250}
    assert checks.recall("00.p1") is None
    radio(checks.predict("00.p1")).value = checks.PREDICTIONS["00.p1"].choices[1]
    assert checks.recall("00.p1") == checks.PREDICTIONS["00.p1"].choices[1]
    with pytest.raises(TypeError):
        checks.remember("model", object())
    assert checks.recall("01.t") == 250


def test_yours_gives_a_right_function_only(progress_file):
    assert checks.yours("04.2", step_as_in_the_paper) is step_as_in_the_paper
    for function in (None, stub("x"), wrong_step(sigma="0.0"), samplers.sample_ddim):
        assert checks.yours("04.2", function) is None
    assert not progress_file.exists(), "asking is not an attempt"


def test_progress_tells_what_is_done():
    checks.x0_from_score(None)
    assert f"0 of {len(EXERCISES)} exercises right, 0 of" in repr(checks.progress())
    checks.x0_from_score(x0_of_score)
    checks.x0_from_score(nan)
    checks.ddim_step(wrong_step(sigma="0.0"))
    radio(checks.predict("04.p2")).value = "similar"
    told = repr(checks.progress())
    assert f"1 of {len(EXERCISES)} exercises right, 1 of" in told and "guessed: similar" in told
    assert "right" in next(line for line in told.splitlines() if line.startswith("04.1")), (
        "right once stays right"
    )
    assert "wrong" in next(line for line in told.splitlines() if line.startswith("04.2"))
    assert "guessed: similar" in checks.progress()._repr_html_()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[1, 2]",
        "null",
        '{"exercises": 3, "guesses": ["a"], "kept": null}',
        '{"exercises": {"04.1": 7}}',
        '{"exercises": {"04.1": {"status": "great", "tries": "x"}}, "guesses": {"04.p2": 4}}',
        "\0\xff",
    ],
)
def test_damaged_progress_harms_nothing(progress_file, text):
    progress_file.write_text(text, encoding="latin-1")
    assert f"0 of {len(EXERCISES)} exercises right" in repr(checks.progress())
    assert "no guess" in repr(checks.reveal("04.p2"))
    assert checks.recall("01.t", 3) == 3
    assert checks.x0_from_score(x0_of_score).status == "right"
    checks.remember("01.t", 5)
    assert checks.recall("01.t") == 5
    assert f"1 of {len(EXERCISES)} exercises right" in repr(checks.progress())


def test_progress_that_cannot_be_written_lasts_for_the_session(tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("LESSONS_PROGRESS", str(blocked / "progress.json"))
    checks.remember("01.t", 5)
    assert checks.x0_from_score(x0_of_score).status == "right"
    assert checks.recall("01.t") == 5
    assert f"1 of {len(EXERCISES)} exercises right" in repr(checks.progress())


def test_progress_lives_in_the_project(monkeypatch):
    monkeypatch.delenv("LESSONS_PROGRESS")
    assert store.path().name == "progress.json" and (store.path().parent / "pyproject.toml").exists()
