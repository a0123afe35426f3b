"""Exercises of lesson 05, a classifier that reads noise: a yes-or-no log-probability, and a class's gradient.

A wrong answer is named by working out the classic wrong formulas on the same inputs: the one that gives what
the learner's function gives in every case is the learner's. What a formula cannot show is tried: logits so
large that sigmoid rounds to 0, a caller inside torch.no_grad(), an x_t that must come back as it was.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from classroom.checks import running
from classroom.checks.judging import Exercise, NotReal, NotUsable, Wrong, close, expect_tensor

LOG_PROB = {
    "unstable": "At large logits the result is infinite or NaN: sigmoid rounds to 0 or 1, so log and "
    "sigmoid must be one function.",
    "flat": "At large logits the result stays flat, as if something were clipped: log p(1) must be near -200 "
    "at a logit of -200.",
    "no log": "The probability is returned: take its logarithm.",
    "value": "value is not used: log p(attribute = 0) differs from log p(attribute = 1).",
    "turned": "value is turned round: sigmoid(logit) is the probability of 1.",
    "loss": "The sign is turned round: a log-probability is at most 0, its negative is a loss.",
    "half": "Samples of one value get 0: each of the two values needs its own log-probability.",
    "complement": "1 - or the minus stands outside the logarithm: turn the probability round before the log.",
    "factor": "Where value is 0 the logit is multiplied by 0: there it must change its sign.",
    "twice": "The sigmoid is taken twice: a function made for logits must be given the logit itself.",
    "over batch": "A softmax runs over the batch: each logit is a question of its own, so take the sigmoid.",
    "logits": "The logit is returned: the sigmoid makes it a probability, which then needs its logarithm.",
    "base": "The logarithm has base 2 or 10: it must be the natural one, or every gradient is scaled.",
    "one number": "The batch is reduced to one number: each sample needs its own log-probability, [B].",
    "both": "The log-probabilities of both values are returned: choose for each sample the one of its value.",
}
GRADIENT = {
    "no_grad": "A sampler calls this inside torch.no_grad(), where nothing is recorded: put all that leads "
    "to the gradient under torch.enable_grad().",
    "no path": "No path leads back to x_t: it must require grad before the classifier sees it, and nothing "
    "may be detached after that.",
    "not summed": "autograd differentiates one number: add up the batch's log-probabilities first.",
    "tuple": "torch.autograd.grad returns a tuple, one gradient for each input: take its first entry.",
    "log p": "The classifier's answer is returned: return its gradient with respect to x_t, [B, C, H, W].",
    "mean": "The gradient is B times too small: add up the log-probabilities of the batch, take no mean.",
    "probability": "This is the gradient of the probability: take the logarithm before the gradient.",
    "logit": "This is the gradient of the logit: log p is the log_softmax, which knows of the other classes.",
    "label": "This gradient leads to another class: use each sample's own y, not the classifier's guess.",
    "all labels": "log_p[:, y] takes every label of the batch for every sample: take one of each row.",
    "all classes": "All classes are added up: only the log-probability of y counts.",
    "zero": "The gradient is 0: is it of all probabilities together, whose sum is 1 whatever x_t is?",
    "sign": "The sign is turned round: this gradient of the loss leads away from y.",
    "axis": "The softmax runs over the batch: the probabilities of one sample's classes must add up to 1.",
    "twice": "The softmax is taken twice: log_softmax and cross_entropy must be given the logits.",
    "sigmoid": "The sigmoid takes each class for a yes or no of its own: one of K classes needs log_softmax.",
    "norm": "The gradient is divided by its own size: keep it, for it says how much there is to gain.",
    "t": "The classifier is told another t than the one given: it must know how noisy x_t is.",
    "copy": "What the caller gave is changed (values, requires_grad or .grad): work on a copy, "
    "x_t.detach().requires_grad_().",
    "graph": "The result still carries a graph: leave out create_graph, or memory grows with every step.",
    "left on": "Gradients stay switched on for the caller: `with torch.enable_grad():` ends by itself.",
}

# ---- 05.1 ----

ORDINARY = ((-2.5, -1.5, -0.4, 0.3, 0.9, 1.7, 2.8), (1, 0, 1, 0, 1, 1, 0))
# 200 is where float32 gives up, 1000 where float64 does too: some will compute in it.
LARGE = ((-1000.0, -200.0, -30.0, 30.0, 200.0, 1000.0) * 2, (1,) * 6 + (0,) * 6)
FLAT = ((0, 1), (10, 11))  # places in LARGE whose results must differ by 800
ROUGHLY = 0.05  # what an epsilon of up to 0.001 inside the logarithm does to the ordinary logits


def _signed(logit: Tensor, value: Tensor) -> Tensor:
    return torch.where(value == 1, logit, -logit)


def _log_prob(logit: Tensor, value: Tensor) -> Tensor:
    return F.logsigmoid(_signed(logit, value))


WRONG_LOG_PROB: list[tuple[str, Callable[[Tensor, Tensor], Tensor]]] = [
    ("no log", lambda logit, value: _signed(logit, value).sigmoid()),
    ("no log", lambda logit, value: logit.sigmoid()),
    ("value", lambda logit, value: F.logsigmoid(logit)),
    ("value", lambda logit, value: F.logsigmoid(-logit)),
    ("turned", lambda logit, value: _log_prob(logit, 1 - value)),
    ("loss", lambda logit, value: -_log_prob(logit, value)),
    ("half", lambda logit, value: value * F.logsigmoid(logit)),
    ("half", lambda logit, value: (1 - value) * F.logsigmoid(-logit)),
    ("complement", lambda logit, value: (1 - value) + (2 * value - 1) * F.logsigmoid(logit)),
    ("complement", lambda logit, value: (2 * value - 1) * F.logsigmoid(logit)),
    ("factor", lambda logit, value: F.logsigmoid(value * logit)),
    ("twice", lambda logit, value: _log_prob(logit.sigmoid(), value)),
    ("twice", lambda logit, value: F.logsigmoid(_signed(logit, value).sigmoid())),
    ("over batch", lambda logit, value: F.log_softmax(logit, dim=0)),
    ("over batch", lambda logit, value: F.log_softmax(_signed(logit, value), dim=0)),
    ("over batch", lambda logit, value: F.softmax(logit, dim=0)),
    ("over batch", lambda logit, value: F.softmax(_signed(logit, value), dim=0)),
    ("logits", lambda logit, value: logit),
    ("logits", _signed),
    ("base", lambda logit, value: _signed(logit, value).sigmoid().log2()),
    ("base", lambda logit, value: _signed(logit, value).sigmoid().log10()),
]


def _batch(given: tuple[tuple[float, ...], tuple[int, ...]]) -> tuple[Tensor, Tensor]:
    return torch.tensor(given[0]), torch.tensor(given[1])


def examine_log_prob(function: Callable) -> str:
    """Exercise 05.1."""
    ordinary, large = _batch(ORDINARY), _batch(LARGE)
    value, expected = _answered(function, *_batch(ORDINARY)), _log_prob(*ordinary)
    for name, formula in WRONG_LOG_PROB:
        if close(value, formula(*ordinary)):
            raise Wrong(LOG_PROB[name])
    if float((value - expected).abs().max()) > ROUGHLY:
        raise _off_at(value, expected, ORDINARY)
    try:
        far = _answered(function, *_batch(LARGE))
    except NotReal:
        raise Wrong(LOG_PROB["unstable"]) from None
    if any(close(far[i], far[j]) for i, j in FLAT):
        raise Wrong(LOG_PROB["flat"])
    if not close(value, expected):
        raise _off_at(value, expected, ORDINARY)
    if not close(far, _log_prob(*large)):
        raise _off_at(far, _log_prob(*large), LARGE)
    return "It stays finite however sure the classifier is, so it can guide from the first step to the last."


def _answered(function: Callable, logit: Tensor, value: Tensor) -> Tensor:
    result, size = function(logit, value), len(logit)
    if isinstance(result, Tensor):
        if tuple(result.shape) in ((), (1,)):
            raise Wrong(LOG_PROB["one number"])
        if tuple(result.shape) in ((size, 2), (2, size)):
            raise Wrong(LOG_PROB["both"])
    return expect_tensor(result, (size,), "[B]")


def _off_at(result: Tensor, expected: Tensor, given: tuple[tuple[float, ...], tuple[int, ...]]) -> Wrong:
    i = next(i for i in range(len(result)) if not close(result[i], expected[i]))
    logit, value = given[0][i], given[1][i]
    got, wanted = float(result[i]), float(expected[i])
    case = f"logit = {logit:g} and value = {value}"
    return Wrong(f"The numbers are off: for {case} it should be {wanted:.3f}, got {got:.3f}.")


# ---- 05.2 ----

SHAPE, CLASSES = (3, 2, 4, 5), 6  # [B, C, H, W] and K, all different
AXES = "[B, C, H, W]"
# (seed of x_t, t, y): some y beyond B, no sample's t or y is another's.
CASES = ((1, (40, 310, 820), (4, 1, 5)), (2, (990, 500, 120), (0, 3, 2)))


class Classifier(nn.Module):
    """A smooth function of x_t and t in the place of a network; it writes down the timesteps it is told."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.weight = nn.Parameter(0.7 * torch.randn(CLASSES, *SHAPE[1:], generator=generator))
        self.calls = 0
        self.told: set[float] = set()
        self.recorded = True

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        if not isinstance(x_t, Tensor) or tuple(x_t.shape[1:]) != SHAPE[1:]:
            raise Wrong("The classifier must be asked with (x_t, t), x_t of shape [B, C, H, W].")
        if not isinstance(t, Tensor) or tuple(t.shape) != (len(x_t),):
            raise Wrong("The classifier must be asked with (x_t, t), t of shape [B], one timestep a sample.")
        self.calls += 1
        self.recorded = self.recorded and torch.is_grad_enabled()
        with contextlib.suppress(RuntimeError):  # inside torch.vmap a tensor does not tell its numbers
            self.told.update(t.tolist())
        # The sine makes the gradient depend on x_t and on t; no sample's logits depend on another's x_t.
        waves = torch.sin(x_t + t.to(x_t).view(-1, 1, 1, 1) / 300)
        return torch.einsum("bchw,kchw->bk", waves, self.weight.to(x_t))


