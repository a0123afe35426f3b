"""Exercises of lesson 03, training: repair a loss, and measure the loss at each timestep.

In both the noise that was mixed in is worked out from what the network is shown, however it was drawn.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from classroom.checks.engine import usable
from classroom.checks.exercise import Exercise, Wrong, variants
from classroom.checks.generic import close, of_numbers
from classroom.checks.networks import Network
from lessons_lib.schedules import NoiseSchedule, q_sample

# So many samples and pixels that every statistic below is decided by more than six standard errors.
BATCH, SHAPE, CALLS = 256, (2, 3, 5), 8
BETAS = (0.05, 0.2, 0.4, 0.5, 0.6)  # few, and far apart, so that a wrong timestep shows at once
CLEAN = "The network is shown the clean x_0: show it x_t, made with q_sample at that timestep."
NOT_NORMAL = "The noise in x_t is not standard normal: draw it with torch.randn, mix it in with q_sample."
NOT_EPS = "The answer is compared with x_0 or x_t: the network guesses the noise, so compare it with eps."
ADDED = "The squared errors are added up: take their mean, or the loss grows with batch and image size."
ROOT = "The square root of the mean is returned: the mean squared error itself is asked."
ABSOLUTE = "The absolute error is returned: square the difference before the mean."
ONE_T = "One t for the whole batch: every image needs a t of its own, so t must have shape [B]."
UNEVEN = "Some timesteps are drawn more often than others, or never: draw t uniformly from 0 … T-1."
FACTOR = "A square root is missing in x_t, or another factor is wrong: it is sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps."
OTHER_T = "The network is told another t than the one with which x_t was made."
SAME_NOISE = "The same noise is used for every image of the batch: eps needs the shape of x_0."
DETACHED = "The loss carries no gradient: no .item(), .detach() or no_grad, or nothing can be learned."
GENERATOR = "The generator is not used: hand it to every random draw, so that a run can be repeated."
MEASURES = (  # of (guess, eps, x_0, x_t)
    (NOT_EPS, lambda guess, eps, x_0, x_t: ((guess - x_0) ** 2).mean()),
    (NOT_EPS, lambda guess, eps, x_0, x_t: ((guess - x_t) ** 2).mean()),
    (ADDED, lambda guess, eps, x_0, x_t: ((guess - eps) ** 2).sum()),
    (ADDED, lambda guess, eps, x_0, x_t: ((guess - eps) ** 2).sum() / len(x_0)),
    (ROOT, lambda guess, eps, x_0, x_t: ((guess - eps) ** 2).mean().sqrt()),
    (ABSOLUTE, lambda guess, eps, x_0, x_t: (guess - eps).abs().mean()),
)


def _schedule() -> NoiseSchedule:
    return NoiseSchedule(torch.tensor(BETAS, dtype=torch.float64))


def _ask(function: Callable, x_0: Tensor, seed: int, luck: int = 0) -> tuple[Tensor, ...]:
    """x_t, t, what the network said, and the loss as it came back; `luck` seeds the global random numbers."""
    scale = nn.Parameter(torch.tensor(0.5))
    model = Network(lambda x, t, y: scale * x + 0.1 * t.view(-1, 1, 1, 1), SHAPE)
    model.scale = scale
    torch.manual_seed(luck)
    with torch.enable_grad():
        loss = function(model, _schedule(), x_0.clone(), torch.Generator().manual_seed(seed))
    if isinstance(loss, float | int):
        raise Wrong(DETACHED)
    usable(REPAIR, loss, (), torch.tensor(0.0))
    if len(model.questions) != 1 or len(model.questions[0].x) != len(x_0):
        counts = [len(one.x) for one in model.questions]
        raise Wrong(
            f"One question is needed, model(x_t, t), with all {len(x_0)} images: it was asked about {counts}."
        )
    x_t, t, _, answer = model.questions[0]
    return x_t.double(), t, answer.double(), loss


def examine_loss(function: Callable) -> str:
    """Exercise 03.1."""
    with torch.random.fork_rng(devices=[]):
        x_0 = 1.5 + torch.rand(BATCH, *SHAPE, generator=torch.Generator().manual_seed(1))  # nowhere near 0
        noisy = [_ask(function, x_0, seed) for seed in range(CALLS)]
        # The same draws on x_0 = 0: what is left is the noise part of x_t, the difference is the signal part.
        blank = [_ask(function, torch.zeros_like(x_0), seed) for seed in range(CALLS)]
        again = _ask(function, x_0, seed=0, luck=1)
    x_0 = x_0.double()
    x_t, t = (torch.stack([one[i] for one in noisy]) for i in (0, 1))  # [CALLS, B, …]
    _check_t(t)
    eps = _noise_of(x_t, t, torch.stack([one[0] for one in blank]), x_0)
    losses = [loss.detach().double() for *_, loss in noisy]
    guesses = [answer for _, _, answer, _ in noisy]
    right = [((guess - own) ** 2).mean() for guess, own in zip(guesses, eps, strict=True)]
    if not close(torch.stack(losses), torch.stack(right)):
        for sentence, measure in MEASURES:
            found = [measure(*one, x_0, x) for *one, x in zip(guesses, eps, x_t, strict=True)]
            if close(torch.stack(losses) / found[0], torch.stack(found) / found[0]):
                raise Wrong(sentence)
        off = (
            f"The loss should be {right[0]:.4f} here, got {losses[0]:.4f}: is it the mean of (guess - eps)²?"
        )
        raise Wrong(of_numbers(losses, right) or off)
    if not noisy[0][3].requires_grad:
        raise Wrong(DETACHED)
    if not close(again[0], x_t[0]) or not torch.equal(again[1], t[0]):
        raise Wrong(GENERATOR)
    return (
        "Every image has its own t and its own noise, and the model is judged by the noise that it guessed."
    )


def _check_t(t: Tensor) -> None:
    total = len(BETAS)
    if bool((t == t[:, :1]).all(dim=1).any()):
        raise Wrong(ONE_T)
    if int(t.min()) < 0 or int(t.max()) >= total:
        raise Wrong(f"t must lie in 0 … T-1, here 0 … {total - 1}, got {int(t.min())} … {int(t.max())}.")
    counts, share = torch.bincount(t.flatten(), minlength=total), 1 / total
    if bool(((counts / t.numel() - share).abs() > 6.5 * (share * (1 - share) / t.numel()) ** 0.5).any()):
        raise Wrong(UNEVEN)


def _noise_of(x_t: Tensor, t: Tensor, noise_part: Tensor, x_0: Tensor) -> Tensor:
    """The eps that was mixed into x_t, [CALLS, B, C, H, W], if both factors are right."""
    abar = _schedule().alphas_cumprod
    if close(x_t, x_0.expand_as(x_t)):
        raise Wrong(CLEAN)
    signal = ((x_t - noise_part) / x_0).mean(dim=(2, 3, 4))
    if not close(signal, abar[t].sqrt()):
        known = (signal[..., None] - abar.sqrt()).abs().amin(dim=2)
        raise Wrong(OTHER_T if close(known, torch.zeros_like(known)) else FACTOR)
    eps = noise_part / (1 - abar[t]).sqrt()[..., None, None, None]
    if close(eps, eps[:, :1].expand_as(eps)):
        raise Wrong(SAME_NOISE)
    spread = torch.stack([eps[t == i].std() for i in range(len(abar))])
    if float(spread.max() / spread.min()) > 1.15:
        raise Wrong(FACTOR)
    centred = eps - eps.mean()
    kurtosis = float((centred**4).mean() / (centred**2).mean() ** 2)  # 3 for a normal distribution
    if kurtosis < 2.4 or abs(float(eps.mean())) > 0.05 or abs(float(eps.std()) - 1) > 0.05:
        raise Wrong(NOT_NORMAL)
    return eps


def noising_loss(model, schedule, x_0, generator):
    """The function that 03.1 asks to repair, as the lesson gives it."""
    t = torch.randint(schedule.num_timesteps, (1,), generator=generator).expand(len(x_0))
    eps = torch.randn(x_0.shape, generator=generator)
    x_t = q_sample(schedule, x_0, t, eps)
    return ((model(x_t, t) - eps) ** 2).mean()


# ---- 03.2 ----

ASKED = (3, 0, 4, 1)  # in no order, so that a sorted answer shows
IMAGE = torch.rand(SHAPE, generator=torch.Generator().manual_seed(2)) * 2 - 1


def _examiner(x_t: Tensor, t: Tensor, y: None) -> Tensor:
    """It knows the clean image, and answers with the true noise plus an error that it knows too."""
    abar = _schedule().alphas_cumprod[t].view(-1, 1, 1, 1)
    if close(x_t, IMAGE.expand_as(x_t)):
        raise Wrong(CLEAN)
    eps = (x_t.detach().double() - abar.sqrt() * IMAGE) / (1 - abar).sqrt()
    # 128 images of 30 pixels: six standard errors are 0.1 for the mean and 0.07 for the spread.
    if abs(float(eps.mean())) > 0.12 or abs(float(eps.std()) - 1) > 0.12:
        raise Wrong(NOT_NORMAL)
    pattern = torch.linspace(0.1, 1, IMAGE.numel(), dtype=torch.float64).view(SHAPE)
    return (eps + pattern / (1 + t.double()).view(-1, 1, 1, 1)).to(x_t.dtype)


def _losses(measure: Callable) -> Callable:
    """By timestep; measure(guess, eps, x_0, x_t) is a number."""

    def formula(eps_fn, schedule, x_0, timesteps, generator):
        losses = []
        for t in timesteps:
            eps, batch_t = torch.randn(x_0.shape, generator=generator), torch.full((len(x_0),), t)
            x_t = q_sample(schedule, x_0, batch_t, eps)
            losses.append(measure(eps_fn(x_t, batch_t), eps, x_0, x_t))
        return torch.stack(losses)

    return formula


def _given() -> tuple:
    x_0 = IMAGE.expand(128, *SHAPE).clone()
    return Network(_examiner, SHAPE), _schedule(), x_0, list(ASKED), torch.Generator().manual_seed(3)


REPAIR = Exercise(
    number="03.1",
    minutes=5,
    title="Repair a loss that trains badly",
    check_name="noising_loss",
    arguments=("model", "schedule", "x_0 [B, C, H, W]", "generator"),
    returns="one number in a tensor",
    hints=(
        "Say for each line which of the five steps it is: draw t, draw eps, mix, ask, compare. Which of "
        "them does less than its step asks, for a batch of 64 images?",
        "loss = the mean over (x_0, t, eps) of |eps_model(x_t, t) - eps|², with t ~ Uniform(0 … T-1) and "
        "eps ~ N(0, I) drawn for each x_0 by itself.",
        "t = torch.randint(schedule.num_timesteps, (____,), generator=generator)",
    ),
    examine=examine_loss,
    planted=noising_loss,
)
EXERCISES = (
    REPAIR,
    Exercise(
        number="03.2",
        minutes=15,
        title="The loss at each timestep",
        check_name="loss_by_timestep",
        arguments=("eps_fn", "schedule", "x_0 [B, C, H, W]", "timesteps", "generator"),
        returns="[len(timesteps)]",
        hints=(
            "The training loss draws t at random and so averages over all t. What changes if you choose t, "
            "and keep the average over images and pixels only?",
            "loss(t) = mean over batch, channels and pixels of (eps_fn(x_t, t) - eps)², where "
            "x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps.",
            "for t in timesteps: batch_t = torch.full((____,), int(t)) … losses.append(((____) ** 2).mean())",
        ),
        praise="The closer t is to 0, the harder the noise is to see, and the larger the error.",
        cases=((),),
        given=_given,
        right=_losses(lambda guess, eps, x_0, x_t: ((guess - eps) ** 2).mean()),
        shapes={
            "[] [1]": "One number is returned: a mean for each timestep is asked, in shape [len(timesteps)]."
        },
        wrong=variants(*(part for sentence, measure in MEASURES for part in (sentence, _losses(measure)))),
    ),
)
