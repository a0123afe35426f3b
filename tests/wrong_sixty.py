"""Sixty-odd wrong answers, two or three an exercise, written without a look at the declared variants.

Each stands with words of the sentence that names its mistake; None: only the first difference is told.
"""

import math
import random

import torch
import torch.nn.functional as F

from lessons_lib.counterfactuals import in_8_bits
from lessons_lib.schedules import q_sample

SIXTY = []


def unforeseen(number, words=None):
    """Keep the function as an answer to an exercise."""
    return lambda function: SIXTY.append((number, words, function)) or function


def dot(pull, other):
    return (pull * other).sum((1, 2, 3), keepdim=True)


def is_best(row, rows):
    return row["accuracy"] == max(other["accuracy"] for other in rows)


def add(number, *pairs):
    SIXTY.extend((number, words, function) for words, function in pairs)


add(
    "00.1",
    ("Every number is 127", lambda x: (x + 1) / 255),
    ("off by the same amount", lambda x: (x - x.min()) / 2 + 0.5),
    (None, lambda x: torch.sigmoid(x)),
)
add(
    "01.1",
    (None, lambda abar: abar.cumprod(0)),
    ("One beta is missing", lambda abar: torch.cat([torch.tensor([0.0]), 1 - abar[1:] / abar[:-1]])[1:]),
    ("The ratio is turned round", lambda a: (torch.cat([torch.ones(1).double(), a[:-1]]) - a) / a),
)
add(
    "01.2",
    ("eps is missing", lambda x, abar, abar_next, eps: x * (abar_next / abar) ** 0.5),
    ("The sign of eps is turned round", lambda x, a, b, e: (b / a) ** 0.5 * x - (1 - b / a) ** 0.5 * e),
    ("The factor of x is right", lambda x, a, b, e: (b / a) ** 0.5 * (x + (1 - b / a) ** 0.5 * e)),
)
add(
    "02.1",
    (None, lambda layers: sum(kernel * stride for kernel, stride in layers)),
    (None, lambda layers: max(kernel for kernel, _ in layers)),
    (None, lambda layers: float(math.prod(kernel for kernel, _ in layers))),
)


