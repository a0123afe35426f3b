"""Exercises of lesson 14, from a blank page: contracts of behaviour, held against exact scores.

Any structure passes: what is asked, mixed and returned is looked at, never how it was written.
"""

import math
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from classroom.checks.engine import GRAPH, expect_tensor, usable
from classroom.checks.exercise import Exercise, NotUsable, Unfinished, Wrong, variants
from classroom.checks.generic import close, same
from classroom.checks.lesson03 import ABAR, BATCH, CALLS, DETACHED, MEASURES, SHAPE, noise_of
from classroom.checks.lesson07 import labelled_network
from classroom.checks.networks import Network
from classroom.checks.networks import image as noise
from lessons_lib.schedules import NoiseSchedule
from lessons_lib.toy import GaussianMixture, seven_and_three

SCHEDULE, SMALL = NoiseSchedule.linear(1000), seven_and_three()
WORLD = GaussianMixture(1.5 * SMALL.means.double(), SMALL.std, SMALL.classes)  # beyond [-1, 1], if clipped


def _wrong_if(found: dict[str, bool]) -> None:
    """Raises the first sentence that is true."""
    for sentence, is_so in found.items():
        if is_so:
            raise Wrong(sentence)


# ---- 14.1 the sampler ----
MOST_STATES = 10_000  # of a sampler that never ends


def states_of(result, x_T: Tensor) -> list[Tensor]:
    """The states [B, ...] of a sampler that returns or yields them, alone or in tuples with other things.

    A tensor may be the picture alone or all states stacked. What is none of this gives an empty list.
    """
    if isinstance(result, Tensor):
        result = [result] if result.shape == x_T.shape else list(result) if result.ndim > x_T.ndim else []
    if not isinstance(result, (list, tuple, Iterator)):
        return []
    found = []
    for one in result:
        parts = one if isinstance(one, tuple) else (one,)
        state = next((part for part in parts if isinstance(part, Tensor) and part.shape == x_T.shape), None)
        if state is None or len(found) > MOST_STATES:
            return []
        found.append(state.detach().clone())
    return found


def _sampled(step: Callable, following: Callable = lambda ts: [*ts[1:], None]) -> Callable:
    """A sampler by its step(x, eps, abar_t, abar_s); `following` gives the timestep that each leads to."""

    def formula(eps_fn, alphas_cumprod, x_T, timesteps):
        x, ts = x_T, timesteps.tolist()
        for t, s in zip(ts, following(ts), strict=False):
            eps = eps_fn(x, torch.full((len(x),), t))
            x = step(x, eps, float(alphas_cumprod[t]), 1.0 if s is None else float(alphas_cumprod[s]))
        return [x]

    return formula


def _ddim(x, eps, a, b, clip=lambda x_0: x_0):
    return b**0.5 * clip((x - (1 - a) ** 0.5 * eps) / a**0.5) + (1 - b) ** 0.5 * eps


def _world(seed: int, *timesteps: int) -> tuple:
    exact = WORLD.eps_fn(SCHEDULE)
    network, x_T = Network(lambda x, t, y: exact(x.double(), t).to(x), (2,)), noise(seed, shape=(12, 2))
    return network, SCHEDULE.alphas_cumprod.clone(), x_T.float(), torch.tensor(timesteps)


def _picture(result, given: tuple) -> Tensor:
    network, _, x_T, _ = given
    with torch.no_grad():
        states = states_of(result, x_T)
    if not states:
        raise NotUsable(f"Return or yield the states, each of shape {list(x_T.shape)}, the picture last.")
    if any(one.x.is_inference() for one in network.questions):
        raise Wrong("Under inference_mode no guide can have a gradient: keep none by torch.no_grad.")
    if any(one.x.dtype != x_T.dtype for one in network.questions):
        raise Wrong(FLOAT64.format("the state", "x_T"))
    return states[-1].double()


