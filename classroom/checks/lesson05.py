"""Exercises of lesson 05, a classifier that reads noise: a log-probability, and a class's gradient."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from classroom.checks.exercise import Exercise, variants
from classroom.checks.networks import Network, image

ORDINARY = ((-2.5, -1.5, -0.4, 0.3, 0.9, 1.7, 2.8), (1, 0, 1, 0, 1, 1, 0))
# 200 is where float32 gives up, 1000 where float64 does too: some will compute in it.
LARGE = ((-1000.0, -200.0, -30.0, 30.0, 200.0, 1000.0) * 2, (1,) * 6 + (0,) * 6)
SHAPE, CLASSES = (3, 2, 4, 5), 6  # [B, C, H, W] and K, all different


def _signed(logit: Tensor, value: Tensor) -> Tensor:
    return torch.where(value == 1, logit, -logit)


def classifier() -> Network:
    """(x_t, t) -> logits; the sine makes the gradient depend on both, and each sample's on nothing else."""
    weight = image(5, 0.7, (CLASSES, *SHAPE[1:]))

    def logits(x, t, y):
        return torch.einsum("bchw,kchw->bk", torch.sin(x + t.to(x).view(-1, 1, 1, 1) / 300), weight.to(x))

    return Network(logits, SHAPE[1:], name="classifier").eval()


def _gradient(objective: Callable[[Tensor, Tensor], Tensor]) -> Callable:
    """The gradient of objective(logits, y)."""

    def formula(classifier, x_t, t, y):
        with torch.enable_grad():
            x = x_t.detach().requires_grad_()
            return torch.autograd.grad(objective(classifier(x, t), y), x)[0]

    return formula


def _pick(rows: Tensor, y: Tensor) -> Tensor:
    return rows.gather(1, y[:, None]).sum()


ATTRIBUTE_LOG_PROB = Exercise(
    heading="05.1 Yes or no (5 min)",
    signature="attribute_log_prob(logit [B], value [B]) -> [B]",
    question="sigmoid(logit) is the probability of yes. What must be done to the logit, so that the same "
    "sigmoid gives the probability of no?",
    formula="1 - sigmoid(z) = sigmoid(-z). And log sigmoid(z) = -log(1 + exp(-z)), which PyTorch has as one "
    "function that stays finite.",
    blank="return F.____(torch.where(value == 1, ____, ____))",
    praise="It stays finite however sure the classifier is, so it can guide from the first step to the last.",
    cases=(ORDINARY, LARGE),
    given=lambda logit, value: (torch.tensor(logit), torch.tensor(value)),
    right=lambda logit, value: F.logsigmoid(_signed(logit, value)),
    limits={1: "At large logits the result is off, as if clipped: at a logit of -200 log p(1) is near -200."},
    overflow="At large logits the result is infinite or NaN: log and sigmoid must be one function.",
    shapes={
        "[B, 2] [2, B]": "Both values' log-probabilities are returned: choose that of each sample's value."
    },
    wrong=variants(
        "The probability is returned: take its logarithm.",
        lambda z, v: _signed(z, v).sigmoid(),
        "value is turned round: sigmoid(logit) is the probability of 1.",
        lambda z, v: F.logsigmoid(-_signed(z, v)),
        "1 - or the minus stands outside the logarithm: turn the probability round before the log.",
        lambda z, v: (2 * v - 1) * F.logsigmoid(z),
        "The logit is returned: the sigmoid makes it a probability, which then needs its logarithm.",
        lambda z, v: z,
        _signed,
    ),
)
CLASS_GRADIENT = Exercise(
    heading="05.2 Which way is more seven? (15 min)",
    signature="class_gradient(classifier, x_t [B, C, H, W], t [B], y [B]) -> [B, C, H, W]",
    question="autograd differentiates one number. Which number made of the B log-probabilities has as its "
    "gradient each sample's own, if no sample's log-probability depends on another sample?",
    formula="∂/∂x_i Σ_j log p(y_j given x_j) = ∂/∂x_i log p(y_i given x_i), and log p(y given x) = "
    "logit_y - log Σ_k exp(logit_k): recorded under enable_grad, on a copy of x_t.",
    blank="with torch.enable_grad(): x = x_t.____().requires_grad_() … log_p = ____(classifier(x, t), "
    "dim=____) … return torch.autograd.grad(____, x)[0]",
    praise="This is the arrow that guidance follows: for each sample, the way to more of its class.",
    cases=((1, (40, 310, 820), (4, 1, 5)), (2, (990, 500, 120), (0, 3, 2))),
    given=lambda seed, t, y: (classifier(), image(seed, shape=SHAPE), torch.tensor(t), torch.tensor(y)),
    right=_gradient(lambda logits, y: _pick(logits.log_softmax(1), y)),
    asks="freely",
    shapes={"[] [1] [B] [B, 1] [B, 6]": "The classifier's answer is returned: return its gradient at x_t."},
    errors={
        "only for scalar outputs": "autograd differentiates one number: add up the log-probabilities first.",
        "does not require grad": "Nothing leads back to x_t. Samplers call this inside torch.no_grad(): put "
        "all of it under torch.enable_grad(), let x_t require grad before it is asked, and detach nothing.",
        "not have been used in the graph": "The classifier was asked about another tensor than this one.",
    },
    wrong=variants(
        "This is the gradient of the probability: take the logarithm before the gradient.",
        _gradient(lambda logits, y: _pick(logits.softmax(1), y)),
        "This is the gradient of the logit: log p is the log_softmax, which knows of the other classes.",
        _gradient(_pick),
        "All classes are added up: only the log-probability of y counts.",
        _gradient(lambda logits, y: logits.log_softmax(1).sum()),
        "The softmax is taken twice: log_softmax and cross_entropy must be given the logits.",
        _gradient(lambda logits, y: _pick(logits.softmax(1).log_softmax(1), y)),
    ),
)
EXERCISES = (ATTRIBUTE_LOG_PROB, CLASS_GRADIENT)