class Observed(NamedTuple):
    """One call of the learner's function: what it returned, which t it told, what it left behind (a name)."""

    value: Tensor
    told: set[float]
    left: str | None


def _inputs(case: tuple[int, tuple[int, ...], tuple[int, ...]]) -> tuple[Tensor, Tensor, Tensor]:
    seed, t, y = case
    x_t = torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))
    return x_t, torch.tensor(t), torch.tensor(y)


def _pick(rows: Tensor, y: Tensor) -> Tensor:
    """rows [B, K], y [B] -> sum over the batch of rows[i, y_i]."""
    return rows.gather(1, y[:, None]).sum()


def _log_p(logits: Tensor) -> Tensor:
    return logits.log_softmax(dim=1)


def _right_objective(logits: Tensor, y: Tensor) -> Tensor:
    return _pick(_log_p(logits), y)


def _each_a_question(logits: Tensor, y: Tensor) -> Tensor:
    return -F.binary_cross_entropy_with_logits(logits, F.one_hot(y, CLASSES).to(logits), reduction="sum")


# What is differentiated; each is looked for with either sign, and divided by B too.
WRONG_OBJECTIVES: list[tuple[str, Callable[[Tensor, Tensor], Tensor]]] = [
    ("probability", lambda logits, y: _pick(logits.softmax(dim=1), y)),
    ("logit", _pick),
    ("label", lambda logits, y: _log_p(logits).amax(dim=1).sum()),
    ("label", lambda logits, y: logits.amax(dim=1).sum()),
    ("label", lambda logits, y: logits.softmax(dim=1).amax(dim=1).sum()),
    ("label", lambda logits, y: _log_p(logits)[:, y[0]].sum()),
    ("all labels", lambda logits, y: _log_p(logits)[:, y].sum()),
    ("all labels", lambda logits, y: _log_p(logits)[:, y].sum() / len(y) ** 2),
    ("all classes", lambda logits, y: _log_p(logits).sum()),
    ("all classes", lambda logits, y: _log_p(logits).sum() / CLASSES),
    ("all classes", lambda logits, y: logits.sum()),
    ("all classes", lambda logits, y: logits.sum() / CLASSES),
    ("zero", lambda logits, y: logits.sum() * 0),
    ("axis", lambda logits, y: _pick(logits.log_softmax(dim=0), y)),
    ("axis", lambda logits, y: _pick(logits.softmax(dim=0), y)),
    ("twice", lambda logits, y: _pick(_log_p(logits.softmax(dim=1)), y)),
    ("sigmoid", lambda logits, y: _pick(F.logsigmoid(logits), y)),
    ("sigmoid", _each_a_question),
]
# What is done to the right gradient afterwards.
WRONG_ENDS: list[tuple[str, Callable[[Tensor], Tensor]]] = [
    ("mean", lambda gradient: gradient / SHAPE[0]),
    ("sign", lambda gradient: -gradient),
    ("sign", lambda gradient: -gradient / SHAPE[0]),
    ("norm", lambda gradient: gradient / gradient.norm()),
    ("norm", lambda gradient: gradient / gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)),
    ("norm", lambda gradient: gradient / gradient.norm(dim=1, keepdim=True)),
    ("norm", lambda gradient: gradient / gradient.abs().max()),
    ("norm", lambda gradient: gradient / gradient.abs().amax(dim=(1, 2, 3), keepdim=True)),
]