SAMPLE = Exercise(
    heading="14.1 A sampler (15 min)",
    signature="sample(eps_fn, alphas_cumprod [T], x_T [B, ...], timesteps) -> the states",
    question="The network says which noise is in x_t. What does that make of the clean picture? And with "
    "picture and noise in hand, what is the state at any other timestep?",
    formula="x̂_0 = (x_t - sqrt(1 - abar_t) eps) / sqrt(abar_t), then x_s = sqrt(abar_s) x̂_0 + "
    "sqrt(1 - abar_s) eps. s is the next timestep in the list; after the last one abar_s is 1.",
    blank="for t, s in zip(ts, [*ts[1:], None]): eps = eps_fn(x, torch.full((len(x),), ____)) … "
    "abar_s = 1.0 if s is None else ____",
    praise="Your sampler takes every dot to where exact scores have it.",
    cases=((1, 999, 870, 640, 555, 400, 260, 120, 40), (2, 980, 500, 130, 3)),
    given=_world,
    right=_sampled(_ddim),
    reads=_picture,
    asks="calls",
    wrong=variants(
        "The step goes to t - 1: it must go to the timestep that follows in the list.",
        _sampled(_ddim, lambda ts: [t - 1 for t in ts]),
        "The way ends before the picture: after the last timestep of the list one step leads to abar = 1.",
        _sampled(_ddim, lambda ts: ts[1:]),
        _sampled(_ddim, lambda ts: [*ts[1:], 0]),
        "The estimate is clipped: some dots lie beyond [-1, 1], so clip nothing.",
        _sampled(lambda x, eps, a, b: _ddim(x, eps, a, b, lambda x_0: x_0.clamp(-1, 1))),
        "The square roots are missing: a state is sqrt(abar) x_0 + sqrt(1 - abar) eps.",
        _sampled(lambda x, eps, a, b: b * (x - (1 - a) * eps) / a + (1 - b) * eps),
        "The estimate is not divided by sqrt(abar_t), which is what the noising multiplied it with.",
        _sampled(lambda x, eps, a, b: b**0.5 * (x - (1 - a) ** 0.5 * eps) + (1 - b) ** 0.5 * eps),
        "The next state holds no noise: it needs sqrt(1 - abar_s) eps beside the estimate.",
        _sampled(lambda x, eps, a, b: b**0.5 * (x - (1 - a) ** 0.5 * eps) / a**0.5),
        "The noise is put back as strong as at t: the next state holds sqrt(1 - abar_s) of it.",
        _sampled(lambda x, eps, a, b: _ddim(x, eps, a, b) + ((1 - a) ** 0.5 - (1 - b) ** 0.5) * eps),
    ),
)


# ---- 14.2 and 14.3 the guidances ----
FLOAT64 = (
    "{} becomes float64, and a network of float32 refuses it: cast what comes of alphas_cumprod, by .to({})."
)
POINTS, TIMES = noise(3, shape=(5, 2)), torch.tensor([900, 700, 500, 300, 150])
IMAGES = noise(4, shape=(3, 2, 4, 5))
UNDER_NO_GRAD = "There is no gradient: samplers run under no_grad, so open torch.enable_grad() around it."


def _eps_at(x_t: Tensor, t: Tensor) -> Callable:
    """Reads what a function (x_t, t) -> eps answers, asked as a sampler asks."""

    def reads(result, given: tuple) -> Tensor:
        if not callable(result):
            raise NotUsable("Return a function of (x_t, t) that answers eps, as your sampler takes it.")
        try:
            with torch.no_grad():
                eps = result(x_t.clone(), t.clone())
        except RuntimeError as error:
            if "does not require grad" in str(error):
                raise Wrong(UNDER_NO_GRAD) from None
            raise
        if not isinstance(eps, Tensor) or eps.shape != x_t.shape:
            raise NotUsable(
                f"Your function of (x_t, t) must answer eps in the shape of x_t, {list(x_t.shape)}."
            )
        if eps.requires_grad or eps.dtype != x_t.dtype:
            raise Wrong(GRAPH if eps.requires_grad else FLOAT64.format("eps", "x_t"))
        return eps.double()

    return reads


def _cfg(mix: Callable[[Tensor, Tensor, float], Tensor]) -> Callable:
    return lambda model, y, w: lambda x_t, t: mix(model(x_t, t), model(x_t, t, y), w)


