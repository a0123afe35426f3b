"""Sixty wrong answers, two or three an exercise, written without a look at the declared variants.

Each stands with words of the sentence that names its mistake; None: only the first difference is told.
"""

import math
import random
from math import sqrt

import torch
import torch.nn.functional as F
from right_answers import draw
from wrong_answers import (
    attention,
    away,
    error,
    estimate,
    gradient_with,
    inverse,
    log_p_gradient,
    log_p_of,
    losses_with,
    moved,
    p_of,
    sigma_of,
    wishes,
)

from lessons_lib.schedules import q_sample


def asks_with_t_of_two_axes(model, schedule, x_0, generator):
    t, eps = draw(schedule, x_0, generator)
    return F.mse_loss(model(q_sample(schedule, x_0, t, eps), t[:, None].expand(x_0.shape[:2])), eps)


def asks_twice(model, schedule, x_0, generator):
    t, eps = draw(schedule, x_0, generator)
    x_t = q_sample(schedule, x_0, t, eps)
    return ((model(x_t, t) - eps) ** 2).mean() + 0 * model(x_t, t).sum()


def step_without_the_old_noise(x_t, eps, abar, abar_prev, eta, noise):
    return sqrt(abar_prev) * estimate(x_t, eps, abar) + sigma_of(abar, abar_prev, eta) * noise


def step_with_the_roles_of_the_noises_exchanged(x_t, eps, abar, abar_prev, eta, noise):
    sigma = sigma_of(abar, abar_prev, eta)
    rest = math.sqrt(1 - abar_prev - sigma**2) * noise + sigma * eps
    return sqrt(abar_prev) * estimate(x_t, eps, abar) + rest


def gradient_made_of_length_one(classifier, x_t, t, y):
    g = log_p_gradient(classifier, x_t, t, y)
    return g / g.flatten(1).norm(dim=1)[:, None, None, None]


def away_with_one_set_of_times(model, x_t, t, y, y_not, w):
    n, c = model(torch.cat([x_t, x_t]), t, torch.cat([y_not, y])).chunk(2)
    return n + w * (c - n)


def inverse_with_fresh_noise(eps_fn, x, t_to, abar, abar_to):
    levels = {"a": sqrt(abar), "na": sqrt(1 - abar), "b": sqrt(abar_to), "nb": 0}
    return moved(eps_fn, x, t_to, **levels) + sqrt(1 - abar_to) * torch.randn_like(x)


def exchanged(a, b):
    return {"a": sqrt(b), "na": sqrt(1 - b), "b": sqrt(a), "nb": sqrt(1 - a)}


def steps_up(eps_fn, schedule, x, timesteps, order, late=0):
    abar, now, ts = schedule.alphas_cumprod, 1.0, order(timesteps.tolist())
    for i, t in enumerate(ts):
        eps = eps_fn(x, torch.full((len(x),), ts[max(i - late, 0)]))
        x_0 = (x - math.sqrt(1 - now) * eps) / math.sqrt(now)
        now = float(abar[t])
        x = math.sqrt(now) * x_0 + math.sqrt(1 - now) * eps
    return x


def heun_in_x_itself(eps_fn, x_t, t, t_next, abar, abar_next):
    step = math.sqrt(1 - abar_next) - math.sqrt(1 - abar)
    d1 = eps_fn(x_t, t)
    return x_t + step * (d1 + eps_fn(x_t + step * d1, t_next)) / 2


def heun_at_the_old_time(eps_fn, x_t, t, t_next, abar, abar_next):
    step = math.sqrt(1 / abar_next - 1) - math.sqrt(1 / abar - 1)
    d1 = eps_fn(x_t, t)
    d2 = eps_fn(math.sqrt(abar_next) * (x_t / math.sqrt(abar) + step * d1), t)
    return math.sqrt(abar_next) * (x_t / math.sqrt(abar) + step * (d1 + d2) / 2)


def flip_with_python(x_0, generator):
    return torch.stack([x.flip(-1) if random.random() < 0.5 else x for x in x_0])


def flip_first_half(x_0, generator):
    half = len(x_0) // 2
    return torch.cat([x_0[:half].flip(3), x_0[half:]])


def places_of_the_best(rows):
    best = max(row["accuracy"] for row in rows)
    return [i for i, row in enumerate(rows) if row["accuracy"] == best]


def held_by_cosine(p, o):
    return p - F.cosine_similarity(p.flatten(1), o.flatten(1)).view(-1, 1, 1, 1) * o


def held_along_pull(p, o):
    return p - (p * o).sum((1, 2, 3), keepdim=True) / (p * p).sum((1, 2, 3), keepdim=True) * p


