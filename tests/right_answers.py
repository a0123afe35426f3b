"""Right answers to the exercises, written in another way than the solutions, which assert their own."""

import math

import torch
import torch.nn.functional as F
from blank_answers import FIVE

from lessons_lib.counterfactuals import in_8_bits
from lessons_lib.guidance import attribute_log_prob, class_log_prob
from lessons_lib.samplers import ddim_invert, sample_ddim
from lessons_lib.schedules import NoiseSchedule, predict_eps, predict_x0, q_sample


def betas_by_ratio(abar):
    return 1 - abar / torch.cat([torch.ones(1, dtype=abar.dtype), abar[:-1]])


def betas_in_a_loop(abar):
    betas, before = [], 1.0
    for now in abar.tolist():
        betas.append((before - now) / before)
        before = now
    return torch.tensor(betas)


def more_by_missing_variance(x, abar, abar_next, eps):
    shrink = abar_next**0.5 / abar**0.5
    missing = (1 - abar_next) - shrink**2 * (1 - abar)
    return shrink * x + missing**0.5 * eps


def field_forwards(layers):
    seen, jump = 1, 1
    for kernel, stride in layers:
        seen += (kernel - 1) * jump
        jump *= stride
    return seen


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


def heads_in_one_call(q, k, v, heads):
    q, k, v = (x.unflatten(2, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


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


def step_of_the_sampler(x_t, eps, abar, abar_prev, eta, noise):
    levels = torch.tensor([abar] if abar_prev == 1 else [abar_prev, abar], dtype=torch.float64)
    walk = sample_ddim(
        lambda x, t: eps, NoiseSchedule(betas_by_ratio(levels)), x_t, torch.arange(len(levels)).flip(0),
        eta=eta, noise_fn=lambda x: noise, clip_x0=False,
    )  # fmt: skip
    return next(walk).x_t


def gradient_by_backward(classifier, x_t, t, y):
    x = x_t.clone()
    with torch.enable_grad():
        x.requires_grad = True
        loss = F.cross_entropy(classifier(x, t), y, reduction="sum")
    loss.backward()
    return -x.grad


def gradient_with_vmap(classifier, x_t, t, y):
    def log_p(x, t, y):
        return classifier(x[None], t[None])[0].log_softmax(dim=0).gather(0, y[None])[0]

    return torch.func.vmap(torch.func.grad(log_p))(x_t, t, y)


@torch.enable_grad()
def gradient_with_the_library(classifier, x_t, t, y):
    x = x_t.clone().requires_grad_()
    log_p = class_log_prob(classifier, y)(x, t)
    return torch.autograd.grad(log_p, x, grad_outputs=torch.ones_like(log_p))[0]


def pull_by_way_of_eps(x_0, gradient, abar, s):
    """For any x_t: here one of zeros."""
    schedule, t, x_t = NoiseSchedule([1 - abar]), torch.zeros(len(x_0), dtype=torch.int64), 0 * x_0
    guided = predict_eps(schedule, x_t, t, x_0) - s * (1 - abar) ** 0.5 * gradient
    return predict_x0(schedule, x_t, t, guided)


def away_interleaved(model, x_t, t, y, y_not, w):
    labels = torch.stack([y_not, y], dim=1).flatten()
    eps = model(x_t.repeat_interleave(2, dim=0), t.repeat_interleave(2), labels)
    return torch.lerp(eps[::2], eps[1::2], w)


def inverse_in_xbar(eps_fn, x, t_to, abar, abar_to):
    """Euler's step in x / sqrt(abar)."""
    eps = eps_fn(x, torch.full(x.shape[:1], t_to, dtype=torch.int64))
    way = (1 / abar_to - 1) ** 0.5 - (1 / abar - 1) ** 0.5
    return abar_to**0.5 * (x / abar**0.5 + way * eps)


def error_of_8_bits(intervene, x_0, source, target):
    """Every picture in 8 bits, as the metrics have it."""
    x = in_8_bits(x_0)
    for labels in ((source, target), (target, source)):
        x = in_8_bits(intervene(x, *labels))
    return (x - in_8_bits(x_0)).abs().flatten(1).double().mean(dim=1) / 2


def heun_as_two_ddim_steps(eps_fn, x_t, t, t_next, abar, abar_next):
    """DDIM with the mean of both eps is Heun's step."""

    def ddim(eps):
        x_0 = (x_t - (1 - abar) ** 0.5 * eps) / abar**0.5
        return abar_next**0.5 * x_0 + (1 - abar_next) ** 0.5 * eps

    eps = eps_fn(x_t, t)
    eps_next = eps_fn(ddim(eps), t_next)
    return ddim((eps + eps_next) / 2)


def flip_as_in_the_lesson(x_0, generator):
    coins = torch.rand(len(x_0), generator=generator) < 0.5
    return torch.where(coins[:, None, None, None], x_0.flip(3), x_0)


def front_as_in_the_lesson(rows):
    def beats(other, row):
        as_good = other["accuracy"] >= row["accuracy"] and other["fid"] <= row["fid"]
        return as_good and (other["accuracy"] > row["accuracy"] or other["fid"] < row["fid"])

    return [row for row in rows if not any(beats(other, row) for other in rows)]


def front_by_sweep(rows):
    """From the best accuracy down: a row stays if it is nearer than all that are more accurate."""
    best, last, stays = math.inf, math.inf, set()
    for accuracy in sorted({row["accuracy"] for row in rows}, reverse=True):
        nearest = min(row["fid"] for row in rows if row["accuracy"] == accuracy)
        best, last = min(best, nearest), best
        if nearest < last:
            stays.add((accuracy, nearest))
    return [row for row in rows if (row["accuracy"], row["fid"]) in stays]


def held_by_clamp(pull, other):
    p, o = pull.flatten(1), other.flatten(1)
    k = (p * o).sum(1, keepdim=True) / (o**2).sum(1, keepdim=True).clamp(min=1e-12)
    return (p - k * o).view_as(pull)


def jumps_in_a_loop(jump, x_t, t, m, s):
    for begin, end in ((t, m), (m, s)):
        x_t = jump(x_t, begin, end)
    return x_t


def target_without_the_noise(x_t, x_s, abar_t, abar_s):
    """Both states share their noise: it drops out of a difference."""
    sigma_t, sigma_s = (1 - abar_t) ** 0.5, (1 - abar_s) ** 0.5
    return (sigma_t * x_s - sigma_s * x_t) / (sigma_t * abar_s**0.5 - sigma_s * abar_t**0.5)


RIGHT = {
    "00.1": (lambda x: x * 0.5 + 0.5, lambda x: torch.clip((1 + x) / 2, 0, 1)),
    "01.1": (betas_by_ratio, betas_in_a_loop),
    "01.2": (more_by_missing_variance,),
    "02.1": (field_forwards, field_by_gradient),
    "02.2": (heads_in_one_call,),
    "03.1": (loss_as_in_the_lesson, loss_by_hand),
    "03.2": (losses_in_one_batch,),
    "04.1": (x0_of_score, x0_by_way_of_eps),
    "04.2": (step_as_in_the_paper, step_of_the_sampler),
    "05.1": (lambda logit, y: attribute_log_prob(lambda x_t, t: logit[:, None], 0, y)(logit, None),),
    "05.2": (gradient_by_backward, gradient_with_vmap, gradient_with_the_library),
    "06.1": (pull_by_way_of_eps,),
    "06.2": (lambda z, w: torch.where(w, z, -torch.inf).logsumexp(1) - torch.logsumexp(z, 1),),
    "07.1": (lambda eps_a, a, eps_b, b, w: eps_b + (eps_a - eps_b) / (a - b) * (w - b),),
    "07.2": (away_interleaved,),
    "08.1": (
        lambda x_T, K: (
            torch.stack([x for x in x_T for _ in range(K)]),
            torch.tensor([*range(K)] * len(x_T)),
        ),
    ),
    "08.2": (inverse_in_xbar,),
    "09.1": (error_of_8_bits,),
    "09.2": (lambda *given: list(ddim_invert(*given))[-1].x_t,),
    "10.1": (lambda steps, errors: math.log(errors[0] / errors[-1]) / math.log(steps[-1] / steps[0]),),
    "10.2": (heun_as_two_ddim_steps,),
    "11.1": (lambda a, n: torch.sigmoid(torch.logit(a) - 2 * math.log(n)),),
    "11.2": (
        flip_as_in_the_lesson,
        lambda x_0, g: torch.stack([x.flip(-1) if torch.rand(1, generator=g) > 0.5 else x for x in x_0]),
    ),
    "11.3": (front_as_in_the_lesson, front_by_sweep),
    "12.1": (
        lambda z, wanted: sum(attribute_log_prob(lambda x_t, t: z, i, v)(z, None) for i, v in wanted.items()),
    ),
    "12.2": (held_by_clamp,),
    "13.1": (jumps_in_a_loop,),
    "13.2": (target_without_the_noise,),
    **FIVE,
}