WITH_CFG = Exercise(
    heading="14.2 Classifier-free guidance (5 min)",
    signature="with_cfg(model, y [B], w) -> a function of (x_t, t)",
    question="What does the model say when it is told y, and what when it is told nothing? Where does "
    "guidance start, and along which difference does it go?",
    formula="eps = eps(x_t) + w (eps(x_t, y) - eps(x_t)): w = 0 is not told, w = 1 is told.",
    blank="def eps_fn(x_t, t): untold, told = model(x_t, t, None), ____ … return untold + w * (____)",
    praise="At w = 0 nobody is told, at w = 1 everybody, and beyond it goes on along the same line.",
    cases=(((4, 1, 5), 3.0), ((0, 3, 2), 0.5)),
    given=lambda y, w: (labelled_network(), torch.tensor(y), w),
    right=_cfg(lambda untold, told, w: untold + w * (told - untold)),
    reads=_eps_at(IMAGES, torch.tensor([40, 310, 820])),
    wrong=variants(
        "w is off by one: this starts from the told answer. At w = 0 the result must be the untold one.",
        _cfg(lambda untold, told, w: told + w * (told - untold)),
        "The two answers have changed places: at w = 1 the result must be the told one.",
        _cfg(lambda untold, told, w: told + w * (untold - told)),
        "The step goes the wrong way: it leads from the untold to the told answer.",
        _cfg(lambda untold, told, w: untold - w * (told - untold)),
        "Only the difference is returned: it is added to the untold answer.",
        _cfg(lambda untold, told, w: w * (told - untold)),
        "w times the told answer is added: add w times the difference, told less untold.",
        _cfg(lambda untold, told, w: untold + w * told),
    ),
)


def _gradient(
    log_prob: Callable, factor: Callable = lambda a: (1 - a) ** 0.5, share=lambda s, B: s
) -> Callable:
    """Classifier guidance with one part replaced; log_prob is of the logits and y, `share` of s and B."""

    def with_classifier(eps_fn, classifier, y, s, alphas_cumprod):
        def guided(x_t, t):
            with torch.enable_grad():
                x = x_t.clone().requires_grad_()
                gradient = torch.autograd.grad(log_prob(classifier(x, t), y).sum(), x)[0]
            factors = share(s, len(x_t)) * factor(alphas_cumprod[t])[:, None].to(x_t)
            return eps_fn(x_t, t) - factors * gradient

        return guided

    return with_classifier


def _own(values: Tensor, y: Tensor) -> Tensor:
    return values.gather(1, y[:, None])


def _log_p(logits: Tensor, y: Tensor) -> Tensor:
    return _own(logits.log_softmax(1), y)


WITH_CLASSIFIER = Exercise(
    heading="14.3 Classifier guidance (10 min)",
    signature="with_classifier(eps_fn, classifier, y [B], s, alphas_cumprod [T]) -> a function of (x_t, t)",
    question="In which direction must x_t move so that the classifier becomes surer of y? How is a score "
    "written as a noise?",
    formula="eps = eps_fn(x_t, t) - s sqrt(1 - abar_t) grad log p(y given x_t), a gradient a sample.",
    blank="with torch.enable_grad(): x = x_t.detach().requires_grad_() … log_p = classifier(x, t).____ … "
    "torch.autograd.grad(log_p.____, x)",
    praise="With exact scores and s = 1 this is exactly what a network says that is told y.",
    cases=(((0, 1, 1, 0, 1), 1.0), ((1, 0, 1, 1, 0), 2.5)),
    given=lambda y, s: (
        SMALL.eps_fn(SCHEDULE),
        lambda x, t: SMALL.log_likelihoods(SCHEDULE, x, t),
        torch.tensor(y),
        s,
        SCHEDULE.alphas_cumprod.clone(),
    ),
    right=_gradient(_log_p),
    reads=_eps_at(POINTS, TIMES),
    wrong=variants(
        "The log-probabilities are averaged: sum them, or the push shrinks with the size of the batch.",
        _gradient(_log_p, share=lambda s, B: s / B),
        "The square root is missing: a score is a noise divided by sqrt(1 - abar_t), so multiply by it.",
        _gradient(_log_p, lambda a: 1 - a),
        "The factor sqrt(1 - abar_t) is missing: without it the push is far too strong near the picture.",
        _gradient(_log_p, lambda a: 0 * a + 1),
        "The factor is that of the picture, sqrt(abar_t): the noise's is sqrt(1 - abar_t).",
        _gradient(_log_p, lambda a: a**0.5),
        "The push goes away from y: the noise points away from data, so the gradient is taken off it.",
        _gradient(_log_p, share=lambda s, B: -s),
        "The gradient is of the logit alone: a log-probability is log_softmax of the logits.",
        _gradient(_own),
        "The gradient is of the probability: take its logarithm, by log_softmax.",
        _gradient(lambda logits, y: _own(logits.softmax(1), y)),
        "s counts one more than it says: at s = 0 nothing may be added.",
        _gradient(_log_p, share=lambda s, B: s + 1),
    ),
)