@unforeseen("02.2")
def heads_with_scale_of_keys(q, k, v, heads):
    B, N, C = q.shape
    q, k, v = (x.view(B, N, heads, C // heads).transpose(1, 2) for x in (q, k, v))
    return ((q @ k.transpose(-2, -1)) / N**0.5).softmax(-1).matmul(v).transpose(1, 2).reshape(B, N, C)


@unforeseen("02.2", "k and v are exchanged")
def heads_with_values_and_keys_mixed_up(q, k, v, heads):
    B, N, C = q.shape
    q, k, v = (x.view(B, N, heads, C // heads).transpose(1, 2) for x in (q, k, v))
    weights = (q @ v.transpose(-2, -1) / (C // heads) ** 0.5).softmax(-1)
    return (weights @ k).transpose(1, 2).reshape(B, N, C)


@unforeseen("03.1", "The network takes t of shape [B]")
def loss_of_a_t_for_each_channel(model, schedule, x_0, generator):
    t = torch.randint(schedule.num_timesteps, x_0.shape[:2], generator=generator)
    eps = torch.randn(x_0.shape, generator=generator)
    return ((model(q_sample(schedule, x_0, t[:, 0], eps), t) - eps) ** 2).mean()


@unforeseen("03.1", "The network must be asked once")
def loss_that_asks_twice(model, schedule, x_0, generator):
    t = torch.randint(schedule.num_timesteps, (len(x_0),), generator=generator)
    eps = torch.randn(x_0.shape, generator=generator)
    x_t = q_sample(schedule, x_0, t, eps)
    return ((model(x_t, t) - eps) ** 2).mean() + 0 * model(x_t, t).sum()


@unforeseen("03.2", "The numbers are right and their order")
def losses_in_the_order_of_t(eps_fn, schedule, x_0, timesteps, generator):
    losses = {}
    for t in sorted(timesteps):
        eps, batch_t = torch.randn(x_0.shape, generator=generator), torch.full((len(x_0),), t)
        losses[t] = ((eps_fn(q_sample(schedule, x_0, batch_t, eps), batch_t) - eps) ** 2).mean()
    return torch.stack(list(losses.values()))


@unforeseen("03.2", "This is the root of the right result")
def losses_with_roots(eps_fn, schedule, x_0, timesteps, generator):
    eps = torch.randn(x_0.shape, generator=generator)
    ts = [torch.full((len(x_0),), t) for t in timesteps]
    return torch.stack([(eps_fn(q_sample(schedule, x_0, t, eps), t) - eps).pow(2).mean().sqrt() for t in ts])


add(
    "04.1",
    ("The sign of score is turned round", lambda x, s, a: (x - (1 - a) * s) / math.sqrt(a)),
    ("The factor of x_t is right", lambda x_t, score, abar: x_t / math.sqrt(abar) + (1 - abar) * score),
    ("The factor of x_t is right", lambda x_t, score, abar: (x_t + score) / math.sqrt(abar)),
)


@unforeseen("04.2", "The factor of x_t and noise is right")
def step_without_the_old_noise(x_t, eps, abar, abar_prev, eta, noise):
    sigma = eta * math.sqrt((1 - abar_prev) / (1 - abar) * (1 - abar / abar_prev))
    x_0 = (x_t - math.sqrt(1 - abar) * eps) / math.sqrt(abar)
    return math.sqrt(abar_prev) * x_0 + sigma * noise


@unforeseen("04.2", "The factor of x_t is right")
def step_with_the_roles_of_the_noises_exchanged(x_t, eps, abar, abar_prev, eta, noise):
    sigma = eta * math.sqrt((1 - abar_prev) / (1 - abar) * (1 - abar / abar_prev))
    x_0 = (x_t - math.sqrt(1 - abar) * eps) / math.sqrt(abar)
    return math.sqrt(abar_prev) * x_0 + math.sqrt(1 - abar_prev - sigma**2) * noise + sigma * eps


add(
    "05.1",
    ("The sign is turned", lambda z, v: F.binary_cross_entropy_with_logits(z, v.float(), reduction="none")),
    (None, lambda logit, value: F.logsigmoid(value * logit)),
    ("Every number is 2", lambda z, v: torch.log10(torch.sigmoid(torch.where(v == 1, z, -z)).double())),
)


@unforeseen("05.2", "The result is 3 times too small")
def gradient_of_the_mean_loss(classifier, x_t, t, y):
    with torch.enable_grad():
        x = x_t.detach().requires_grad_()
        return torch.autograd.grad(-F.cross_entropy(classifier(x, t), y), x)[0]


@unforeseen("05.2", "The result is divided by its own size")
def gradient_made_of_length_one(classifier, x_t, t, y):
    with torch.enable_grad():
        x = x_t.detach().requires_grad_()
        log_p = classifier(x, t).log_softmax(1)[torch.arange(len(y)), y]
        g = torch.autograd.grad(log_p.sum(), x)[0]
    return g / g.flatten(1).norm(dim=1)[:, None, None, None]


add(
    "06.1",
    ("The sign of gradient is turned round", lambda x, g, a, s: x - s * (1 - a) / math.sqrt(a) * g),
    ("x_0 is missing", lambda x_0, gradient, abar, s: s * (1 - abar) / math.sqrt(abar) * gradient),
    ("abar", lambda x_0, gradient, abar, s: x_0 + s * gradient),
)
add(
    "06.2",
    ("The sign is turned round", lambda logits, wanted: -(logits.softmax(1) * wanted).sum(1).log()),
    (None, lambda logits, wanted: logits.log_softmax(1)[wanted]),
    ("samples of the batch mingle", lambda z, w: z.log_softmax(0).masked_fill(~w, -math.inf).logsumexp(1)),
)
add(
    "07.1",
    ("a and b", lambda eps_a, a, eps_b, b, w: eps_a + w * (eps_b - eps_a)),
    ("goes the wrong way from eps_a", lambda A, a, B, b, w: A - (w - a) / (b - a) * (B - A)),
    ("eps_a and a", lambda eps_a, a, eps_b, b, w: w / b * eps_b),
)


@unforeseen("07.2")
def away_by_the_average_of_labels(model, x_t, t, y, y_not, w):
    return model(x_t, t, y) - w * model(x_t, t, y_not)


@unforeseen("07.2", "The network takes t of shape [B]")
def away_with_one_set_of_times(model, x_t, t, y, y_not, w):
    n, c = model(torch.cat([x_t, x_t]), t, torch.cat([y_not, y])).chunk(2)
    return n + w * (c - n)


add(
    "08.1",
    ("The labels come first", lambda x, K: (torch.arange(K).repeat(len(x)), x.repeat_interleave(K, dim=0))),
    ("Two calls give two", lambda x, K: (x.repeat_interleave(K, dim=0), torch.randint(K, (len(x) * K,)))),
    ("one-hot rows", lambda x, K: (x.repeat_interleave(K, 0), F.one_hot(torch.arange(K).repeat(len(x))))),
)


@unforeseen("08.2", "Two calls give two results")
def inverse_with_fresh_noise(eps_fn, x, t_to, abar, abar_to):
    x_0 = (x - math.sqrt(1 - abar) * eps_fn(x, torch.full((len(x),), t_to))) / math.sqrt(abar)
    return math.sqrt(abar_to) * x_0 + math.sqrt(1 - abar_to) * torch.randn_like(x)


@unforeseen("08.2", "abar and abar_to are exchanged")
def inverse_downwards(eps_fn, x, t_to, abar, abar_to):
    eps = eps_fn(x, torch.full((len(x),), t_to))
    x_0 = (x - math.sqrt(1 - abar_to) * eps) / math.sqrt(abar_to)
    return math.sqrt(abar) * x_0 + math.sqrt(1 - abar) * eps


@unforeseen("09.1", "Every number is 2 times too large")
def error_twice_as_large(intervene, x_0, source, target):
    back = intervene(in_8_bits(intervene(x_0, source, target)), target, source)
    return (back - x_0).abs().mean(dim=(1, 2, 3))


@unforeseen("09.1", "The batch is reduced to one number")
def error_of_the_whole_batch(intervene, x_0, source, target):
    back = intervene(in_8_bits(intervene(x_0, source, target)), target, source)
    return ((back - x_0) / 2).abs().mean()


def steps_up(eps_fn, schedule, x, timesteps, order, at=lambda ts, i: ts[i], clip=lambda x: x):
    abar, now, ts = schedule.alphas_cumprod, 1.0, order(timesteps.tolist())
    for i, t in enumerate(ts):
        eps = eps_fn(x, torch.full((len(x),), at(ts, i)))
        x_0 = clip((x - math.sqrt(1 - now) * eps) / math.sqrt(now))
        now = float(abar[t])
        x = math.sqrt(now) * x_0 + math.sqrt(1 - now) * eps
    return x


add(
    "09.2",
    ("The network is asked at the right time", lambda *given: steps_up(*given, order=list)),
    ("is asked at t = 6", lambda *given: steps_up(*given, order=sorted, at=lambda ts, i: ts[max(i - 1, 0)])),
    (None, lambda *given: steps_up(*given, order=sorted, clip=lambda x: x.clamp(-4, 4))),
)
add(
    "10.1",
    ("The result is upside down", lambda N, e: math.log(N[-1] / N[0]) / math.log(e[0] / e[-1])),
    ("rounded to whole numbers", lambda N, e: round(math.log(e[0] / e[-1]) / math.log(N[-1] / N[0]))),
    (None, lambda steps, errors: (errors[0] - errors[-1]) / (steps[-1] - steps[0])),
)


@unforeseen("10.2")
def heun_in_x_itself(eps_fn, x_t, t, t_next, abar, abar_next):
    step = math.sqrt(1 - abar_next) - math.sqrt(1 - abar)
    d1 = eps_fn(x_t, t)
    return x_t + step * (d1 + eps_fn(x_t + step * d1, t_next)) / 2


@unforeseen("10.2", "The network is asked at t = 800")
def heun_at_the_old_time(eps_fn, x_t, t, t_next, abar, abar_next):
    step = math.sqrt(1 / abar_next - 1) - math.sqrt(1 / abar - 1)
    d1 = eps_fn(x_t, t)
    d2 = eps_fn(math.sqrt(abar_next) * (x_t / math.sqrt(abar) + step * d1), t)
    return math.sqrt(abar_next) * (x_t / math.sqrt(abar) + step * (d1 + d2) / 2)


add(
    "11.1",
    ("factor", lambda abar, factor: abar),
    ("This is 1 minus the right result", lambda abar, factor: 1 / (1 + abar / (1 - abar) / factor**2)),
    (None, lambda abar, factor: abar**factor),
)


@unforeseen("11.2", "The same generator gives different res")
def flip_with_python(x_0, generator):
    return torch.stack([x.flip(-1) if random.random() < 0.5 else x for x in x_0])


@unforeseen("11.2", "Another call mirrors the same places")
def flip_first_half(x_0, generator):
    half = len(x_0) // 2
    return torch.cat([x_0[:half].flip(3), x_0[half:]])


add(
    "11.3",
    ("Something else than rows is returned", lambda rows: max(rows, key=lambda r: r["accuracy"] - r["fid"])),
    (None, lambda rows: [r for r in rows if r["accuracy"] > 0.6 and r["fid"] < 5]),
    (
        "Something else than rows is returned",
        lambda rows: [i for i, r in enumerate(rows) if is_best(r, rows)],
    ),
)
add(
    "12.1",
    (
        "The sign is turned",
        lambda z, w: -sum((F.logsigmoid(z[:, i] if v else -z[:, i]) for i, v in w.items())),
    ),
    ("is 0 everywhere", lambda z, w: F.logsigmoid(z[:, [*w]]).sum(1) if all(w.values()) else 0 * z[:, 0]),
    (None, lambda z, w: sum(z[:, i].sigmoid() if v else 1 - z[:, i].sigmoid() for i, v in w.items()).log()),
)
add(
    "12.2",
    (None, lambda p, o: p - dot(p, o) / dot(p, p) * p),
    (
        "must be divided by <",
        lambda p, o: p - F.cosine_similarity(p.flatten(1), o.flatten(1)).view(-1, 1, 1, 1) * o,
    ),
)