def _gradient(objective: Callable[[Tensor, Tensor], Tensor], case: tuple) -> Tensor:
    x_t, t, y = _inputs(case)
    with torch.enable_grad():
        x_t.requires_grad_()
        return torch.autograd.grad(objective(Classifier()(x_t, t), y), x_t)[0]


def _wrong_gradients() -> Iterator[tuple[str, list[Tensor]]]:
    """Each name with what its formula gives in every case."""
    right = [_gradient(_right_objective, case) for case in CASES]
    for name, end in WRONG_ENDS:
        yield name, [end(gradient) for gradient in right]
    for name, objective in WRONG_OBJECTIVES:
        found = [_gradient(objective, case) for case in CASES]
        for factor in (1, 1 / SHAPE[0], -1, -1 / SHAPE[0]):
            yield name, [factor * gradient for gradient in found]


def warm_up(function: Any) -> None:
    """Import what two of torch's ways to a gradient import at their first use, before the check's clock runs.

    It takes seconds, on a busy machine more than a check may take, and stopped midway it stays broken.
    """
    code = running.code_of(function) if callable(function) else None
    words = repr((code.co_names, code.co_consts)) if code else ""
    if "grad_outputs" in words or "func" in words:
        import torch._dynamo  # noqa: F401


def examine_gradient(function: Callable) -> str:
    """Exercise 05.2."""
    seen = [_observe(function, case) for case in CASES]
    expected = [_gradient(_right_objective, case) for case in CASES]
    values = [one.value for one in seen]
    if not all(map(close, values, expected)):
        if any(one.told and one.told != set(case[1]) for one, case in zip(seen, CASES, strict=True)):
            raise Wrong(GRADIENT["t"])
        for name, wrong in _wrong_gradients():
            if all(map(close, values, wrong)):
                raise Wrong(GRADIENT[name])
        raise _off_in(values, expected)
    for one in seen:
        if one.left is not None:
            raise Wrong(GRADIENT[one.left])
    return "This is the arrow that guidance follows: for each sample, the way to more of its class."


