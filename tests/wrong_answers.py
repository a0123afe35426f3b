"""For each diagnosis that SIXTY does not show a wrong answer as a learner would write it."""

import math
import operator
from math import sqrt

import numpy as np
import torch
import torch.nn.functional as F
from blank_answers import WRONG_14
from right_answers import draw, field_forwards, flip_as_in_the_lesson, front_as_in_the_lesson, held_by_clamp
from right_answers import target_without_the_noise as of_states

from lessons_lib.counterfactuals import in_8_bits
from lessons_lib.schedules import q_sample


def before(abar):
    return torch.cat([torch.ones(1, dtype=abar.dtype), abar[:-1]])


def estimate(x_t, eps, abar):
    return (x_t - sqrt(1 - abar) * eps) / sqrt(abar)


def sigma_of(abar, abar_prev, eta):
    return eta * ((1 - abar_prev) / (1 - abar) * (1 - abar / abar_prev)) ** 0.5


def step(x_0=estimate, sigma=sigma_of, removed=1, more=lambda abar_prev, eta: 0):
    """DDIM's step with one part replaced; `removed` is the share of sigma² that eps loses."""

    def ddim_step(x_t, eps, abar, abar_prev, eta, noise):
        s = sigma(abar, abar_prev, eta)
        found = sqrt(abar_prev) * x_0(x_t, eps, abar) + (1 - abar_prev - removed * s**2) ** 0.5 * eps
        return found + (s + more(abar_prev, eta)) * noise

    return ddim_step


def stride_of(layers):
    return math.prod(stride for _, stride in layers)


def field(jump, less=1):
    return lambda layers: 1 + sum((k - less) * jump(layers, i) for i, (k, _) in enumerate(layers))


