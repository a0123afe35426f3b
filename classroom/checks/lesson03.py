"""Exercises of lesson 03, training: repair a loss, and measure the loss at each timestep.

Both hand the learner's function a fake network that writes down what it is asked. From x_t, t and the clean
images the check works out which noise was mixed in, so it need not know how the learner drew it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from classroom.checks.judging import Exercise, NotUsable, Unfinished, Wrong, close, expect_tensor
from lessons_lib.schedules import NoiseSchedule, q_sample

# So many samples and pixels that every statistic below is decided by more than six standard errors.
BATCH, SHAPE = 256, (2, 3, 5)
CALLS = 8
# Few timesteps, far apart in noise, so that a wrong one shows at once.
BETAS = (0.05, 0.2, 0.4, 0.5, 0.6)

LOSS = {
    "one t": "One t for the whole batch: every image needs a t of its own, so t must have shape [B].",
    "t = 0": "t is always 0: draw it from 0 … T-1, a new one for each image.",
    "last t": "The last timestep T-1 is never drawn: torch.randint(high) stops at high - 1 by itself.",
    "first t": "t = 0 is never drawn: the timesteps run from 0 to T-1.",
    "uneven t": "Some timesteps are drawn more often than others: draw t uniformly from 0 … T-1.",
    "clean": "The model is shown the clean x_0: it must be shown the noisy x_t.",
    "noise only": "The model is shown noise without the image: mix both into x_t with q_sample.",
    "root": "A square root is missing in x_t: it is sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps.",
    "other t": "The model is told another t than the one with which x_t was made.",
    "uniform": "The noise is uniform (torch.rand): eps must be standard normal, which is torch.randn.",
    "same noise": "The same noise is used for every image of the batch: eps needs the shape of x_0.",
    "x_0": "The answer is compared with x_0: the model guesses the noise, so compare it with eps.",
    "x_t": "The answer is compared with x_t: the model guesses the noise, so compare it with eps.",
    "sum": "The squared errors are added up: take their mean, or the loss grows with batch and image size.",
    "not reduced": "The loss must be one number: take the mean over batch, channels and pixels.",
    "root of loss": "The square root of the mean is returned: the loss is the mean squared error itself.",
    "absolute": "The absolute error is returned: square the difference before the mean.",
    "detached": "The loss carries no gradient: no .item(), .detach() or no_grad, or nothing can be learned.",
    "generator": "The generator is not used: hand it to every random draw, so that a run can be repeated.",
}


class Call(NamedTuple):
    """One question to the fake network, in float64: x_t [B, C, H, W], t as given, and its answer."""

    x_t: Tensor
    t: Tensor
    answer: Tensor


class Recorder(nn.Module):
    """A network that answers with a fixed function of x_t and t and remembers every call."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.5))
        self.calls: list[Call] = []

    def forward(self, x_t: Tensor, t: Tensor, y: Any = None) -> Tensor:
        _check_question(x_t, t, LOSS["one t"])
        answer = self.scale * x_t + 0.1 * t.view(-1, 1, 1, 1)
        self.calls.append(Call(x_t.detach().double(), t.detach().clone(), answer.detach().double()))
        return answer


class Observed(NamedTuple):
    """One call of the learner's loss on given images."""

    x_t: Tensor
    t: Tensor
    answer: Tensor
    loss: Any


def _check_question(x_t: Any, t: Any, one_t: str) -> None:
    if not isinstance(x_t, Tensor) or x_t.ndim != 4:
        raise Wrong("The model must be asked with (x_t, t), x_t of shape [B, C, H, W].")
    if not isinstance(t, Tensor) or t.numel() == 1:
        raise Wrong(one_t)
    if tuple(t.shape) != (len(x_t),):
        raise Wrong(f"The model's t must have shape [B], here [{len(x_t)}], got {list(t.shape)}.")
    if t.is_floating_point() or t.is_complex():
        raise Wrong(
            "The model's t must hold whole numbers (int64), as torch.randint and torch.full give them."
        )


def _tiny_schedule() -> NoiseSchedule:
    return NoiseSchedule(torch.tensor(BETAS, dtype=torch.float64))


def _ask(function: Callable, x_0: Tensor, seed: int, global_seed: int = 0) -> Observed:
    model = Recorder()
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(global_seed)
        loss = function(model, _tiny_schedule(), x_0.clone(), torch.Generator().manual_seed(seed))
    if loss is ...:
        raise Unfinished
    if loss is None:
        raise NotUsable("Your function returns nothing: is the `return` missing?")
    if len(model.calls) != 1:
        times = f"asked {len(model.calls)} times" if model.calls else "never asked"
        raise Wrong(f"The model is {times}: one question, model(x_t, t), is needed.")
    (call,) = model.calls
    if call.x_t.shape != x_0.shape:
        raise Wrong(f"x_t must have the shape of x_0, {list(x_0.shape)}, got {list(call.x_t.shape)}.")
    return Observed(*call, loss)