# ---- 14.4 the schedule ----
def examine_schedule(function: Callable) -> str:
    """Exercise 14.4: any schedule that begins at the picture and ends in noise."""
    abar = usable(MAKE_SCHEDULE, function(1000), (), torch.zeros(1000))
    first, last, steps = float(abar[0]), float(abar[-1]), abar.diff()
    _wrong_if({
        "These are shares of the variance: they must lie between 0 and 1.": not all(abar.ge(0) & abar.le(1)),
        "This rises with t, as betas do: the picture's share falls from 1 to 0.": last > first,
        f"At the last timestep {last:.3f} is left: below 0.01 it is noise, as x_T must be. A share of the "
        "variance multiplies up: 1 - beta of all steps so far.": last > 0.01,
        f"At t = 0 the share of the picture is {first:.3f}: it must be nearly 1, above 0.98.": first < 0.98,
        "It must never rise, and fall by at most 0.05 in a step.": any(steps.gt(0) | steps.lt(-0.05)),
        "It ends at 0, or so near that a sampler cannot divide by its root: end above 0.00001.": last < 9e-6,
    })  # fmt: skip
    is_linear = float((abar - SCHEDULE.alphas_cumprod.to(abar)).abs().max()) < 1e-3
    other = "" if is_linear else ' It is not the linear one: write v_schedule="" in the config below.'
    return f"From nearly the picture to nearly noise, in small steps.{other}"


MAKE_SCHEDULE = Exercise(
    heading="14.4 A schedule (5 min)",
    signature="make_schedule(T) -> [T]",
    question="How much of the picture's variance is left after one small step with beta, and after many?",
    formula="abar_t = (1 - beta_0) (1 - beta_1) … (1 - beta_t). The course's beta rises from 0.0001 to 0.02.",
    blank="betas = torch.linspace(____, ____, T) … return (1 - betas).____(0)",
    examine=examine_schedule,
)


# ---- 14.5 and 14.7 the losses ----
K = 7
X_0 = 1.5 + torch.rand(BATCH, *SHAPE, generator=torch.Generator().manual_seed(1))  # nowhere near 0


def _network(classes: int | None, answer: Callable) -> Network:
    scale = nn.Parameter(torch.tensor(0.5))
    network = Network(lambda x, t, y: answer(scale * x, t), SHAPE, classes)
    network.scale = scale
    return network


def _loss(exercise: Exercise, function: Callable, network: Network, x_0: Tensor, seed: int) -> tuple:
    """x_t, t, the labels that were told, the answer, the loss, and y."""
    y = torch.arange(BATCH) % K
    torch.manual_seed(seed)
    own = y.clone()
    loss = function(network, x_0.clone(), own, ABAR.clone())
    if not torch.equal(own, y):
        raise Wrong("It writes into the caller's y, and labels that were dropped are lost: make new ones.")
    if isinstance(loss, float | int):
        raise Wrong(DETACHED)
    usable(exercise, loss, (), torch.tensor(0.0))
    asked = [len(one.x) for one in network.questions]
    if asked != [BATCH]:
        raise Wrong(f"The network must be asked once, about all {BATCH} images, not about {asked}.")
    x_t, t, told, answer = network.questions[0]
    if x_t.dtype != torch.float32:
        raise Wrong(FLOAT64.format("x_t", "x_0"))
    return x_t.double(), t, told, answer.double(), loss, y


def _mixed(exercise: Exercise, function: Callable, network: Callable[[], Network]) -> tuple[list, Tensor]:
    """What was asked in some calls, and the eps that was mixed in, [CALLS, B, C, H, W]; else Wrong."""
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        calls = [_loss(exercise, function, network(), X_0, seed) for seed in range(CALLS)]
        blank = [_loss(exercise, function, network(), 0 * X_0, seed)[0] for seed in range(CALLS)]
    x_t, t = (torch.stack([one[i] for one in calls]) for i in (0, 1))
    return calls, noise_of(x_t, t, torch.stack(blank), X_0.double())


def _compare(calls: list, right: list[Tensor], wrong: Iterator[tuple[str, list[Tensor]]], rule: str) -> None:
    losses = [loss.detach().double() for *_, loss, _ in calls]
    if not same(losses, right):
        named = next((sentence for sentence, values in wrong if same(losses, values)), None)
        raise Wrong(named or f"The loss should be {right[0]:.4f} here, got {losses[0]:.4f}: is it {rule}?")
    if not calls[0][4].requires_grad:
        raise Wrong(DETACHED)


