"""Lesson 14 answered five times, each in another structure than the solutions; and wrong in other ways."""

import copy
import itertools
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn


# ---- one: generators, the loss from a helper, Adam ----
def noised(x_0, abar):
    t = torch.randint(0, len(abar), (len(x_0),))
    eps = torch.randn_like(x_0)
    a = abar[t].view(-1, 1, 1, 1)
    return (a.sqrt() * x_0 + (1 - a).sqrt() * eps).to(eps), t, eps


def sample_yields(eps_fn, abar, x_T, timesteps):
    x, ts = x_T, [int(t) for t in timesteps] + [-1]
    for t, s in itertools.pairwise(ts):
        with torch.no_grad():
            eps = eps_fn(x, torch.full((x.shape[0],), t))
        a, b = abar[t].item(), abar[s].item() if s >= 0 else 1.0
        x = math.sqrt(b / a) * x + (math.sqrt(1 - b) - math.sqrt(b * (1 - a) / a)) * eps
        yield x


def cfg_two_calls(model, y, w):
    return lambda x_t, t: (1 - w) * model(x_t, t, None) + w * model(x_t, t, y)


def guided_by_grad(eps_fn, classifier, y, s, abar):
    def guided(x_t, t):
        with torch.enable_grad():
            x = x_t.detach().clone().requires_grad_(True)
            chosen = classifier(x, t).log_softmax(dim=-1)[torch.arange(len(y)), y].sum()
            (slope,) = torch.autograd.grad(chosen, x)
        sigma = (1 - abar[t]).sqrt().view(-1, *[1] * (x_t.ndim - 1)).to(x_t)
        return eps_fn(x_t, t) - s * sigma * slope

    return guided


def loss_with_coin(model, x_0, y, abar):
    x_t, t, eps = noised(x_0, abar)
    return F.mse_loss(model(x_t, t, y.where(torch.rand(len(y)) > 0.1, torch.tensor(model.null_label))), eps)


def train_plainly(network, loss_fn, images, labels, steps):
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    for _ in range(steps):
        chosen = torch.randint(0, len(images), (32,))
        optimizer.zero_grad()
        loss = loss_fn(network, images[chosen], labels[chosen])
        loss.backward()
        optimizer.step()
        yield loss.item()


class Told(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.body = nn.Conv2d(1, 16, 5, stride=3)
        self.time = nn.Linear(1, 16)
        self.head = nn.Linear(16 * 64, classes)

    def forward(self, x_t, t):
        return self.head((self.body(x_t) + self.time(t[:, None] / 1000)[..., None, None]).relu().flatten(1))


# ---- two: classes with __call__, a list of tuples, epochs ----
class Step(NamedTuple):
    t: int
    x_t: torch.Tensor
    x_0: torch.Tensor


@torch.no_grad()
def sample_steps(eps_fn, abar, x_T, timesteps):
    x_t, steps, ts = x_T.clone(), [], list(map(int, timesteps))
    for k, t in enumerate(ts):
        eps = eps_fn(x_t, torch.tensor([t] * len(x_t)))
        x_0 = (x_t - (1 - abar[t]) ** 0.5 * eps) / abar[t] ** 0.5
        last = k == len(ts) - 1
        x_t = x_0 if last else abar[ts[k + 1]] ** 0.5 * x_0 + (1 - abar[ts[k + 1]]) ** 0.5 * eps
        steps.append(Step(t, x_t, x_0))
    return steps


class Cfg:
    def __init__(self, model, y, w):
        self.model, self.y, self.w = model, y, w

    def __call__(self, x_t, t):
        null = torch.full_like(self.y, self.model.null_label)
        both = self.model(torch.cat([x_t, x_t]), torch.cat([t, t]), torch.cat([null, self.y]))
        untold, told = both.tensor_split(2)
        return torch.lerp(untold, told, self.w)


class Guided:
    def __init__(self, eps_fn, classifier, y, s, abar):
        self.eps_fn, self.classifier, self.y, self.s, self.abar = eps_fn, classifier, y, s, abar

    @torch.enable_grad()
    def score(self, x_t, t):
        x_t = x_t.detach().requires_grad_()
        F.cross_entropy(self.classifier(x_t, t), self.y, reduction="sum").backward()
        return -x_t.grad

    def __call__(self, x_t, t):
        noise = torch.sqrt(1 - self.abar[t])
        pushes = [n * one for n, one in zip(noise, self.score(x_t.clone(), t), strict=True)]
        return self.eps_fn(x_t, t) - self.s * torch.stack(pushes)


def cosine(T):
    f = torch.cos((torch.arange(T + 1) / T + 0.008) / 1.008 * math.pi / 2) ** 2
    return (f[1:] / f[0]).clamp(min=1e-5)


def loss_image_by_image(model, x_0, y, abar):
    t, eps, y = torch.randint(len(abar), y.shape), torch.randn(x_0.shape), y.clone()
    x_t = torch.stack(
        [abar[i].sqrt() * x + (1 - abar[i]).sqrt() * e for x, i, e in zip(x_0, t, eps, strict=True)]
    )
    y[torch.rand(len(y)) < 0.15] = model.null_label
    return ((model(x_t.to(x_0), t, y) - eps) ** 2).mean()


def train_in_epochs(network, loss_fn, images, labels, steps):
    optimizer, done = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9), 0
    while done < steps:
        for places in torch.randperm(len(images)).split(16)[: steps - done]:
            loss = loss_fn(network, images[places], labels[places])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            done += 1
            yield float(loss.detach())


