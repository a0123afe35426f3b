"""Exercises of lesson 03, training: repair a loss, and measure the loss at each timestep.

In both the noise that was mixed in is worked out from what the network is shown, however it was drawn.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from classroom.checks.engine import usable
from classroom.checks.exercise import Exercise, Variant, Wrong, variants
from classroom.checks.generic import close, of_numbers, same
from classroom.checks.networks import Network
from lessons_lib.schedules import NoiseSchedule, q_sample

# So many samples and pixels that every statistic below is decided by more than six standard errors.
BATCH, SHAPE, CALLS = 256, (2, 3, 5), 8
BETAS = torch.tensor((0.05, 0.2, 0.4, 0.5, 0.6)).double()  # few, far apart, so that a wrong timestep shows
ABAR = NoiseSchedule(BETAS).alphas_cumprod
CLEAN = "The network is shown the clean x_0: show it x_t, mixed for that timestep."
NOT_NORMAL = "The noise in x_t is not standard normal: draw it with torch.randn, and mix it in as it is."
ONE_T = "One t for the whole batch: every image needs a t of its own, so t must have shape [B]."
UNEVEN = "Some timesteps are drawn more often than others, or never: draw t uniformly from 0 … T-1."
FACTOR = "A factor in x_t is wrong: it is sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps, with both roots."
OTHER_T = "The network is told another t than the one with which x_t was made."
SAME_NOISE = "The same noise is used for every image of the batch: eps needs the shape of x_0."
DETACHED = "The loss carries no gradient: no .item(), .detach() or no_grad, or nothing can be learned."
GENERATOR = "The generator is not used: hand it to every random draw, so that a run can be repeated."
MEASURES = variants(  # of guess, eps, x_0 and x_t
    "The answer is compared with x_0 or x_t: the network guesses the noise, so compare it with eps.",
    lambda guess, eps, x_0, x_t: ((guess - x_0) ** 2).mean(),
    lambda guess, eps, x_0, x_t: ((guess - x_t) ** 2).mean(),
    "The squared errors are added up: take their mean, or the loss grows with batch and image size.",
    lambda guess, eps, x_0, x_t: ((guess - eps) ** 2).sum(),
    "The absolute error is returned: square the difference before the mean.",
    lambda guess, eps, x_0, x_t: (guess - eps).abs().mean(),
)


def _ask(function: Callable, x_0: Tensor, seed: int, luck: int = 0) -> tuple[Tensor, ...]:
    """x_t, t, what the network said, and the loss; `luck` seeds the global random numbers."""
    scale = nn.Parameter(torch.tensor(0.5))
    model = Network(lambda x, t, y: scale * x + 0.1 * t.view(-1, 1, 1, 1), SHAPE)
    model.scale = scale
    torch.manual_seed(luck)
    loss = function(model, NoiseSchedule(BETAS.clone()), x_0.clone(), torch.Generator().manual_seed(seed))
    if isinstance(loss, float | int):
        raise Wrong(DETACHED)
    usable(REPAIR, loss, (), torch.tensor(0.0))
    counts = [len(one.x) for one in model.questions]
    if counts != [len(x_0)]:
        raise Wrong(f"The network must be asked once, about all {len(x_0)} images, not about {counts}.")
    x_t, t, _, answer = model.questions[0]
    return x_t.double(), t, answer.double(), loss


def examine_loss(function: Callable) -> str:
    """Exercise 03.1."""
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        x_0 = 1.5 + torch.rand(BATCH, *SHAPE, generator=torch.Generator().manual_seed(1))  # nowhere near 0
        noisy = [_ask(function, x_0, seed) for seed in range(CALLS)]
        # The same draws on x_0 = 0: what is left is the noise part of x_t, the difference is the signal part.
        blank = [_ask(function, torch.zeros_like(x_0), seed) for seed in range(CALLS)]
        again = _ask(function, x_0, seed=0, luck=1)
    x_t, t = (torch.stack([one[i] for one in noisy]) for i in (0, 1))  # [CALLS, B, …]
    eps = noise_of(x_t, t, torch.stack([one[0] for one in blank]), x_0.double())
    losses = [loss.detach().double() for *_, loss in noisy]
    told = [(noisy[k][2], eps[k], x_0.double(), x_t[k]) for k in range(CALLS)]
    right = [((guess - own) ** 2).mean() for guess, own, *_ in told]
    if not same(losses, right):
        for sentence, measures in MEASURES:
            if any(same(losses, [measure(*one) for one in told]) for measure in measures):
                raise Wrong(sentence)
        off = f"The loss should be {right[0]:.4f} here, got {losses[0]:.4f}: is it mean (guess - eps)²?"
        raise Wrong(of_numbers(losses, right) or off)
    if not noisy[0][3].requires_grad:
        raise Wrong(DETACHED)
    if not close(again[0], x_t[0]) or not torch.equal(again[1], t[0]):
        raise Wrong(GENERATOR)
    return (
        "Every image has its own t and its own noise, and the model is judged by the noise that it guessed."
    )


def noise_of(x_t: Tensor, t: Tensor, noise_part: Tensor, x_0: Tensor) -> Tensor:
    """The eps that was mixed into x_t, [CALLS, B, C, H, W], if it was drawn and mixed as it should."""
    if bool((t == t[:, :1]).all(dim=1).any()):
        raise Wrong(ONE_T)
    if int(t.min()) < 0 or int(t.max()) >= len(ABAR):
        raise Wrong(f"t must lie in 0 … T-1, here 0 … 4, got {int(t.min())} … {int(t.max())}.")
    share, error = torch.bincount(t.flatten(), minlength=5) / t.numel(), (0.2 * 0.8 / t.numel()) ** 0.5
    if bool(((share - 0.2).abs() > 6.5 * error).any()):
        raise Wrong(UNEVEN)
    if close(x_t, x_0.expand_as(x_t)):
        raise Wrong(CLEAN)
    signal = ((x_t - noise_part) / x_0).mean(dim=(2, 3, 4))
    if not close(signal, ABAR[t].sqrt()):
        distance = (signal[..., None] - ABAR.sqrt()).abs().amin(dim=2)
        raise Wrong(OTHER_T if close(distance, torch.zeros_like(distance)) else FACTOR)
    eps = noise_part / (1 - ABAR[t]).sqrt()[..., None, None, None]
    spread = torch.stack([eps[t == i].std() for i in range(len(ABAR))])
    kurtosis = float(((eps - eps.mean()) ** 4).mean() / eps.var() ** 2)  # 3 for a normal distribution
    if close(eps, eps[:, :1].expand_as(eps)):
        raise Wrong(SAME_NOISE)
    if float(spread.max() / spread.min()) > 1.15:
        raise Wrong(FACTOR)
    if kurtosis < 2.4 or abs(float(eps.mean())) > 0.05 or abs(float(eps.std()) - 1) > 0.05:
        raise Wrong(NOT_NORMAL)
    return eps


def noising_loss(model, schedule, x_0, generator):
    """The function that 03.1 asks to repair, as the lesson gives it."""
    t = torch.randint(schedule.num_timesteps, (1,), generator=generator).expand(len(x_0))
    eps = torch.randn(x_0.shape, generator=generator)
    x_t = q_sample(schedule, x_0, t, eps)
    return ((model(x_t, t) - eps) ** 2).mean()


IMAGE = torch.rand(SHAPE, generator=torch.Generator().manual_seed(2)) * 2 - 1


def _examiner(x_t: Tensor, t: Tensor, y: None) -> Tensor:
    """It knows the clean image, and answers with the true noise plus an error that it knows too."""
    if close(x_t, IMAGE.expand_as(x_t)):
        raise Wrong(CLEAN)
    signal, noise = (part.sqrt().view(-1, 1, 1, 1) for part in (ABAR[t], 1 - ABAR[t]))
    eps = (x_t.detach().double() - signal * IMAGE) / noise
    # 128 images of 30 pixels: six standard errors are 0.1 for the mean and 0.07 for the spread.
    if abs(float(eps.mean())) > 0.12 or abs(float(eps.std()) - 1) > 0.12:
        raise Wrong(NOT_NORMAL)
    error = torch.linspace(0.1, 1, IMAGE.numel()).double().view(SHAPE) / (1 + t.double()).view(-1, 1, 1, 1)
    return (eps + error).to(x_t.dtype)


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


def _given(*timesteps: int) -> tuple:
    network, generator = Network(_examiner, SHAPE), torch.Generator().manual_seed(3)
    return network, NoiseSchedule(BETAS.clone()), IMAGE.repeat(128, 1, 1, 1), list(timesteps), generator


REPAIR = Exercise(
    heading="03.1 Repair a loss that trains badly (5 min)",
    signature="noising_loss(model, schedule, x_0 [B, C, H, W], generator) -> one number in a tensor",
    question="Say for each line which of the five steps it is: draw t, draw eps, mix, ask, compare. Which "
    "of them does less than its step asks, for a batch of 64 images?",
    formula="loss = the mean over (x_0, t, eps) of |eps_model(x_t, t) - eps|², with t ~ Uniform(0 … T-1) "
    "and eps ~ N(0, I) drawn for each x_0 by itself.",
    blank="t = torch.randint(schedule.num_timesteps, (____,), generator=generator)",
    examine=examine_loss,
    planted=noising_loss,
)
LOSS_BY_TIMESTEP = Exercise(
    heading="03.2 The loss at each timestep (15 min)",
    signature="loss_by_timestep(eps_fn, schedule, x_0 [B,C,H,W], timesteps, generator) -> [len(timesteps)]",
    question="The training loss draws t at random and so averages over all t. What changes if you choose t, "
    "and keep the average over images and pixels only?",
    formula="loss(t) = mean over batch, channels and pixels of (eps_fn(x_t, t) - eps)², where x_t = "
    "sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps.",
    blank="for t in timesteps: batch_t = torch.full((____,), int(t)) … losses.append(((____) ** 2).mean())",
    praise="The closer t is to 0, the harder the noise is to see, and the larger the error.",
    cases=((3, 0, 4, 1),),  # in no order, so that a sorted answer shows
    given=_given,
    right=_losses(lambda guess, eps, x_0, x_t: ((guess - eps) ** 2).mean()),
    shapes={
        "[] [1]": "One number is returned: a mean for each timestep is asked, in shape [len(timesteps)]."
    },
    wrong=tuple(Variant(name, tuple(map(_losses, measures))) for name, measures in MEASURES),
)
EXERCISES = (REPAIR, LOSS_BY_TIMESTEP)