SIXTY = [
    ("00.1", "Every number is 127", lambda x: (x + 1) / 255),
    ("00.1", "off by the same amount", lambda x: (x - x.min()) / 2 + 0.5),
    ("01.1", "One beta is missing", lambda abar: 1 - abar[1:] / abar[:-1]),
    ("01.1", "The ratio is turned", lambda a: (torch.cat([torch.ones(1).double(), a[:-1]]) - a) / a),
    ("01.2", "eps is missing", lambda x, abar, abar_next, eps: x * (abar_next / abar) ** 0.5),
    ("01.2", "The sign of eps is", lambda x, a, b, e: (b / a) ** 0.5 * x - (1 - b / a) ** 0.5 * e),
    ("01.2", "The factor of x is", lambda x, a, b, e: (b / a) ** 0.5 * (x + (1 - b / a) ** 0.5 * e)),
    ("02.1", None, lambda layers: sum(kernel * stride for kernel, stride in layers)),
    ("02.1", None, lambda layers: float(math.prod(kernel for kernel, _ in layers))),
    ("02.2", None, lambda q, k, v, heads: attention(q, k, v, heads, width=sqrt(q.shape[1]))[1]),
    ("02.2", "k and v are exchanged", lambda q, k, v, heads: attention(q, v, k, heads)[1]),
    ("03.1", "The network takes t of shape [B]", asks_with_t_of_two_axes),
    ("03.1", "The network must be asked once", asks_twice),
    ("03.2", "The numbers are right and", lambda f, s, x, ts, g: losses_with()(f, s, x, sorted(ts), g)),
    ("03.2", "the root of the right", losses_with(lambda guess, eps, x_0: F.mse_loss(guess, eps).sqrt())),
    ("04.1", "The sign of score is turned round", lambda x, s, a: (x - (1 - a) * s) / math.sqrt(a)),
    ("04.1", "The factor of x_t is right", lambda x, score, abar: x / math.sqrt(abar) + (1 - abar) * score),
    ("04.1", "The factor of x_t is right", lambda x_t, score, abar: (x_t + score) / math.sqrt(abar)),
    ("04.2", "The factor of x_t and noise is right", step_without_the_old_noise),
    ("04.2", "The factor of x_t is right", step_with_the_roles_of_the_noises_exchanged),
    ("05.1", "The sign is", lambda z, v: F.binary_cross_entropy_with_logits(z, v.float(), reduction="none")),
    ("05.1", None, lambda logit, value: F.logsigmoid(value * logit)),
    ("05.1", "Every number is 2", lambda z, v: torch.where(v == 1, z, -z).double().sigmoid().log10()),
    ("05.2", "The result is 3 times too small", gradient_with(lambda z, y: -F.cross_entropy(z, y))),
    ("05.2", "The result is divided by its own size", gradient_made_of_length_one),
    ("06.1", "The sign of gradient", lambda x, g, a, s: x - s * (1 - a) / math.sqrt(a) * g),
    ("06.1", "x_0 is missing", lambda x_0, gradient, abar, s: s * (1 - abar) / math.sqrt(abar) * gradient),
    ("06.1", "abar", lambda x_0, gradient, abar, s: x_0 + s * gradient),
    ("06.2", "The sign is turned round", lambda z, wanted: -(z.softmax(1) * wanted).sum(1).log()),
    ("06.2", None, lambda logits, wanted: logits.log_softmax(1)[wanted]),
    ("06.2", "samples of the", lambda z, w: z.log_softmax(0).masked_fill(~w, -math.inf).logsumexp(1)),
    ("07.1", "a and b", lambda eps_a, a, eps_b, b, w: eps_a + w * (eps_b - eps_a)),
    ("07.1", "goes the wrong way from eps_a", lambda A, a, B, b, w: A - (w - a) / (b - a) * (B - A)),
    ("07.1", "eps_a and a", lambda eps_a, a, eps_b, b, w: w / b * eps_b),
    ("07.2", None, away(lambda n, c, w: c - w * n)),
    ("07.2", "The network takes t of shape [B]", away_with_one_set_of_times),
    ("08.1", "The labels come", lambda x, K: (torch.arange(K).repeat(len(x)), x.repeat_interleave(K, 0))),
    ("08.1", "Two calls give two", lambda x, K: (x.repeat_interleave(K, 0), torch.randint(K, (len(x) * K,)))),
    ("08.1", "one-hot", lambda x, K: (x.repeat_interleave(K, 0), F.one_hot(torch.arange(K).repeat(len(x))))),
    ("08.2", "Two calls give two results", inverse_with_fresh_noise),
    ("08.2", "abar and abar_to are exchanged", inverse(exchanged)),
    ("09.1", "Every number is 2 times too large", error(measure=lambda d: d.abs().mean(dim=(1, 2, 3)))),
    ("09.1", "The batch is reduced to one number", error(measure=lambda d: (d / 2).abs().mean())),
    ("09.2", "The network is asked at the right time", lambda *given: steps_up(*given, order=list)),
    ("09.2", "is asked at t = 6", lambda *given: steps_up(*given, order=sorted, late=1)),
    ("10.1", "The result is upside", lambda N, e: math.log(N[-1] / N[0]) / math.log(e[0] / e[-1])),
    ("10.1", "rounded to whole", lambda N, e: round(math.log(e[0] / e[-1]) / math.log(N[-1] / N[0]))),
    ("10.2", None, heun_in_x_itself),
    ("10.2", "The network is asked at t = 800", heun_at_the_old_time),
    ("11.1", "factor", lambda abar, factor: abar),
    ("11.1", "This is 1 minus the right", lambda abar, factor: 1 / (1 + abar / (1 - abar) / factor**2)),
    ("11.2", "The same generator gives different res", flip_with_python),
    ("11.2", "Another call mirrors the same places", flip_first_half),
    ("11.3", "Something else than rows", lambda rows: max(rows, key=lambda r: r["accuracy"] - r["fid"])),
    ("11.3", "Something else than rows is returned", places_of_the_best),
    ("12.1", "The sign is turned", wishes(lambda z, value: -log_p_of(z, value))),
    ("12.1", "is 0 every", lambda z, w: F.logsigmoid(z[:, [*w]]).sum(1) * all(w.values())),
    ("12.1", None, wishes(p_of, total=lambda shares: sum(shares).log())),
    ("12.2", None, held_along_pull),
    ("12.2", "must be divided by <", held_by_cosine),
]