def _observe(function: Callable, case: tuple) -> Observed:
    classifier, given = Classifier().eval(), _inputs(case)
    try:
        with torch.no_grad():  # as samplers call it
            value = function(classifier, *given)
            left_on = torch.is_grad_enabled()
    except RuntimeError as error:
        name = _name_of_error(error, function, case)
        if name is None:
            raise
        raise Wrong(GRADIENT[name], running.line_of(error, running.code_of(function))) from None
    result = _usable(value)
    if classifier.calls == 0:
        raise Wrong("The classifier is never asked: classifier(x_t, t) gives the logits, [B, K].")
    x_t, kept = given[0], all(map(torch.equal, given, _inputs(case)))
    left = "copy" if x_t.requires_grad or x_t.grad is not None or not kept else None
    left = left or ("graph" if value.requires_grad else None) or ("left on" if left_on else None)
    return Observed(result, classifier.told, left)


def _name_of_error(error: RuntimeError, function: Callable, case: tuple) -> str | None:
    text = str(error)
    if "only for scalar outputs" in text:
        return "not summed"
    if "not have been used in the graph" in text:
        return "no path"
    if "does not require grad" not in text:
        return None
    # What fails for a caller with gradients as well has another reason, or switches them off by itself.
    classifier = Classifier().eval()
    try:
        with torch.enable_grad():
            function(classifier, *_inputs(case))
    except RuntimeError as again:
        if "does not require grad" in str(again) and classifier.recorded:
            return "no path"
    return "no_grad"