def examine_loss(function: Callable) -> str:
    """Exercise 03.1."""
    x_0 = 1.5 + torch.rand(BATCH, *SHAPE, generator=torch.Generator().manual_seed(1))  # nowhere near 0
    noisy = [_ask(function, x_0, seed) for seed in range(CALLS)]
    # The same draws on x_0 = 0: what is left is the noise part of x_t, and the difference is the signal part.
    blank = [_ask(function, torch.zeros_like(x_0), seed) for seed in range(CALLS)]
    _check_t([seen.t for seen in noisy])
    x_t, t = torch.cat([seen.x_t for seen in noisy]), torch.cat([seen.t for seen in noisy])
    noise_part = torch.cat([seen.x_t for seen in blank])
    if close(x_t, x_0.double().repeat(CALLS, 1, 1, 1)):
        raise Wrong(LOSS["clean"])
    eps = _check_mixture(x_t, t, noise_part, x_0.double().repeat(CALLS, 1, 1, 1))
    _check_noise(eps.view(CALLS, BATCH, *SHAPE))
    for seen, own_eps in zip(noisy, eps.split(BATCH), strict=True):
        _check_loss(seen, x_0.double(), own_eps)
    again = _ask(function, x_0, seed=0, global_seed=1)
    if not close(again.x_t, noisy[0].x_t) or not torch.equal(again.t, noisy[0].t):
        raise Wrong(LOSS["generator"])
    return (
        "Every image has its own t and its own noise, and the model is judged by the noise that it guessed."
    )


def _check_t(ts: list[Tensor]) -> None:
    total, t = len(BETAS), torch.cat(ts)
    if bool((t == 0).all()):
        raise Wrong(LOSS["t = 0"])
    if any(bool((one == one[0]).all()) for one in ts):
        raise Wrong(LOSS["one t"])
    if int(t.min()) < 0 or int(t.max()) >= total:
        raise Wrong(f"t must lie in 0 … T-1, here 0 … {total - 1}, got {int(t.min())} … {int(t.max())}.")
    counts = torch.bincount(t, minlength=total)
    if counts[-1] == 0:
        raise Wrong(LOSS["last t"])
    if counts[0] == 0:
        raise Wrong(LOSS["first t"])
    share = 1 / total
    if bool(((counts / len(t) - share).abs() > 6.5 * (share * (1 - share) / len(t)) ** 0.5).any()):
        raise Wrong(LOSS["uneven t"])


def _check_mixture(x_t: Tensor, t: Tensor, noise_part: Tensor, x_0: Tensor) -> Tensor:
    """The eps that was mixed into x_t, if both factors are right."""
    abar = _tiny_schedule().alphas_cumprod
    signal = ((x_t - noise_part) / x_0).mean(dim=(1, 2, 3))
    # Its size at each timestep, for the noise has a spread that does not depend on t.
    spread = torch.stack([noise_part[t == i].std() for i in range(len(abar))])
    relative = spread / (1 - abar).sqrt()
    if float(spread.max()) == 0:
        raise Wrong(LOSS["clean"])
    if close(signal, torch.zeros_like(signal)):
        raise Wrong(LOSS["noise only"])
    if not close(signal, abar[t].sqrt()):
        other = close((signal[:, None] - abar.sqrt()).abs().min(dim=1).values, torch.zeros_like(signal))
        told = "other t" if other else "root" if close(signal, abar[t]) else None
        raise Wrong(
            LOSS[told] if told else "x_t is not the mixture of q_sample: check what x_0 is multiplied by."
        )
    if float(relative.max() / relative.min()) > 1.15:
        plain = spread / (1 - abar)
        if float(plain.max() / plain.min()) < 1.15:
            raise Wrong(LOSS["root"])
        raise Wrong("x_t is not the mixture of q_sample: check what eps is multiplied by.")
    return noise_part / (1 - abar[t]).sqrt().view(-1, 1, 1, 1)


