"""Exercises of lesson 05, a classifier that reads noise: a yes-or-no log-probability, and a class's gradient."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from classroom.checks.exercise import Exercise, variants
from classroom.checks.networks import Network, image

ORDINARY = ((-2.5, -1.5, -0.4, 0.3, 0.9, 1.7, 2.8), (1, 0, 1, 0, 1, 1, 0))
# 200 is where float32 gives up, 1000 where float64 does too: some will compute in it.
LARGE = ((-1000.0, -200.0, -30.0, 30.0, 200.0, 1000.0) * 2, (1,) * 6 + (0,) * 6)


def _signed(logit: Tensor, value: Tensor) -> Tensor:
    return torch.where(value == 1, logit, -logit)


SHAPE, CLASSES = (3, 2, 4, 5), 6  # [B, C, H, W] and K, all different


def classifier() -> Network:
    """(x_t, t) -> logits; the sine makes the gradient depend on both, and each sample's on nothing else."""
    weight = 0.7 * torch.randn(CLASSES, *SHAPE[1:], generator=torch.Generator().manual_seed(5))

    def logits(x, t, y):
        return torch.einsum("bchw,kchw->bk", torch.sin(x + t.to(x).view(-1, 1, 1, 1) / 300), weight.to(x))

    return Network(logits, SHAPE[1:], name="classifier").eval()


def _given(seed: int, t: tuple[int, ...], y: tuple[int, ...]) -> tuple:
    return classifier(), image(seed, shape=SHAPE), torch.tensor(t), torch.tensor(y)


def _gradient(objective: Callable[[Tensor, Tensor], Tensor]) -> Callable:
    """The gradient of objective(logits, y)."""

    def formula(classifier, x_t, t, y):
        with torch.enable_grad():
            x = x_t.detach().requires_grad_()
            return torch.autograd.grad(objective(classifier(x, t), y), x)[0]

    return formula


def _pick(rows: Tensor, y: Tensor) -> Tensor:
    return rows.gather(1, y[:, None]).sum()