def classifier_of_sines(num_classes):
    class Sines(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(1, 8, 3, 2), nn.Conv2d(8, 16, 3, 2)
            self.film, self.out = nn.Linear(8, 16), nn.Linear(16, num_classes)

        def forward(self, x_t, t):
            angles = t[:, None].float() * 0.01 ** torch.arange(4)
            told = self.film(torch.cat([angles.sin(), angles.cos()], 1))[:, :, None, None]
            return self.out(F.silu(self.b(F.silu(self.a(x_t))) * (1 + told)).mean((2, 3)))

    return Sines()


# ---- three: the way in x / sqrt(abar), an average of the weights, t as a picture of its own ----
def sample_in_xbar(eps_fn, abar, x_T, timesteps):
    sigma = ((1 - abar) / abar).sqrt()
    xbar, states, ts = x_T / abar[timesteps[0]].sqrt(), [x_T], timesteps.tolist()
    with torch.no_grad():
        for k, t in enumerate(ts):
            eps = eps_fn(xbar * abar[t].sqrt(), torch.full(x_T.shape[:1], t))
            then = sigma[ts[k + 1]] if k + 1 < len(ts) else 0
            xbar = xbar + (then - sigma[t]) * eps
            states.append(xbar * abar[ts[k + 1]].sqrt() if k + 1 < len(ts) else xbar)
    return torch.stack(states)


def cfg_weighted(model, y, w):
    def eps_fn(x_t, t):
        with torch.no_grad():
            untold, told = model(x_t, t, y * 0 + model.null_label), model(x_t, t, y)
        return sum(weight * eps for weight, eps in ((1 - w, untold), (w, told)))

    return eps_fn


def guided_functionally(eps_fn, classifier, y, s, abar):
    def guided(x_t, t):
        def log_p(x):
            logits = classifier(x, t)
            return (logits.gather(1, y[:, None])[:, 0] - logits.logsumexp(1)).sum()

        with torch.enable_grad():
            slope = torch.autograd.functional.vjp(log_p, x_t)[1]
        return eps_fn(x_t, t) - torch.einsum("b,b...->b...", (s * (1 - abar[t]) ** 0.5).to(slope), slope)

    return guided


def sigmoid_schedule(T):
    return torch.sigmoid(torch.linspace(5, -6, T))


def loss_in_parts(model, x_0, y, abar):
    B, told = len(x_0), y.clone()
    for i in range(B):
        if torch.rand(()) < 0.1:
            told[i] = model.null_label
    x_t, t, eps = noised(x_0, abar)
    return (model(x_t, t, told) - eps).flatten(1).pow(2).mean(1).mean()


def train_averaged(network, loss_fn, images, labels, steps):
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    average = copy.deepcopy(network)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0.01, steps)
    for step in range(steps):
        keep = torch.randperm(len(images))[:64]
        loss = loss_fn(network, images[keep], labels[keep])
        loss.backward()
        optimizer.step(), optimizer.zero_grad(), schedule.step()
        for mean, weight in zip(average.parameters(), network.parameters(), strict=True):
            mean.data.lerp_(weight.data, max(0.01, 1 / (step + 1)))
        yield loss.detach()