def _check_noise(eps: Tensor) -> None:
    """eps: [CALLS, B, C, H, W]."""
    if close(eps, eps[:, :1].expand_as(eps)):
        raise Wrong(LOSS["same noise"])
    centred = eps - eps.mean()
    kurtosis = float((centred**4).mean() / (centred**2).mean() ** 2)
    if kurtosis < 2.4:  # 3 for a normal distribution, 1.8 for a uniform one
        raise Wrong(LOSS["uniform"])
    if abs(float(eps.mean())) > 0.05 or abs(float(eps.std()) - 1) > 0.05:
        mean, std = float(eps.mean()), float(eps.std())
        raise Wrong(
            f"The noise must have mean 0 and standard deviation 1, yours has {mean:.2f} and {std:.2f}."
        )


def _check_loss(seen: Observed, x_0: Tensor, eps: Tensor) -> None:
    if isinstance(seen.loss, float | int):
        raise Wrong(LOSS["detached"])
    if isinstance(seen.loss, Tensor) and seen.loss.numel() > 1:
        raise Wrong(LOSS["not reduced"])
    value = expect_tensor(seen.loss, ())
    error = seen.answer - eps
    if not close(value, (error**2).mean()):
        raise Wrong(_name_of_loss(value, seen, x_0, error))
    if not seen.loss.requires_grad:
        raise Wrong(LOSS["detached"])


def _name_of_loss(value: Tensor, seen: Observed, x_0: Tensor, error: Tensor) -> str:
    squares, batch = error**2, len(x_0)
    named = {
        "x_0": [((seen.answer - x_0) ** 2).mean()],
        "x_t": [((seen.answer - seen.x_t) ** 2).mean()],
        "sum": [squares.sum(), squares.sum() / batch, squares.sum() / error[0].numel()],
        "root of loss": [squares.mean().sqrt()],
        "absolute": [error.abs().mean()],
    }
    for name, values in named.items():
        if any(abs(float(value - one)) < 1e-3 * abs(float(one)) for one in values):
            return LOSS[name]
    right, got = float(squares.mean()), float(value)
    return f"The loss should be {right:.4f} here, got {got:.4f}: is it the mean of (guess - eps)²?"


# ---- 03.2 ----

BY_TIMESTEP = {
    "one number": "One number is returned: a mean for each timestep is asked, in shape [len(timesteps)].",
    "no batch": "t must be a tensor of shape [B]: the network wants a t for each image, torch.full((B,), t).",
    "order": "The numbers are right and their order is not: entry i belongs to timesteps[i].",
    "clean": "The network is shown the clean x_0: show it x_t, made with q_sample at that timestep.",
    "x_0": "The answer is compared with x_0: the network guesses the noise, so compare it with eps.",
    "sum": "The squared errors are added up: take their mean over the batch and all pixels.",
    "root": "The square root of the mean is returned: the mean squared error itself is asked.",
    "absolute": "The absolute error is returned: square the difference before the mean.",
    "noise": "The noise in x_t is not standard normal: draw it with torch.randn, mix it in with q_sample.",
}
ASKED = (3, 0, 4, 1)  # in no order, so that a sorted answer shows


class Examiner:
    """An eps_fn that knows the clean image and answers with the true noise plus an error that it knows too.

    All images of the batch are the same one, so a learner may stack several timesteps into one batch.
    """

    def __init__(self, x_0: Tensor, schedule: NoiseSchedule) -> None:
        self.x_0, self.schedule = x_0, schedule
        self.calls: list[tuple[Call, Tensor]] = []

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        _check_question(x_t, t, BY_TIMESTEP["no batch"])
        if tuple(x_t.shape[1:]) != tuple(self.x_0.shape):
            raise Wrong(
                f"x_t must have shape [B, {', '.join(map(str, self.x_0.shape))}], got {list(x_t.shape)}."
            )
        abar = self.schedule.alphas_cumprod[t].view(-1, 1, 1, 1)
        eps = (x_t.detach().double() - abar.sqrt() * self.x_0) / (1 - abar).sqrt()
        answer = eps + self.error(t)
        self.calls.append((Call(x_t.detach().double(), t.detach().clone(), answer), eps))
        return answer.to(x_t.dtype)

    def error(self, t: Tensor) -> Tensor:
        """[B, C, H, W], larger the smaller t is, and another one in every pixel."""
        pattern = torch.linspace(0.1, 1, self.x_0.numel(), dtype=torch.float64).view_as(self.x_0)
        return pattern / (1 + t.double()).view(-1, 1, 1, 1)