def examine_loss(function: Callable) -> str:
    """Exercise 14.5."""
    network = lambda: _network(K, lambda x, t: x + 0.1 * t.view(-1, 1, 1, 1))  # noqa: E731
    calls, eps = _mixed(DENOISING_LOSS, function, network)
    y, told = calls[0][5], [(one[3], own, X_0.double(), one[0]) for one, own in zip(calls, eps, strict=True)]
    wrong = ((name, [measure(*one) for one in told]) for name, some in MEASURES for measure in some)
    _compare(calls, [((guess - own) ** 2).mean() for guess, own, *_ in told], wrong, "mean (guess - eps)²")
    labels = torch.stack([one[2] for one in calls])
    every = (labels == K).double().mean(dim=1)  # dropped, by call
    share, whole = float(every.mean()), bool(((every == 0) | (every == 1)).all())
    _wrong_if({
        "No label is ever dropped: tell one in ten the null label, or all drawings need a wish.": share == 0,
        "The network is never told y: hand it over as the third argument.": share == 1,
        "All labels of a batch are dropped at once or none: each needs a coin of its own.": whole,
        "More than half of the labels are dropped: about one in ten is enough.": share > 0.5,
        "Some images are told another's label: what is not dropped stays.": any((labels != y)[labels != K]),
    })  # fmt: skip
    return "Every image has its own t, noise and coin, and the network is judged by its guess at the noise."


DENOISING_LOSS = Exercise(
    heading="14.5 The denoiser's loss (10 min)",
    signature="denoising_loss(model, x_0 [B, C, H, W], y [B], alphas_cumprod [T]) -> one number in a tensor",
    question="What is drawn at random for each image? What is the network shown, what is it told, and with "
    "what is its answer compared? Who must sometimes not be told?",
    formula="loss = mean of (model(x_t, t, y) - eps)², with x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps "
    "and y = model.null_label for one image in ten.",
    blank="t = torch.randint(____, (len(x_0),)); eps = ____; torch.where(torch.rand(len(y)) < 0.1, ____, y)",
    examine=examine_loss,
)


def examine_class_loss(function: Callable) -> str:
    """Exercise 14.7."""
    table = torch.randn(math.prod(SHAPE), K, generator=torch.Generator().manual_seed(5)) / 5
    network = lambda: _network(None, lambda x, t: x.flatten(1) @ table + 0.1 * t[:, None])  # noqa: E731
    calls, _ = _mixed(CLASS_LOSS, function, network)
    y = calls[0][5]
    wrong = ((sentence, [measure(one[3], y) for one in calls]) for sentence, measure in OF_CLASSES.items())
    _compare(calls, [F.cross_entropy(one[3], y) for one in calls], wrong, "the mean of -log p(y given x_t)")
    return "It reads under every noise, and is told how much there is."


OF_CLASSES = {
    "The losses are added up: take their mean.": lambda z, y: len(y) * F.cross_entropy(z, y),
    "cross_entropy has a softmax of its own: hand it the logits.": lambda z, y: F.cross_entropy(
        z.softmax(1), y
    ),
    "The sign is turned round: it is minus the log-probability.": lambda z, y: -F.cross_entropy(z, y),
}
CLASS_LOSS = Exercise(
    heading="14.7 The classifier's loss (5 min)",
    signature="class_loss(classifier, x_0 [B, C, H, W], y [B], alphas_cumprod [T]) -> one number in a tensor",
    question="The guide is asked on the way from noise to picture. What must it have seen in training?",
    formula="loss = the mean of -log p(y given x_t), each image with its own t and noise, as in 14.5.",
    blank="x_t = ____ … return F.cross_entropy(classifier(____, t), y)",
    examine=examine_class_loss,
)


# ---- 14.6 the loop ----
STEPS, COUNT = 150, 240
MUST_YIELD = "Yield each step's loss as a number, so that the caller can watch and stop: yield loss.item()."
PAIRS = "Images and labels do not belong together: take both at the same places."