def classifier_with_t_as_a_channel(num_classes):
    class Channel(nn.Sequential):
        def forward(self, x_t, t):
            told = (t / 1000).view(-1, 1, 1, 1).expand_as(x_t)
            return super().forward(torch.cat([x_t, told], dim=1))

    layers = nn.Conv2d(2, 8, 3, 2), nn.SiLU(), nn.Conv2d(8, 8, 3, 2), nn.SiLU(), nn.Flatten()
    return Channel(*layers, nn.Linear(8 * 36, num_classes))


# ---- four: recursion, betas one by one, a plain network ----
def sample_recursively(eps_fn, abar, x_T, timesteps):
    if len(timesteps) == 0:
        return [x_T]
    t, *rest = timesteps.tolist()
    a, b = abar[t], abar[rest[0]] if rest else torch.ones(())
    with torch.no_grad():
        eps = eps_fn(x_T, x_T.new_full((len(x_T),), t, dtype=torch.long))
    x = b.sqrt() * (x_T - (1 - a).sqrt() * eps) / a.sqrt() + (1 - b).sqrt() * eps
    return [x_T, *sample_recursively(eps_fn, abar, x, timesteps[1:])]


def cfg_in_two_lines(model, y, w):
    def push(x_t, t):
        return model(x_t, t, y) - model(x_t, t)

    return lambda x_t, t: model(x_t, t) + w * push(x_t, t)


def guided_sample_by_sample(eps_fn, classifier, y, s, abar):
    def guided(x_t, t):
        eps = eps_fn(x_t, t).clone()
        for i in range(len(x_t)):
            with torch.enable_grad():
                x = x_t[i : i + 1].clone().requires_grad_()
                classifier(x, t[i : i + 1]).log_softmax(1)[0, y[i]].backward()
            eps[i] -= s * (1 - abar[t[i]]) ** 0.5 * x.grad[0]
        return eps

    return guided


def betas_in_a_row(T):
    left, found = 1.0, []
    for k in range(T):
        left *= 1 - (1e-4 + (0.02 - 1e-4) * k / (T - 1))
        found.append(left)
    return torch.tensor(found)


def plain_classifier(num_classes):
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.layers = nn.Embedding(1000, 12), nn.Linear(784 + 12, num_classes)

        def forward(self, x_t, t):
            return self.layers(torch.cat([x_t.flatten(1), self.table(t)], 1))

    return Plain()


# ---- five: float32 throughout, a function for each part, the picture alone ----
def sample_the_picture(eps_fn, abar, x_T, timesteps):
    alpha, sigma = abar.float().sqrt(), (1 - abar).float().sqrt()
    x = x_T.clone()
    with torch.no_grad():
        for k in range(len(timesteps)):
            t = int(timesteps[k])
            eps = eps_fn(x, torch.full((len(x),), t))
            guess = (x - sigma[t] * eps) / alpha[t]
            if k + 1 == len(timesteps):
                return guess
            x = alpha[timesteps[k + 1]] * guess + sigma[timesteps[k + 1]] * eps


def loss_of_classes_by_hand(classifier, x_0, y, abar):
    x_t, t, _ = noised(x_0, abar)
    return -classifier(x_t, t).log_softmax(1)[range(len(y)), y].mean()


def loss_of_classes(classifier, x_0, y, abar):
    x_t, t, _ = noised(x_0, abar)
    return F.cross_entropy(classifier(x_t, t), y)


def linear(T):
    return (1 - torch.linspace(1e-4, 0.02, T, dtype=torch.float64)).cumprod(0)