def examine_by_timestep(function: Callable) -> str:
    """Exercise 03.2."""
    schedule, batch = _tiny_schedule(), 128
    image = torch.rand(SHAPE, generator=torch.Generator().manual_seed(2)) * 2 - 1
    eps_fn = Examiner(image.double(), schedule)
    x_0 = image.expand(batch, *SHAPE).clone()
    result = function(eps_fn, schedule, x_0, list(ASKED), torch.Generator().manual_seed(3))
    if result is ...:
        raise Unfinished
    if not eps_fn.calls and result is not None:
        raise Wrong("The network is never asked: call eps_fn(x_t, t) for each timestep.")
    if isinstance(result, float | int) or (isinstance(result, Tensor) and result.ndim == 0):
        raise Wrong(BY_TIMESTEP["one number"])
    if isinstance(result, list | tuple):
        raise Wrong(
            "Your function returns a list: torch.stack or torch.tensor makes the tensor that is asked."
        )
    value = expect_tensor(result, (len(ASKED),), "[len(timesteps)]")
    expected = (eps_fn.error(torch.tensor(ASKED)) ** 2).mean(dim=(1, 2, 3))
    _check_shown(eps_fn)
    if not close(value, expected):
        raise Wrong(_name_of_losses(value, expected, eps_fn))
    return "The closer t is to 0, the harder the noise is to see, and the larger the error."


def _check_shown(eps_fn: Examiner) -> None:
    for call, eps in eps_fn.calls:
        if close(call.x_t, eps_fn.x_0.expand_as(call.x_t)):
            raise Wrong(BY_TIMESTEP["clean"])
        # 128 images of 30 pixels: six standard errors are 0.1 for the mean and 0.07 for the spread.
        if abs(float(eps.mean())) > 0.12 or abs(float(eps.std()) - 1) > 0.12:
            raise Wrong(BY_TIMESTEP["noise"])


def _name_of_losses(value: Tensor, expected: Tensor, eps_fn: Examiner) -> str:
    if close(value.sort().values, expected.sort().values):
        return BY_TIMESTEP["order"]
    for t, entry, right in zip(ASKED, value, expected, strict=True):
        call, eps = next(seen for seen in eps_fn.calls if bool((seen[0].t == t).any()))
        rows = call.t == t
        error, answer = (call.answer - eps)[rows], call.answer[rows]
        named = {
            "x_0": [((answer - eps_fn.x_0) ** 2).mean()],
            "sum": [(error**2).sum(), (error**2).sum() / len(error), (error**2).sum() / error[0].numel()],
            "root": [right.sqrt()],
            "absolute": [error.abs().mean()],
        }
        for name, values in named.items():
            if any(abs(float(entry - one)) < 1e-3 * abs(float(one)) for one in values):
                return BY_TIMESTEP[name]
    right, got = float(expected[0]), float(value[0])
    return f"At t={ASKED[0]} the mean squared error should be {right:.4f}, got {got:.4f}."


def noising_loss(model, schedule, x_0, generator):
    """The function that 03.1 asks to repair, as the lesson gives it."""
    t = torch.randint(schedule.num_timesteps, (1,), generator=generator).expand(len(x_0))
    eps = torch.randn(x_0.shape, generator=generator)
    x_t = q_sample(schedule, x_0, t, eps)
    return ((model(x_t, t) - eps) ** 2).mean()


EXERCISES = (
    Exercise(
        number="03.1",
        minutes=5,
        title="Repair a loss that trains badly",
        check_name="noising_loss",
        arguments=("model", "schedule", "x_0", "generator"),
        hints=(
            "Say for each line which of the five steps it is: draw t, draw eps, mix, ask, compare. Which of "
            "them does less than its step asks, for a batch of 64 images?",
            "loss = the mean over (x_0, t, eps) of |eps_model(x_t, t) - eps|², with t ~ Uniform(0 … T-1) and "
            "eps ~ N(0, I) drawn for each x_0 by itself.",
            "t = torch.randint(schedule.num_timesteps, (____,), generator=generator)",
        ),
        examine=examine_loss,
        diagnoses=LOSS,
        planted=noising_loss,
    ),
    Exercise(
        number="03.2",
        minutes=15,
        title="The loss at each timestep",
        check_name="loss_by_timestep",
        arguments=("eps_fn", "schedule", "x_0", "timesteps", "generator"),
        hints=(
            "The training loss draws t at random and so averages over all t. What changes if you choose t, "
            "and keep the average over images and pixels only?",
            "loss(t) = mean over batch, channels and pixels of (eps_fn(x_t, t) - eps)², where "
            "x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps.",
            "for t in timesteps: batch_t = torch.full((____,), int(t)) … losses.append(((____) ** 2).mean())",
        ),
        examine=examine_by_timestep,
        diagnoses=BY_TIMESTEP,
    ),
)