def examine_train(function: Callable) -> str:
    """Exercise 14.6: a linear network learns the mean of images, whose first pixel tells their place."""
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(0)
        network, places, images = nn.Linear(4, 1), torch.arange(COUNT), torch.rand(COUNT, 1, 2, 2)
        images[:, 0, 0, 0] = places / COUNT
        nn.init.zeros_(network.weight)
        seen, kept, new, found = [], [], [], []
        network.bias.register_hook(lambda gradient: new.append(float(gradient)))
        network.bias.register_post_accumulate_grad_hook(lambda bias: kept.append(float(bias.grad)))

        def loss_fn(network, x_0, y):
            seen.append((x_0[:, 0, 0, 0] * COUNT).round().long())
            if not torch.equal(seen[-1] % K, y):
                raise Wrong(PAIRS)
            return (network(x_0.flatten(1)) - 1 - x_0.flatten(1).mean(1, keepdim=True)).square().mean()

        losses = function(network, loss_fn, images, places % K, STEPS)
        if not isinstance(losses, Iterator):
            raise NotUsable(MUST_YIELD) if losses is not ... else Unfinished
        for loss in losses:
            if not isinstance(loss, float | Tensor) or getattr(loss, "requires_grad", False):
                raise Wrong(MUST_YIELD)
            found.append(float(loss))
            _wrong_if(
                {
                    "The first loss comes after many steps: yield one in every step.": len(seen)
                    > 10 * len(found)
                }
            )
            if len(found) > STEPS:
                break
    different, fell = len(torch.cat(seen).unique()) if seen else 0, sum(found[-10:]) < 0.95 * sum(found[:10])
    gathered = len(new) > 9 and abs(kept[9] - sum(new[:10])) < 1e-4
    _wrong_if({
        f"{STEPS} steps were asked for, and so many losses: got {len(found)} or more.": len(found) != STEPS,
        "Hardly any images are shown: draw a new batch of all in every step.": different < COUNT / 4,
        "The gradients of all steps add up: set them to zero before each backward.": gathered,
        "The loss does not fall: has the optimizer network.parameters(), and does it step?": not fell,
    })  # fmt: skip
    return "One loop for any network and any loss: it will train the denoiser, and then the classifier."


TRAIN = Exercise(
    heading="14.6 The loop (5 min)",
    signature="train(network, loss_fn, images [N, C, H, W], labels [N], steps) -> yields each step's loss",
    question="What happens in every step, between drawing a batch and drawing the next one?",
    formula="Draw places; loss = loss_fn(network, images[places], labels[places]); gradients to zero, "
    "backward, step; yield. Adam with a learning rate of 0.002 that falls to 0 towards the end.",
    blank="for k in range(steps): places = torch.randint(____, (64,)) … optimizer.____(); loss.____(); "
    "optimizer.____(); yield ____",
    examine=examine_train,
)


# ---- 14.8 the classifier ----
def examine_classifier(function: Callable) -> str:
    """Exercise 14.8. Weights that begin at 0 are moved, so that everything shows."""
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(0)
        network = function(K)
        if not isinstance(network, nn.Module) or not any(p.requires_grad for p in network.parameters()):
            text = "Return a torch.nn.Module with weights that can be trained."
            raise NotUsable(text) if network is not ... else Unfinished
        for weights in network.eval().parameters():
            weights.data += 0.05 * torch.randn_like(weights)
        x, t = torch.randn(3, 1, 28, 28, requires_grad=True), torch.tensor([20, 400, 900])
        logits = expect_tensor(network(x, t), (3, K), MAKE_CLASSIFIER, ())
        total = network(x, t).sum()
        cut = not total.requires_grad or torch.autograd.grad(total, x, allow_unused=True)[0] is None
        alone = torch.cat([network(x[i : i + 1], t[i : i + 1]) for i in range(3)])
    _wrong_if({
        "The logits have no gradient in x_t, and guidance follows it: detach nothing.": cut,
        "Its answers are probabilities: leave out the softmax, the loss and the guidance have their own.":
            close(logits.sum(1), torch.ones(3)),
        "What it says of an image depends on the others in its batch.": not close(alone, logits),
        "It is not told t: a stroke at t = 100 is noise at t = 600.": close(network(x, t.flip(0)), logits),
    })  # fmt: skip
    return f"A classifier of noisy images with {sum(p.numel() for p in network.parameters()):,} weights."


MAKE_CLASSIFIER = Exercise(
    heading="14.8 The classifier (10 min)",
    signature="make_classifier(num_classes) -> a network",
    question="A few convolutions with a stride of 2 read digits. How does such a network hear t?",
    formula="logits = linear(flatten(h)); h comes out of convolutions of x_t, and something is added to it, "
    "one number a channel, that a small network makes of t / 1000.",
    blank="h = self.convolutions(x_t) + self.time(____)[:, :, None, None] … return self.head(h.____(1))",
    examine=examine_classifier,
)
EXERCISES = (
    *(SAMPLE, WITH_CFG, WITH_CLASSIFIER, MAKE_SCHEDULE, DENOISING_LOSS, TRAIN, CLASS_LOSS, MAKE_CLASSIFIER),
)