def attention(q, k, v, heads, dim=-1, width=None):
    """Right but for what is handed in."""
    B, N, C = q.shape
    q, k, v = (x.view(B, N, heads, C // heads).transpose(1, 2) for x in (q, k, v))
    scores = q @ k.transpose(-1, -2) / (width or sqrt(C // heads))
    weights = scores if dim is None else scores.softmax(dim)
    return weights, (weights @ v).transpose(1, 2).reshape(B, N, C), weights @ v


def heads_cut(q, k, v, heads):
    B, N, C = q.shape
    q, k, v = (x.reshape(B, heads, N, C // heads) for x in (q, k, v))
    return (((q @ k.mT) / sqrt(C // heads)).softmax(-1) @ v).transpose(1, 2).reshape(B, N, C)


def loss_with(draw_t=None, draw_eps=None, mix=q_sample, compare=None, told=lambda t: t):
    """The training loss with one line replaced."""

    def noising_loss(model, schedule, x_0, generator):
        t, eps = draw(schedule, x_0, generator)
        t = draw_t(schedule.num_timesteps, len(x_0), generator) if draw_t else t
        eps = draw_eps(x_0, generator) if draw_eps else eps
        x_t = mix(schedule, x_0, t, eps)
        guess = model(x_t, told(t))
        return compare(guess, eps, x_0) if compare else ((guess - eps) ** 2).mean()

    return noising_loss


def losses_with(compare=lambda guess, eps, x_0: F.mse_loss(guess, eps), total=torch.stack):
    def loss_by_timestep(eps_fn, schedule, x_0, timesteps, generator):
        losses = []
        for t in timesteps:
            eps, batch_t = torch.randn(x_0.shape, generator=generator), torch.full((len(x_0),), t)
            losses.append(compare(eps_fn(q_sample(schedule, x_0, batch_t, eps), batch_t), eps, x_0))
        return total(losses)

    return loss_by_timestep


def gradient_with(log_p_of, under=torch.enable_grad, total=torch.sum):
    """The gradient in four lines; log_p_of(logits, y) has one number a sample."""

    def class_gradient(classifier, x_t, t, y):
        with under():
            x = x_t.detach().clone().requires_grad_()
            chosen = log_p_of(classifier(x, t), y)
            return torch.autograd.grad(total(chosen), x)[0]

    return class_gradient


def pick(rows, y):
    return rows[torch.arange(len(y)), y]


log_p_gradient = gradient_with(lambda z, y: pick(z.log_softmax(1), y))


def gradient_of_a_copy(classifier, x_t, t, y):
    with torch.enable_grad():
        x, other = (x_t.clone().requires_grad_() for _ in range(2))
        return torch.autograd.grad(pick(classifier(x, t).log_softmax(1), y).sum(), other)[0]


def pair(model, x_t, t, y, y_not):
    """eps(y_not) and eps(y), asked in one batch."""
    return model(torch.cat([x_t, x_t]), torch.cat([t, t]), torch.cat([y_not, y])).chunk(2)


def null(model, y):
    return torch.full_like(y, model.null_label)


def away(mix):
    return lambda model, x_t, t, y, y_not, w: mix(*pair(model, x_t, t, y, y_not), w)


def away_cut_wrong(model, x_t, t, y, y_not, w):
    eps = model(x_t.repeat(2, 1, 1, 1), t.repeat(2), torch.cat([y_not, y]))
    return eps[0::2] + w * (eps[1::2] - eps[0::2])


def moved(eps_fn, x, t_to, fix=lambda x_0: x_0, **levels):
    """x_0 read off at abar, put back at abar_to; each of a, na, b, nb is a factor."""
    eps = eps_fn(x, torch.full((len(x),), t_to))
    return levels["b"] * fix((x - levels["na"] * eps) / levels["a"]) + levels["nb"] * eps


def inverse(change, fix=lambda x_0: x_0):
    def inverse_step(eps_fn, x, t_to, abar, abar_to):
        right = {"a": sqrt(abar), "na": sqrt(1 - abar), "b": sqrt(abar_to), "nb": sqrt(1 - abar_to)}
        return moved(eps_fn, x, t_to, fix, **right | change(abar, abar_to))

    return inverse_step


unchanged = inverse(lambda a, b: {})


def jump(kept):
    return {"a": 1, "na": 0, "b": sqrt(kept), "nb": sqrt(1 - kept)}


def inverse_rederived(eps_fn, x, t_to, abar, abar_to):
    eps = eps_fn(x, torch.full((len(x),), t_to))
    x_0 = (x - sqrt(1 - abar) * eps) / sqrt(abar)
    eps = (x - sqrt(abar) * x_0) / sqrt(1 - abar)
    return sqrt(abar_to) * x_0 + sqrt(1 - abar_to) * eps


def labelled(labels):
    """The repeated noise with labels(N, K)."""
    return lambda x_T, K: (x_T.repeat_interleave(K, 0), labels(len(x_T), K))


def error(between=in_8_bits, labels=(0, 1, 1, 0), measure=None):
    def there_and_back(intervene, x_0, source, target):
        given = source, target
        there = intervene(x_0, given[labels[0]], given[labels[1]])
        back = intervene(between(there), given[labels[2]], given[labels[3]])
        return measure(back - x_0) if measure else (back - x_0).abs().mean(dim=(1, 2, 3)) / 2

    return there_and_back


def error_of_the_counterfactual(intervene, x_0, source, target):
    there = in_8_bits(intervene(x_0, source, target))
    return (there - x_0).abs().flatten(1).mean(dim=1) / 2


def walk(change=None, forget=False, derive=None, quiet=None):
    """The loop of 09.2 with its estimate or eps changed."""

    def invert(eps_fn, schedule, x_0, timesteps):
        x, now = x_0, 1.0
        for t in reversed(timesteps.tolist()):
            eps = eps_fn(x, torch.full((len(x),), t))
            eps = quiet(eps) if quiet else eps
            estimate = (x - (1 - now) ** 0.5 * eps) / now**0.5
            estimate = change(estimate) if change else estimate
            eps = derive(x, estimate, now, eps) if derive else eps
            to = float(schedule.alphas_cumprod[t])
            x, now = to**0.5 * estimate + (1 - to) ** 0.5 * eps, 1.0 if forget else to
        return x

    return invert


def clip(x_0):
    return x_0.clamp(-1, 1)


def eps_of(x, x_0, abar):
    return (x - abar**0.5 * x_0) / (1 - abar) ** 0.5


def heun(sigma=lambda a: sqrt(1 / a - 1), shares=(0.5, 0.5), reach=1, back=sqrt, sign=1, start=sqrt):
    """Heun's step with one part replaced; `shares` are those of the two slopes."""

    def heun_step(eps_fn, x_t, t, t_next, abar, abar_next):
        step, xbar = sign * (sigma(abar_next) - sigma(abar)), x_t / start(abar)
        d1 = eps_fn(x_t, t)
        d2 = eps_fn(sqrt(abar_next) * (xbar + reach * step * d1), t_next) if shares[1] else 0
        return back(abar_next) * (xbar + step * (shares[0] * d1 + shares[1] * d2))

    return heun_step


def snr(abar):
    return abar / (1 - abar)


def flipped(m=None, axis=3, coins=None):
    def flip_some(x_0, generator):
        own = coins(len(x_0), generator) if coins else torch.rand(len(x_0), generator=generator) < 0.5
        mask = m(x_0, generator) if m else own[:, None, None, None]
        return torch.where(mask, x_0.flip(axis), x_0)

    return flip_some


def flip_in_the_data(x_0, generator):
    coins = torch.rand(len(x_0), generator=generator) < 0.5
    x_0[coins] = x_0[coins].flip(3)
    return x_0


def kept(beaten):
    """The rows for which beaten(row, other) is false for every other."""
    return lambda rows: [row for row in rows if not any(beaten(row, other) for other in rows)]


def both_are_larger(row, other):
    mine, theirs = ((one["accuracy"], one["fid"]) for one in (row, other))
    return theirs != mine and all(map(operator.ge, theirs, mine))


def seen_once(rows):
    front = []
    for row in front_as_in_the_lesson(rows):
        if row not in front:
            front.append(row)
    return front


def wishes(one, total=sum):
    """one(z, value) for each wish."""
    return lambda logits, wanted: total([one(logits[:, i], value) for i, value in wanted.items()])


def p_of(z, value):
    return torch.sigmoid(z) if value else 1 - torch.sigmoid(z)


def log_p_of(z, value):
    return F.logsigmoid(z if value else -z)


def held(k):
    """pull less k(pull, other) times other; pull and other as rows."""

    def held_still(pull, other):
        p, o = pull.flatten(1), other.flatten(1)
        return (p - k(p, o) * o).view_as(pull)

    return held_still


def held_along(dim):
    def held_still(pull, other):
        k = (pull * other).sum(dim, keepdim=True) / (other * other).sum(dim, keepdim=True).clamp(min=1e-20)
        return pull - k * other

    return held_still


def dot(p, o):
    return (p * o).sum(1, keepdim=True)


def held_to_length(pull, other):
    rest = held_by_clamp(pull, other)
    return rest * (pull.flatten(1).norm(dim=1) / rest.flatten(1).norm(dim=1)).view(-1, 1, 1, 1)


def nan_gradient(z, w):
    """Where the sum rounds to 0 the largest takes its place: for the numbers, not for autograd."""
    log_p = z.double().log_softmax(dim=1)
    total = (log_p.exp() * w).sum(dim=1)
    return torch.where(total > 0, total.log(), log_p.masked_fill(~w, -math.inf).amax(dim=1))


def ls(z, w):
    return z.log_softmax(1).masked_fill(~w, -math.inf)


def target(result):
    """result(sigma_s / sigma_t, x_t, x_s, alpha_t, alpha_s)."""
    return lambda x_t, x_s, a, b: result(sqrt((1 - b) / (1 - a)), x_t, x_s, sqrt(a), sqrt(b))


def target_by_noise_levels(x_t, x_s, a, b):
    """Each state is divided by its sigma, and the difference taken."""
    return (x_s / sqrt(1 - b) - x_t / sqrt(1 - a)) / (sqrt(b / (1 - b)) - sqrt(a / (1 - a)))


WRONG = {}
WRONG["00.1"] = [
    ("Halving alone", lambda x: 0.5 * x),
    ("Everything below 0", torch.relu),
    ("The image comes back", lambda x: x.clone()),
]
WRONG["01.1"] = [
    ("Only the first beta", lambda abar: torch.cat([torch.zeros(1).double(), 1 - abar[1:] / abar[:-1]])),
    ("The ratio is turned round", lambda abar: 1 - before(abar) / abar),
    ("differences of neighbouring", lambda abar: -torch.diff(abar, prepend=torch.ones(1).double())),
    ("There is a square root too many", lambda abar: 1 - abar.sqrt() / before(abar).sqrt()),
    ("torch.cumprod leads", lambda abar: torch.cumprod(1 - abar, dim=0)),
]
WRONG["01.2"] = [
    ("x is treated as a clean", lambda x, a, b, eps: b**0.5 * x + (1 - b) ** 0.5 * eps),
    ("variance abar - abar_next", lambda x, a, b, eps: (b / a) ** 0.5 * x + (a - b) ** 0.5 * eps),
    ("all the noise at the new level", lambda x, a, b, eps: (b / a) ** 0.5 * x + (1 - b) ** 0.5 * eps),
    ("eps is taken for the noise", lambda x, a, b, e: sqrt(b) * estimate(x, e, a) + sqrt(1 - b) * e),
]
WRONG["02.1"] = [
    ("The strides are not used", lambda layers: 1 + sum(kernel - 1 for kernel, stride in layers)),
    ("A layer's own stride", field(lambda layers, i: stride_of(layers[: i + 1]))),
    ("The strides before a layer multiply", field(lambda layers, i: layers[i - 1][1] if i else 1)),
    ("in the wrong order", lambda layers: field_forwards(list(reversed(layers)))),
    ("A kernel of k pixels", field(lambda layers, i: stride_of(layers[:i]), less=0)),
    ("how far it sees to one side", lambda layers: (field_forwards(layers) - 1) // 2),
]
WRONG["02.2"] = [
    ("must be divided by sqrt(C/heads)", lambda q, k, v, heads: attention(q, k, v, heads, width=1.0)[1]),
    ("over the wrong axis", lambda q, k, v, heads: attention(q, k, v, heads, dim=-2)[1]),
    ("There is no softmax", lambda q, k, v, heads: attention(q, k, v, heads, dim=None)[1]),
    ("The split mixes tokens", heads_cut),
    ("merged in a wrong order", lambda q, k, v, heads: attention(q, k, v, heads)[2].reshape(q.shape)),
    ("The attention weights are returned", lambda q, k, v, heads: attention(q, k, v, heads)[0]),
    ("The heads are still apart", lambda q, k, v, heads: attention(q, k, v, heads)[2]),
    ("Only C/heads channels", lambda q, k, v, heads: attention(q, k, v, heads)[2].mean(1)),
]
WRONG["03.1"] = [
    ("One t for the", loss_with(lambda T, B, g: torch.randint(T, (1,), generator=g).repeat(B))),
    ("Some timesteps are drawn", loss_with(lambda T, B, g: torch.randint(T - 1, (B,), generator=g))),
    ("shown the clean x_0", loss_with(mix=lambda schedule, x_0, t, eps: x_0)),
    (
        "A factor in x_t is wrong",
        loss_with(mix=lambda s, x, t, e: torch.lerp(e, x, s.alphas_cumprod.float()[t].view(-1, 1, 1, 1))),
    ),
    ("told another t", loss_with(told=lambda t: (t + 1) % 5)),
    ("not standard normal", loss_with(draw_eps=lambda x, g: torch.rand(x.shape, generator=g))),
    ("The same noise", loss_with(draw_eps=lambda x, g: torch.randn(x.shape[1:], generator=g).expand_as(x))),
    ("carries no gradient", loss_with(compare=lambda guess, eps, x_0: F.mse_loss(guess, eps).item())),
    ("The generator is not used", loss_with(draw_eps=lambda x, g: torch.randn_like(x))),
]
WRONG["03.2"] = [
    ("compared with x_0 or x_t", losses_with(lambda guess, eps, x_0: F.mse_loss(guess, x_0))),
    ("The squared errors are added", losses_with(lambda guess, eps, x_0: ((guess - eps) ** 2).sum())),
    ("The absolute error", losses_with(lambda guess, eps, x_0: (eps - guess).abs().mean())),
    ("One number is returned", losses_with(total=lambda losses: sum(losses) / len(losses))),
]
WRONG["04.1"] = [
    ("stands before the score without", lambda x, s, a: (x + (1 - a) ** 0.5 * s) / a**0.5),
    ("as if it were eps", lambda x_t, score, abar: (x_t - (1 - abar) ** 0.5 * score) / abar**0.5),
    ("The division by sqrt(abar)", lambda x_t, score, abar: x_t + (1 - abar) * score),
    ("The division is by abar", lambda x_t, score, abar: (x_t + score - abar * score) / abar),
]
WRONG["04.2"] = [
    ("sigma² is missing", step(removed=0)),
    ("sigma is there and eta is not", step(sigma=lambda a, p, eta: sigma_of(a, p, 1))),
    ("sqrt(abar_prev) multiplies x_t", step(x_0=lambda x_t, eps, abar: x_t)),
    ("A square root is missing", step(x_0=lambda x_t, eps, abar: (x_t - (1 - abar) * eps) / sqrt(abar))),
    ("The estimate is clipped", step(x_0=lambda *given: torch.clip(estimate(*given), -1, 1))),
    ("sigma is another", step(sigma=lambda a, p, eta: eta * (1 - a / p) ** 0.5)),
    ("in the last step", step(more=lambda abar_prev, eta: (abar_prev == 1) * eta)),
]
WRONG["05.1"] = [
    ("The probability is returned", lambda z, v: torch.where(v == 1, z.sigmoid(), 1 - z.sigmoid())),
    ("value is turned round", lambda logit, value: F.logsigmoid((1 - 2 * value) * logit)),
    ("the minus stands outside", lambda z, v: torch.where(v == 1, F.logsigmoid(z), -F.logsigmoid(z))),
    ("The logit is returned", lambda logit, value: logit * (2 * value - 1)),
    ("Both values", lambda z, v: torch.stack([F.logsigmoid(-z), F.logsigmoid(z)], dim=1)),
    ("At large logits the result is o", lambda z, v: torch.log(((2 * v - 1) * z).sigmoid() + 1e-08)),
    ("is infinite or NaN", lambda logit, value: torch.log(((2 * value - 1) * logit).sigmoid())),
]
WRONG["05.2"] = [
    ("of the probability", gradient_with(lambda logits, y: pick(logits.softmax(1), y))),
    ("of the logit", gradient_with(pick)),
    ("All classes are added", gradient_with(lambda logits, y: F.log_softmax(logits, dim=1))),
    ("taken twice", gradient_with(lambda z, y: -F.cross_entropy(z.softmax(1), y, reduction="none"))),
    ("autograd diff", gradient_with(lambda z, y: pick(z.log_softmax(1), y), total=lambda x: x)),
    ("Nothing leads", gradient_with(lambda z, y: pick(z.log_softmax(1), y), under=torch.no_grad)),
    ("asked about another tensor", gradient_of_a_copy),
    ("The classifier's answer", lambda c, x, t, y: pick(c(x, t).log_softmax(1), y)),
]
WRONG["06.1"] = [
    ("This is what eps loses", lambda x_0, gradient, abar, s: x_0 + s * (1 - abar) ** 0.5 * gradient),
    ("has no square root here", lambda x, g, a, s: x + s * ((1 - a) / a) ** 0.5 * g),
    ("must be divided by sqrt(abar)", lambda x_0, gradient, abar, s: x_0 + (1 - abar) * s * gradient),
    ("The factor 1 - abar is missing", lambda x_0, gradient, abar, s: x_0 + s / abar**0.5 * gradient),
    ("by its own size", lambda x, g, a, s: x + s * (1 - a) / sqrt(a) * F.normalize(g.flatten(1)).view_as(g)),
]
WRONG["06.2"] = [
    ("at once are asked for", lambda z, w: torch.where(w, z.log_softmax(1), 0).sum(1)),
    ("Only the likeliest", lambda z, w: ls(z, w).max(dim=1).values),
    ("The probability is returned", lambda z, w: (F.softmax(z, dim=1) * w).sum(dim=1)),
    ("The logits are taken", lambda z, w: torch.where(w, z, -torch.inf).logsumexp(1)),
    ("that are not wanted count", lambda z, w: z.log_softmax(1).masked_fill(w, -math.inf).logsumexp(1)),
    ("exp(0) = 1 still counts", lambda z, w: torch.logsumexp(F.log_softmax(z, 1) * w, dim=1)),
    ("a yes or no of its own", lambda z, w: F.logsigmoid(z).masked_fill(~w, -math.inf).logsumexp(1)),
    ("Every class keeps", lambda z, w: z.log_softmax(1) * w),
    ("The sum runs over the batch", lambda z, w: ls(z, w).logsumexp(0)),
    ("At large logits the result is o", lambda z, w: z.log_softmax(1).masked_fill(~w, -100).logsumexp(1)),
    ("is infinite or NaN", lambda z, w: (z.softmax(1) * w).sum(1).log()),
    ("cut off or changed", lambda z, w: ls(z.detach(), w).logsumexp(1)),
    ("it is NaN or infinite", nan_gradient),
    ("changed in place", lambda z, w: z.log_softmax(1).masked_fill_(~w, -math.inf).logsumexp(1)),
    ("does not subtract or negate", lambda z, w: (z.log_softmax(1) - 1e9 * (1 - w)).logsumexp(1)),
]
WRONG["07.1"] = [
    ("The share of the way", lambda A, a, B, b, w: A + (w - a) * (B - A)),
    ("The ends are exchanged", lambda A, a, B, b, w: B - (w - a) / (b - a) * (B - A)),
    ("stays between", lambda A, a, B, b, w: torch.lerp(A, B, max(0.0, min(1.0, (w - a) / (b - a))))),
    ("eps_b itself is added", lambda A, a, B, b, w: A + (w - a) / (b - a) * B),
]
WRONG["07.2"] = [
    ("It starts at eps(y)", away(lambda n, c, w: (1 + w) * c - w * n)),
    ("The two labels are exchanged", away(lambda n, c, w: w * n + (1 - w) * c)),
    ("The step goes the wrong way", away(lambda n, c, w: n + w * (n - c))),
    ("eps(y) itself is added", away(lambda n, c, w: w * c + n)),
    ("Only the difference", away(lambda n, c, w: w * c - w * n)),
    ("cut in the wrong places", away_cut_wrong),
    ("The unconditional prediction", lambda m, x, t, y, _, w: torch.lerp(*pair(m, x, t, y, null(m, y)), w)),
    ("2B predictions", away(lambda n, c, w: torch.cat([n, c]))),
]
WRONG["08.1"] = [
    ("still come as 0 1 2", lambda x_T, K: (torch.cat([x_T] * K), torch.arange(K).repeat(len(x_T)))),
    ("come as 0 0 0", labelled(lambda N, K: torch.arange(N * K) // N)),
    ("on its side", lambda x_T, K: (x_T.repeat(K, 1, 1, 1), torch.arange(K).repeat_interleave(len(x_T)))),
    ("run from 1 to K", labelled(lambda N, K: torch.arange(1, K + 1).repeat(N))),
    ("the same class", labelled(lambda N, K: torch.zeros(N * K, dtype=torch.int64))),
    ("an axis too many", lambda x_T, K: (torch.stack([x_T] * K, dim=1), torch.arange(K).repeat(len(x_T)))),
    ("still holds N images", lambda x_T, K: (x_T, torch.arange(K))),
    ("do not lie along", lambda x_T, K: (x_T.repeat_interleave(K), torch.arange(K).repeat(len(x_T)))),
    ("too few labels", labelled(lambda N, K: torch.arange(K))),
    ("not in x_T", lambda x, K: (torch.randn(len(x) * K, *x.shape[1:]), torch.arange(K).repeat(len(x)))),
    ("not int64", labelled(lambda N, K: torch.arange(K).repeat(N).float())),
]
WRONG["08.2"] = [
    ("The estimate is clipped", inverse(lambda a, b: {}, fix=lambda x_0: torch.clip(x_0, -1, 1))),
    ("mixed up", inverse(lambda a, b: {"b": a**0.5})),
    ("A square root is missing", inverse(lambda a, b: {"na": 1 - a})),
    ("A sign is turned round", inverse(lambda a, b: {"na": -((1 - a) ** 0.5)})),
    ("No noise is put back", inverse(lambda a, b: {"nb": 0})),
    ("taken for the image itself", inverse(lambda a, b: {"a": 1, "na": 0})),
    ("a jump of the forward process", inverse(lambda a, b: jump(b / a))),
    ("but not at abar = 1", inverse_rederived),
]
WRONG["09.1"] = [
    ("with all their decimals", error(between=lambda there: there)),
    ("misses the 256 levels", error(between=lambda there: torch.round(there * 255) / 255)),
    ("The labels are mixed up", error(labels=(0, 1, 0, 1))),
    ("The wrong two pictures", error_of_the_counterfactual),
    ("The differences cancel out", error(measure=lambda d: d.flatten(1).mean(1) / 2)),
    ("The differences are squared", error(measure=lambda d: d.square().flatten(1).mean(1))),
    ("Every pixel or channel", error(measure=lambda d: d.abs() / 2)),
    ("taken over the images", error(measure=lambda d: d.abs().mean(dim=0) / 2)),
]
WRONG["09.2"] = [
    ("clipped to [0, 1]", walk(lambda e: e.clamp(min=0).clamp(max=1))),
    ("clipped to [-1, 1]", walk(lambda e: torch.clip(e, -1, 1))),
    ("still clipped", walk(clip, derive=lambda x, e, a, eps: eps_of(x, e, a) if a < 1 else eps)),
    ("wider bounds", walk(lambda e: e.clamp(-1.5, 1.5))),
    ("Now eps is clipped", walk(quiet=lambda eps: torch.clip(eps, -1, 1))),
    ("abar_now stays 1", walk(forget=True)),
    ("there is no number", walk(clip, derive=lambda x, e, a, eps: eps_of(x, e, a))),
]
WRONG["10.1"] = [
    ("Logarithms are missing", lambda N, e: e[0] / e[-1] * N[0] / N[-1]),
    ("A logarithm is missing", lambda N, e: -np.polyfit(N, np.log(e), 1)[0]),
    ("difference of logs", lambda N, e: math.log(e[0], e[-1]) / math.log(N[-1], N[0])),
    ("different bases", lambda N, e: math.log10(e[0] / e[-1]) / math.log(N[-1] / N[0])),
]
WRONG["10.2"] = [
    ("This is Euler's step", heun(shares=(1, 0))),
    ("another point than Euler's", heun(reach=0)),
    ("The result is xbar", heun(back=lambda a: 1)),
    ("x_t is used as it is", heun(start=lambda a: 1)),
    ("The slopes are added", heun(shares=(1, 1))),
    ("the midpoint method", heun(shares=(0, 1), reach=0.5)),
    ("sigma is another", heun(sigma=lambda a: (1 - a) ** 0.5)),
    ("The step goes the wrong way", heun(sign=-1)),
]
WRONG["11.1"] = [
    ("must be divided by factor²", lambda a, f: torch.sigmoid(torch.logit(a) - math.log(f))),
    ("The SNR goes up", lambda abar, factor: torch.sigmoid(torch.logit(abar) + 2 * math.log(factor))),
    ("itself is scaled", lambda abar, factor: abar / factor / factor),
    ("or its logarithm is returned", lambda abar, factor: snr(abar) / factor**2),
    ("A square root is in it", lambda abar, factor: 1 - 1 / (1 + snr(abar) ** 0.5 / factor)),
    ("upside down", lambda a, f: (1 - a) / a / f**2 / (1 + (1 - a) / a / f**2)),
]
WRONG["11.2"] = [
    ("One coin decides", flipped(m=lambda x, g: torch.rand(1, generator=g) < 0.5)),
    ("Another axis is turned", flipped(axis=2)),
    ("coins of their own", flipped(m=lambda x, g: torch.rand(len(x), 1, x.shape[2], 1, generator=g) < 0.5)),
    ("neither itself nor", lambda x_0, generator: -flip_as_in_the_lesson(x_0, generator)),
    ("or none", lambda x_0, generator: x_0.flip(3)),
    ("The share of mirrored", flipped(coins=lambda B, g: torch.randn(B, generator=g) < 0.5)),
    ("depend on each other", flipped(coins=lambda B, g: torch.randperm(B, generator=g) < B // 2)),
    ("The coins are returned", lambda x_0, generator: torch.rand(len(x_0), generator=generator) < 0.5),
    ("x_0 is changed", flip_in_the_data),
]
WRONG["11.3"] = [
    ("Only the best in a measure", lambda rows: [sorted(rows, key=lambda row: -row["accuracy"])[0]]),
    ("Every row is returned", lambda rows: [*rows]),
    ("Better in both is asked", kept(lambda r, o: o["accuracy"] > r["accuracy"] and o["fid"] < r["fid"])),
    ("Better in one measure", kept(lambda r, o: o["accuracy"] > r["accuracy"] or o["fid"] < r["fid"])),
    ("Nothing is left", kept(lambda row, o: o["accuracy"] >= row["accuracy"] and o["fid"] <= row["fid"])),
    ("A row is lost", seen_once),
    ("A measure is turned round", kept(both_are_larger)),
    ("their order is not", lambda rows: sorted(front_as_in_the_lesson(rows), key=lambda row: row["fid"])),
]
WRONG["12.1"] = [
    ("are treated alike", wishes(lambda z, value: F.logsigmoid(z))),
    ("Only one of the two answers", wishes(lambda z, value: F.logsigmoid(z) if value else 0 * z)),
    ("True and False are exchanged", wishes(lambda z, value: log_p_of(z, not value))),
    ("the minus stands outside", wishes(lambda z, v: F.logsigmoid(z) if v else 1 - F.logsigmoid(z))),
    ("The probability is returned", wishes(p_of, total=math.prod)),
    ("Only a mean", wishes(log_p_of, total=lambda logs: torch.stack(logs).mean(0))),
    ("A softmax is taken", lambda logits, wanted: sum(logits.log_softmax(1)[:, i] for i in wanted)),
    ("Other attributes count", lambda logits, wanted: F.logsigmoid(logits).sum(dim=1)),
    ("The logits are added up", wishes(lambda z, value: z if value else -z)),
    ("are lost", lambda logits, wanted: sum(log_p_of(logits[i], value) for i, value in wanted.items())),
    ("Every attribute keeps", wishes(log_p_of, total=lambda logs: torch.stack(logs, dim=1))),
    ("At large logits the result is o", wishes(lambda z, v: torch.log(p_of(z, v).clamp(min=1e-12)))),
    ("is infinite or NaN", wishes(lambda z, value: torch.log(p_of(z, value)))),
]
WRONG["12.2"] = [
    ("Pixels, rows or channels", held_along((2, 3))),
    ("other itself is taken away", lambda pull, other: pull - other),
    ("The length is changed", held_to_length),
    ("too large", held(lambda p, o: dot(p, o) / (dot(o, o) + 1e-4))),
    ("The factors before other", lambda p, o: (p * o).sum((1, 2, 3)) / (o**2).sum((1, 2, 3))),
    ("The images stay flattened", lambda pull, other: held_by_clamp(pull, other).flatten(1)),
    (
        "there is nothing to hold still",
        lambda p, o: held_by_clamp(p, o) * ((o**2).sum((1, 2, 3), keepdim=True) > 0),
    ),
    ("0 is divided by 0", held(lambda p, o: dot(p, o) / dot(o, o))),
]
WRONG["13.1"] = [
    ("another start than m", lambda jump, x_t, t, m, s: jump(jump(x_t, t, m), t, s)),
    ("starts from x_t again", lambda jump, x_t, t, m, s: (jump(x_t, t, m), jump(x_t, m, s))[1]),
    ("goes as far as s", lambda jump, x_t, t, m, s: jump(jump(x_t, t, s), m, s)),
    ("in the other order", lambda jump, x_t, t, m, s: jump(jump(x_t, m, s), t, m)),
    ("Only the first jump", lambda jump, x_t, t, m, s: jump(x_t, t, m)),
]
WRONG["13.2"] = [
    ("x_s itself", lambda x_t, x_s, abar_t, abar_s: x_s.clone()),
    ("is not divided by the weight", target(lambda k, x_t, x_s, a, b: x_s - k * x_t)),
    ("The whole of x_t", target(lambda k, x_t, x_s, a, b: (x_s - x_t) / (b - a * k))),
    ("Nothing of x_t", target(lambda k, x_t, x_s, a, b: x_s / (b - k * a))),
    ("weight is smaller than alpha_s", target(lambda k, x_t, x_s, a, b: (x_s - k * x_t) / b)),
    ("The roots are missing", lambda x, y, a, b: ((1 - a) * y - (1 - b) * x) / (b * (1 - a) - a * (1 - b))),
    ("This is the noise", lambda x_t, x_s, a, b: of_states(x_t, x_s, 1 - a, 1 - b)),
    ("multiplied by the estimate's", target(lambda k, x_t, x_s, a, b: (x_s - k * x_t) * (b - a * k))),
    ("there is no number", target_by_noise_levels),
    ("the target is x_s itself", lambda x_t, x_s, a, b: of_states(x_t, x_s, a, min(b, 0.99))),
]
WRONG |= WRONG_14

# What any exercise may name and SIXTY does not show: its number, words of the sentence, an answer.
GENERIC = [
    ("06.1", "gradient is 3 times", lambda x, g, a, s: x + 3 * s * (1 - a) / sqrt(a) * g),
    ("01.2", "A square root is missing before x", lambda x, a, b, e: b / a * x + sqrt(1 - b / a) * e),
    ("01.2", "The factor of eps is missing", lambda x, a, b, e: sqrt(b / a) * x + e),
    ("01.2", "The factor of x is upside down", lambda x, a, b, e: sqrt(a / b) * x + sqrt(1 - b / a) * e),
    ("01.2", "clipped to [-1, 1]", lambda x, a, b, e: (sqrt(b / a) * x + sqrt(1 - b / a) * e).clamp(-1, 1)),
    ("04.1", "x_t is changed", lambda x, s, a: x.add_((1 - a) * s).div_(sqrt(a))),
    ("02.1", "the square of the right", lambda layers: field_forwards(layers) ** 2),
    ("01.1", "The order is turned round", lambda a: (1 - a / before(a)).flip(0)),
    ("07.1", "eps_a is missing", lambda A, a, B, b, w: (B - A) * (w - a) / (b - a)),
    ("12.2", "pull less the right", lambda pull, other: pull - held_by_clamp(pull, other)),
    ("05.2", "asked at t = 0", lambda c, x, t, y: log_p_gradient(c, x, 0 * t, y)),
    ("05.1", "as with base 2", lambda z, v: F.logsigmoid(z * (2 * v - 1)) / math.log(2)),
    ("06.2", "an axis too many", lambda z, w: ls(z, w).logsumexp(1, keepdim=True)),
    ("02.2", "The axes are in another order", lambda q, k, v, h: F.scaled_dot_product_attention(q, k, v).mT),
    ("08.2", "is asked at t = ", lambda f, x, t, a, b: unchanged(f, x, t - 1, a, b)),
    ("08.2", "never asked", lambda f, x, t, a, b: 2 * x),
    ("08.2", "about another image", lambda f, x, *more: unchanged(lambda x, t: f(x / 2, t), x, *more)),
    ("07.2", "for the labels", lambda m, x, t, y, n, w: sum(pair(m, x, t, y, y)) / 2 * w),
    ("07.2", "in the same order", lambda m, x, t, y, n, w: torch.lerp(*pair(m, x, t, y, n.flip(0)), w)),
    ("07.2", "is asked 2 times", lambda m, x, t, y, n, w: torch.lerp(m(x, t, n), m(x, t, y), w)),
    ("12.1", "And the sign is turned round", wishes(lambda z, value: -F.logsigmoid(z))),
]