def _usable(value: Any) -> Tensor:
    if value is None:
        raise NotUsable(
            "Your function returns nothing: the `return` is missing, or a .grad is None because its tensor "
            "did not require grad."
        )
    if isinstance(value, tuple) and len(value) == 1 and isinstance(value[0], Tensor):
        raise Wrong(GRADIENT["tuple"])
    answers = ((), (1,), SHAPE[:1], (SHAPE[0], 1), (SHAPE[0], CLASSES))
    if isinstance(value, Tensor) and tuple(value.shape) in answers:
        raise Wrong(GRADIENT["log p"])
    return expect_tensor(value, SHAPE, AXES)


def _off_in(values: list[Tensor], expected: list[Tensor]) -> Wrong:
    i = next(i for i, value in enumerate(values) if not close(value, expected[i]))
    farthest = (values[i] - expected[i]).abs().argmax()
    got, wanted = float(values[i].flatten()[farthest]), float(expected[i].flatten()[farthest])
    _, t, y = CASES[i]
    case = f"t = {list(t)} and y = {list(y)}"
    return Wrong(f"The numbers are off: with {case} one pixel should be {wanted:.3f}, got {got:.3f}.")


EXERCISES = (
    Exercise(
        number="05.1",
        minutes=5,
        title="Yes or no",
        check_name="attribute_log_prob",
        arguments=("logit", "value"),
        hints=(
            "sigmoid(logit) is the probability of yes. What must be done to the logit, so that the same "
            "sigmoid gives the probability of no?",
            "1 - sigmoid(z) = sigmoid(-z). And log sigmoid(z) = -log(1 + exp(-z)), which PyTorch has as one "
            "function that stays finite.",
            "return F.____(torch.where(value == 1, ____, ____))",
        ),
        examine=examine_log_prob,
        diagnoses=LOG_PROB,
    ),
    Exercise(
        number="05.2",
        minutes=15,
        title="Which way is more seven?",
        check_name="class_gradient",
        arguments=("classifier", "x_t", "t", "y"),
        hints=(
            "autograd differentiates one number. Which number made of the B log-probabilities has as its "
            "gradient each sample's own, if no sample's log-probability depends on another sample?",
            "∂/∂x_i Σ_j log p(y_j given x_j) = ∂/∂x_i log p(y_i given x_i), and log p(y given x) = "
            "logit_y - log Σ_k exp(logit_k): recorded under enable_grad, on a copy of x_t.",
            "with torch.enable_grad(): x = x_t.____().requires_grad_() … "
            "log_p = ____(classifier(x, t), dim=____) … return torch.autograd.grad(____, x)[0]",
        ),
        examine=examine_gradient,
        diagnoses=GRADIENT,
    ),
)