EXERCISES = (
    Exercise(
        number="05.1",
        minutes=5,
        title="Yes or no",
        check_name="attribute_log_prob",
        arguments=("logit [B]", "value [B]"),
        returns="[B]",
        hints=(
            "sigmoid(logit) is the probability of yes. What must be done to the logit, so that the same "
            "sigmoid gives the probability of no?",
            "1 - sigmoid(z) = sigmoid(-z). And log sigmoid(z) = -log(1 + exp(-z)), which PyTorch has as one "
            "function that stays finite.",
            "return F.____(torch.where(value == 1, ____, ____))",
        ),
        praise="It stays finite however sure the classifier is, so it can guide from the first step to the last.",
        cases=(ORDINARY, LARGE),
        given=lambda logit, value: (torch.tensor(logit), torch.tensor(value)),
        right=lambda logit, value: F.logsigmoid(_signed(logit, value)),
        limits={
            1: "At large logits the result is off, as if clipped: log p(1) must be near -200 at a logit of -200."
        },
        overflow="At large logits the result is infinite or NaN: sigmoid rounds to 0 or 1, so log and sigmoid "
        "must be one function.",
        shapes={
            "[B, 2] [2, B]": "Both values' log-probabilities are returned: choose the one of each sample's value."
        },
        wrong=variants(
            "The probability is returned: take its logarithm.",
            lambda z, v: _signed(z, v).sigmoid(),
            lambda z, v: z.sigmoid(),
            "value is not used: log p(attribute = 0) differs from log p(attribute = 1).",
            lambda z, v: F.logsigmoid(z),
            "value is turned round: sigmoid(logit) is the probability of 1.",
            lambda z, v: F.logsigmoid(-_signed(z, v)),
            "The sign is turned round: a log-probability is at most 0, its negative is a loss.",
            lambda z, v: -F.logsigmoid(_signed(z, v)),
            "Samples of one value get 0: each of the two values needs its own log-probability.",
            lambda z, v: v * F.logsigmoid(z),
            lambda z, v: (1 - v) * F.logsigmoid(-z),
            "1 - or the minus stands outside the logarithm: turn the probability round before the log.",
            lambda z, v: (1 - v) + (2 * v - 1) * F.logsigmoid(z),
            lambda z, v: (2 * v - 1) * F.logsigmoid(z),
            "Where value is 0 the logit is multiplied by 0: there it must change its sign.",
            lambda z, v: F.logsigmoid(v * z),
            "The sigmoid is taken twice: a function made for logits must be given the logit itself.",
            lambda z, v: F.logsigmoid(_signed(z.sigmoid(), v)),
            lambda z, v: F.logsigmoid(_signed(z, v).sigmoid()),
            "A softmax runs over the batch: each logit is a question of its own, so take the sigmoid.",
            lambda z, v: z.log_softmax(0),
            lambda z, v: _signed(z, v).log_softmax(0),
            "The logit is returned: the sigmoid makes it a probability, which then needs its logarithm.",
            lambda z, v: z,
            _signed,
        ),
    ),
    Exercise(
        number="05.2",
        minutes=15,
        title="Which way is more seven?",
        check_name="class_gradient",
        arguments=("classifier", "x_t [B, C, H, W]", "t [B]", "y [B]"),
        returns="[B, C, H, W]",
        hints=(
            "autograd differentiates one number. Which number made of the B log-probabilities has as its "
            "gradient each sample's own, if no sample's log-probability depends on another sample?",
            "∂/∂x_i Σ_j log p(y_j given x_j) = ∂/∂x_i log p(y_i given x_i), and log p(y given x) = "
            "logit_y - log Σ_k exp(logit_k): recorded under enable_grad, on a copy of x_t.",
            "with torch.enable_grad(): x = x_t.____().requires_grad_() … "
            "log_p = ____(classifier(x, t), dim=____) … return torch.autograd.grad(____, x)[0]",
        ),
        praise="This is the arrow that guidance follows: for each sample, the way to more of its class.",
        cases=((1, (40, 310, 820), (4, 1, 5)), (2, (990, 500, 120), (0, 3, 2))),
        given=_given,
        right=_gradient(lambda logits, y: _pick(logits.log_softmax(1), y)),
        in_sampler=True,
        shapes={
            "[] [1] [B] [B, 1] [B, 6]": "The classifier's answer is returned: return its gradient with respect "
            "to x_t, [B, C, H, W]."
        },
        errors={
            "only for scalar outputs": "autograd differentiates one number: add up the batch's log-probabilities first.",
            "does not require grad": "Nothing was recorded: a sampler calls this inside torch.no_grad(), so put all "
            "that leads to the gradient under torch.enable_grad(), and detach nothing on the way from x_t.",
            "not have been used in the graph": "No path leads back to the tensor that you differentiate by: it must "
            "be the one that the classifier sees.",
        },
        wrong=variants(
            "This is the gradient of the probability: take the logarithm before the gradient.",
            _gradient(lambda logits, y: _pick(logits.softmax(1), y)),
            "This is the gradient of the logit: log p is the log_softmax, which knows of the other classes.",
            _gradient(_pick),
            "This gradient leads to another class: use each sample's own y, not the classifier's guess.",
            _gradient(lambda logits, y: logits.log_softmax(1).amax(1).sum()),
            _gradient(lambda logits, y: logits.amax(1).sum()),
            _gradient(lambda logits, y: logits.log_softmax(1)[:, y[0]].sum()),
            "log_p[:, y] takes every label of the batch for every sample: take one of each row.",
            _gradient(lambda logits, y: logits.log_softmax(1)[:, y].sum()),
            "All classes are added up: only the log-probability of y counts.",
            _gradient(lambda logits, y: logits.log_softmax(1).sum()),
            _gradient(lambda logits, y: logits.sum()),
            "The gradient is 0: is it of all probabilities together, whose sum is 1 whatever x_t is?",
            _gradient(lambda logits, y: logits.sum() * 0),
            "The sign is turned round: this gradient of the loss leads away from y.",
            _gradient(lambda logits, y: F.cross_entropy(logits, y, reduction="sum")),
            _gradient(lambda logits, y: F.cross_entropy(logits, y)),
            "The softmax runs over the batch: the probabilities of one sample's classes must add up to 1.",
            _gradient(lambda logits, y: _pick(logits.log_softmax(0), y)),
            "The softmax is taken twice: log_softmax and cross_entropy must be given the logits.",
            _gradient(lambda logits, y: _pick(logits.softmax(1).log_softmax(1), y)),
            "The sigmoid takes each class for a yes or no of its own: one of K classes needs log_softmax.",
            _gradient(lambda logits, y: _pick(F.logsigmoid(logits), y)),
        ),
    ),
)