FIVE = {
    "14.1": (sample_yields, sample_steps, sample_in_xbar, sample_recursively, sample_the_picture),
    "14.2": (cfg_two_calls, Cfg, cfg_weighted, cfg_in_two_lines),
    "14.3": (guided_by_grad, Guided, guided_functionally, guided_sample_by_sample),
    "14.4": (linear, cosine, sigmoid_schedule, betas_in_a_row),
    "14.5": (loss_with_coin, loss_image_by_image, loss_in_parts),
    "14.6": (train_plainly, train_in_epochs, train_averaged),
    "14.7": (loss_of_classes, loss_of_classes_by_hand),
    "14.8": (Told, classifier_of_sines, classifier_with_t_as_a_channel, plain_classifier),
}


# ---- wrong ones: words of the sentence, and the answer ----
def sampler(x_0=None, keep=None, last=True, then=None):
    """A sampler right but for what is handed in."""

    def sample(eps_fn, abar, x_T, timesteps):
        x, ts = x_T, timesteps.tolist()
        for t, s in zip(ts, then(ts) if then else [*ts[1:], None][: None if last else -1], strict=False):
            eps = eps_fn(x, torch.full((len(x),), t))
            a, b = abar[t], torch.tensor(1.0) if s is None else abar[s]
            guess = (x_0 or (lambda x, eps, a: (x - (1 - a).sqrt() * eps) / a.sqrt()))(x, eps, a)
            x = (keep or (lambda g, eps, a, b: b.sqrt() * g + (1 - b).sqrt() * eps))(guess, eps, a, b)
        return x

    return sample


def ddpm(eps_fn, abar, x_T, timesteps):
    x = x_T
    for t in timesteps.tolist():
        x = x - 0.1 * eps_fn(x, torch.full((len(x),), t)) + 0.1 * torch.randn_like(x)
    return [x]


def one_t(eps_fn, abar, x_T, timesteps):
    return [x_T - eps_fn(x_T, timesteps[0])]


def guided_with(log_p, factor, sign=-1):
    def with_classifier(eps_fn, classifier, y, s, abar):
        def guided(x_t, t):
            with torch.enable_grad():
                x = x_t.clone().requires_grad_()
                (slope,) = torch.autograd.grad(log_p(classifier(x, t), y), x)
            return eps_fn(x_t, t) + sign * s * factor(abar[t])[:, None].to(x_t) * slope

        return guided

    return with_classifier


def root(a):
    return (1 - a).sqrt()


def chosen(logits, y):
    return logits[torch.arange(len(y)), y]


def under_no_grad(eps_fn, classifier, y, s, abar):
    def guided(x_t, t):
        x = x_t.clone().requires_grad_()
        return eps_fn(x_t, t) - s * torch.autograd.grad(classifier(x, t).sum(), x)[0]

    return guided


def with_graph(eps_fn, classifier, y, s, abar):
    def guided(x_t, t):
        with torch.enable_grad():
            return eps_fn(x_t.clone().requires_grad_(), t)

    return guided


def loss_told(tell):
    def denoising_loss(model, x_0, y, abar):
        x_t, t, eps = noised(x_0, abar)
        return F.mse_loss(model(x_t, t, tell(y)), eps)

    return denoising_loss


def coin(rate, y, *shape):
    return torch.where(torch.rand(shape or (len(y),)) < rate, 7, y)


def loss_of(measure, mix=None):
    def denoising_loss(model, x_0, y, abar):
        x_t, t, eps = (mix or noised)(x_0, abar)
        return measure(model(x_t, t, coin(0.1, y)), eps)

    return denoising_loss


def mixed(t_of=None, factor=lambda a: (a.sqrt(), (1 - a).sqrt()), told=lambda t: t):
    def mix(x_0, abar):
        t = torch.randint(len(abar), (len(x_0),)) if t_of is None else t_of(x_0, abar)
        eps, (a, b) = torch.randn_like(x_0), factor(abar[t].view(-1, 1, 1, 1))
        return (a * x_0 + b * eps).float(), told(t), eps

    return mix


def loop(
    zero=True, step=True, pick=None, told=lambda labels, k: labels[k], out=lambda loss: loss.item(), lr=2e-3
):
    def train(network, loss_fn, images, labels, steps):
        optimizer = torch.optim.SGD(network.parameters(), lr)
        for _ in range(steps):
            k = torch.randint(len(images), (16,)) if pick is None else pick
            loss = loss_fn(network, images[k], told(labels, k))
            if zero:
                optimizer.zero_grad()
            loss.backward()
            if step:
                optimizer.step()
            yield out(loss)

    return train


def returns_losses(*given):
    return list(loop()(*given))


def all_before(*given):
    yield from list(loop()(*given))


def one_loss_too_few(network, loss_fn, images, labels, steps):
    return loop()(network, loss_fn, images, labels, steps - 1)


class Reader(nn.Module):
    """Right but for what is handed in."""

    def __init__(self, classes, answer=lambda z: z, told=True, first=None):
        super().__init__()
        self.first, self.time = first or nn.Identity(), nn.Linear(1, 784)
        self.head, self.answer, self.told = nn.Linear(784, classes), answer, told

    def forward(self, x_t, t):
        h = self.first(x_t).flatten(1) + self.told * self.time(t[:, None] / 1000)
        return self.answer(self.head(h.tanh()))


class OverTheBatch(nn.Module):
    def forward(self, x_t):
        return x_t - x_t.mean(0)


WRONG_14 = {
    "14.1": [
        ("the state becomes float64", lambda f, a, x, ts: sample_steps(f, a, x.double(), ts)),
        ("by torch.no_grad", torch.inference_mode()(sample_the_picture)),
        ("goes to t - 1", sampler(then=lambda ts: [t - 1 for t in ts])),
        ("ends before the picture", sampler(last=False)),
        ("is clipped", sampler(lambda x, eps, a: ((x - root(a) * eps) / a.sqrt()).clamp(-1, 1))),
        (
            "roots are missing",
            sampler(lambda x, e, a: (x - (1 - a) * e) / a, lambda g, e, a, b: b * g + (1 - b) * e),
        ),
        ("not divided by sqrt(abar_t)", sampler(lambda x, eps, a: x - root(a) * eps)),
        ("holds no noise", sampler(keep=lambda g, eps, a, b: b.sqrt() * g)),
        ("as strong as at t", sampler(keep=lambda g, eps, a, b: b.sqrt() * g + root(a) * eps)),
        ("draw no random numbers", ddpm),
        ("takes t of shape [B]", one_t),
        ("is asked at t =", lambda f, a, x, ts: sampler()(f, a, x, ts[1:])),
        ("the picture last", lambda eps_fn, abar, x_T, timesteps: {"x_0": x_T}),
    ],
    "14.2": [
        ("off by one", lambda m, y, w: lambda x, t: (1 + w) * m(x, t, y) - w * m(x, t)),
        ("changed places", lambda m, y, w: lambda x, t: m(x, t, y) + w * (m(x, t) - m(x, t, y))),
        ("wrong way", lambda m, y, w: lambda x, t: m(x, t) - w * (m(x, t, y) - m(x, t))),
        ("Only the difference", lambda m, y, w: lambda x, t: w * (m(x, t, y) - m(x, t))),
        ("w times the told answer", lambda m, y, w: lambda x, t: m(x, t) + w * m(x, t, y)),
        ("Return a function", lambda m, y, w: w),
        ("in the shape of x_t", lambda m, y, w: lambda x, t: m(x, t)[0]),
    ],
    "14.3": [
        ("averaged", guided_with(lambda z, y: chosen(z.log_softmax(1), y).mean(), root)),
        (
            "square root is missing",
            guided_with(lambda z, y: chosen(z.log_softmax(1), y).sum(), lambda a: 1 - a),
        ),
        (
            "far too strong",
            guided_with(lambda z, y: -F.cross_entropy(z, y, reduction="sum"), torch.ones_like),
        ),
        ("that of the picture", guided_with(lambda z, y: chosen(z.log_softmax(1), y).sum(), torch.sqrt)),
        ("goes away from y", guided_with(lambda z, y: chosen(z.log_softmax(1), y).sum(), root, 1)),
        ("of the logit alone", guided_with(lambda z, y: chosen(z, y).sum(), root)),
        ("of the probability", guided_with(lambda z, y: chosen(z.softmax(1), y).sum(), root)),
        ("one more than it says", lambda f, c, y, s, a: guided_by_grad(f, c, y, s + 1, a)),
        ("open torch.enable_grad()", under_no_grad),
        ("carries the graph", with_graph),
        ("eps becomes float64", lambda f, c, y, s, a: lambda x, t: f(x, t) - s * a[t][:, None] * x),
    ],
    "14.4": [
        ("falls from 1 to 0", lambda T: torch.linspace(1e-4, 0.02, T)),
        ("between 0 and 1", lambda T: torch.linspace(1, -1, T)),
        ("0.980 is left", lambda T: 1 - torch.linspace(1e-4, 0.02, T)),
        ("must be nearly 1", lambda T: linear(T) * 0.8),
        ("by at most 0.05", lambda T: (torch.arange(T) < T // 2).float()),
        ("cannot divide by its root", lambda T: torch.linspace(1, 0, T)),
        ("[1000], that is [T], got [1001]", lambda T: linear(T + 1)),
    ],
    "14.5": [
        ("No label is ever dropped", loss_told(lambda y: y)),
        ("More than half", loss_told(lambda y: coin(0.9, y))),
        ("a coin of its own", loss_told(lambda y: coin(0.5, y, 1))),
        ("never told y", loss_told(lambda y: None)),
        ("another's label", loss_told(lambda y: coin(0.1, y.flip(0)))),
        ("squared errors are added", loss_of(lambda guess, eps: ((guess - eps) ** 2).sum())),
        ("absolute error", loss_of(lambda guess, eps: F.l1_loss(guess, eps))),
        ("is it mean (guess - eps)²?", loss_of(lambda guess, eps: ((guess - eps) ** 2).mean() + 1)),
        (
            "One t for the whole batch",
            loss_of(F.mse_loss, mixed(lambda x, a: torch.randint(5, (1,)).expand(len(x)))),
        ),
        ("with both roots", loss_of(F.mse_loss, mixed(factor=lambda a: (a, 1 - a)))),
        ("told another t", loss_of(F.mse_loss, mixed(told=lambda t: t.flip(0)))),
        ("shown the clean x_0", loss_of(F.mse_loss, mixed(factor=lambda a: (1, 0)))),
        ("carries no gradient", loss_of(lambda guess, eps: F.mse_loss(guess, eps).detach())),
        ("x_t becomes float64", lambda m, x, y, a: loss_in_parts(m, x.double(), y, a)),
        ("asked once", lambda m, x, y, a: loss_in_parts(m, x, y, a) + loss_in_parts(m, x, y, a)),
        ("caller's y", loss_told(lambda y: y.fill_(7))),
    ],
    "14.6": [
        ("add up", loop(zero=False)),
        ("does not fall", loop(step=False)),
        ("Hardly any images", loop(pick=torch.arange(16))),
        ("do not belong together", loop(told=lambda labels, k: labels[:16])),
        ("yield loss.item()", loop(out=lambda loss: loss)),
        ("yield loss.item()", returns_losses),
        ("comes after many steps", all_before),
        ("150 steps were asked for", one_loss_too_few),
    ],
    "14.7": [
        ("take their mean", lambda c, x, y, a: len(y) * loss_of_classes(c, x, y, a)),
        ("softmax of its own", lambda c, x, y, a: loss_of_classes(lambda *g: c(*g).softmax(1), x, y, a)),
        ("sign is turned", lambda c, x, y, a: -loss_of_classes(c, x, y, a)),
        ("shown the clean x_0", lambda c, x, y, a: F.cross_entropy(c(x, noised(x, a)[1]), y)),
        ("carries no gradient", lambda c, x, y, a: loss_of_classes(c, x, y, a).item()),
    ],
    "14.8": [
        ("not told t", lambda K: Reader(K, told=False)),
        ("depends on the others", lambda K: Reader(K, first=OverTheBatch())),
        ("Its answers are probabilities", lambda K: Reader(K, answer=lambda z: z.softmax(1))),
        ("no gradient in x_t", lambda K: Reader(K, first=nn.Identity(), answer=lambda z: z.detach())),
        ("[3, 7]", lambda K: Reader(10)),
        ("Return a torch.nn.Module", lambda K: Reader),
    ],
}
