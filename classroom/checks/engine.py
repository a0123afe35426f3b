"""The engine that judges an answer by its exercise's declaration.

It runs the learner's function, the right one and the wrong variants on the same cases. An answer that is not
right is named by the variant that gives the same numbers in every case, or by a mistake that any exercise
may have (`generic`); else the first number that is off is told.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from classroom.checks import generic, running
from classroom.checks.exercise import Exercise, NotUsable, Unfinished, Wrong
from classroom.checks.generic import close
from classroom.checks.networks import Network, Question
from lessons_lib.schedules import NoiseSchedule

COMPLEX = "The result is complex: somewhere the square root of a negative number is taken."
NAN = "The result holds NaN: look for the square root of a negative number, or for 0 divided by 0."
INFINITE = "The result holds an infinite number: look for a division by 0."
CALLER = "the caller still needs it, so make a new one instead of changing it in place."
RANDOM = "Two calls give two results: use what is handed over, and draw no random numbers of your own."
GRAPH = "The result still carries the graph of its computation: return numbers, as by .detach()."
LEFT_ON = "Gradients stay switched on for the caller: `with torch.enable_grad():` ends by itself."
DETACHED = (
    "The numbers are right, but guidance follows their gradient, and here it is cut off or changed: no detach, "
    "no_grad, item or numpy between {} and the result."
)
BAD_GRADIENT = (
    "The numbers are right, but their gradient is NaN or infinite: -inf or log 0 is on the way, even if "
    "torch.where does not choose it."
)
OVERWRITTEN = (
    "The numbers are right, but there is no gradient: a tensor that autograd needs again is changed in place. "
    "masked_fill and torch.where make a new one."
)
BOOL = (
    "torch does not subtract or negate True and False: ~mask is the opposite, and torch.where(mask, a, b) "
    "chooses by it."
)


class Outcome(NamedTuple):
    """One call of a function: its arguments as it left them, and its numbers; why, if it has none."""

    arguments: tuple
    value: Tensor
    failure: Exception | None = None
    dtype: torch.dtype | None = None
    needs_grad: bool = False
    left_on: bool = False

    @property
    def networks(self) -> list[Network]:
        return [argument for argument in self.arguments if isinstance(argument, Network)]


def examine(exercise: Exercise, function: Callable) -> str:
    """The praise for a right answer.

    Raises:
        Wrong: one or two sentences on what is wrong.
    """
    if exercise.examine is not None:
        return exercise.examine(function)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        right = [outcome_of(exercise, exercise.right, case) for case in exercise.cases]
        seen = [_call(exercise, function, *one) for one in zip(exercise.cases, right, strict=True)]
        if not all(close(one.value, wanted.value) for one, wanted in zip(seen, right, strict=True)):
            raise _diagnosis(exercise, function, seen, right)
        _probe(exercise, function, seen, right)
    return exercise.praise


def outcome_of(exercise: Exercise, formula: Callable, case: tuple) -> Outcome:
    """What one of the exercise's own formulas gives for a case: NaN where it has no value."""
    given = exercise.given(*case)
    with contextlib.suppress(ZeroDivisionError, ValueError, RuntimeError, IndexError, OverflowError, Wrong):
        with torch.no_grad() if exercise.in_sampler else contextlib.nullcontext():
            result = formula(*given)
        value = torch.as_tensor(exercise.reads(result, given) if exercise.reads else result)
        if not value.is_complex():
            return Outcome(given, value.detach().double())
    return Outcome(given, torch.tensor(math.nan, dtype=torch.float64))


def _call(exercise: Exercise, function: Callable, case: tuple, right: Outcome) -> Outcome:
    """One call of the learner's function; a case in which it has no value may still leave others to compare."""
    given, left_on = exercise.given(*case), False
    code = running.code_of(function)
    try:
        with torch.no_grad() if exercise.in_sampler else contextlib.nullcontext():
            result = function(*given)
            left_on = exercise.in_sampler and torch.is_grad_enabled()
    except Exception as error:
        name = f"{type(error).__name__}: {error}"
        told = {"bool tensor": BOOL, **exercise.errors}
        if sentence := next((told[words] for words in told if words in name), None):
            raise Wrong(sentence, running.line_of(error, code)) from None
        if isinstance(error, ZeroDivisionError):
            why = f"Something is divided by 0 {_where(exercise, case)}."
        elif isinstance(error, ValueError) and re.search("math domain|nonnegative", str(error)):
            why = f"The square root of a negative number is taken {_where(exercise, case)}."
        else:
            raise
        failure = Wrong(why, running.line_of(error, code))
        return Outcome(given, torch.full_like(right.value, math.nan), failure)
    value = usable(exercise, result, given, right.value)
    if not isinstance(value, Tensor) or value.is_complex():
        return Outcome(given, torch.full_like(right.value, math.nan), NotUsable(COMPLEX))
    failure = NotUsable(NAN) if bool(value.isnan().any()) else NotUsable(INFINITE)
    kind = (result.dtype, result.requires_grad) if isinstance(result, Tensor) else (None, False)
    return Outcome(given, value, None if bool(value.isfinite().all()) else failure, *kind, left_on)


# ---- is it usable? ----


def usable(exercise: Exercise, result: Any, given: tuple, wanted: Tensor) -> Tensor:
    """The result as float64 on the CPU, or complex, if it is of the right kind and shape."""
    if result is ...:
        raise Unfinished
    if result is None:
        raise NotUsable("Your function returns nothing: is the `return` missing?")
    if exercise.reads is not None:
        return exercise.reads(result, given)
    if exercise.returns in ("one number", "one whole number"):
        return number(result, exercise.returns)
    return expect_tensor(result, tuple(wanted.shape), exercise, given)


def expect_tensor(result: Any, shape: tuple[int, ...], exercise: Exercise, given: tuple = ()) -> Tensor:
    """The result in float64 on the CPU (or complex), if it is a tensor of that shape."""
    if isinstance(result, tuple | list):
        kind = f"a {type(result).__name__}"
        if len(result) == 1:
            raise NotUsable(f"Your function returns {kind} of one entry: return the entry itself, result[0].")
        if isinstance(result, tuple) and isinstance(result[0] if result else None, Tensor):
            raise NotUsable(f"Several things are returned: only {exercise.returns} is asked.")
        raise NotUsable(
            f"Your function must return a tensor, got {kind}: torch.stack or torch.tensor makes one."
        )
    if not isinstance(result, Tensor):
        raise NotUsable(f"Your function must return a tensor, got {_a(type(result).__name__)}.")
    if tuple(result.shape) != shape:
        raise NotUsable(_of_shape(exercise, tuple(result.shape), shape, given))
    return (
        result.detach().cpu() if result.is_complex() else result.detach().to("cpu", torch.float64, copy=True)
    )


def _of_shape(exercise: Exercise, got: tuple[int, ...], shape: tuple[int, ...], given: tuple) -> str:
    sizes = _sizes(exercise, given)
    for shapes, sentence in exercise.shapes.items():
        if got in [_shape(axes, sizes) for axes in re.findall(r"\[(.*?)\]", shapes)]:
            return sentence
    wanted = f"{list(shape)}, that is {exercise.returns}"
    if got in ((), (1,)) and exercise.returns == "[B]":
        return "The batch is reduced to one number: each sample needs its own, [B]."
    if got == (*shape, 1):
        return f"The result has one axis too many, {list(got)}: keepdim or an index in brackets leaves it. {exercise.returns} is asked."
    if len(got) == len(shape) and got != shape and sorted(got) == sorted(shape):
        return f"The axes are in another order: the result must have shape {wanted}, got {list(got)}."
    return f"The result must have shape {wanted}, got {list(got)}."


def _sizes(exercise: Exercise, given: tuple) -> dict[str, int]:
    """The sizes of the axes by name; a whole number among the arguments is one, too."""
    sizes = {}
    for declared, argument in zip(exercise.arguments, given, strict=False):
        name, _, axes = declared.partition(" ")
        if isinstance(argument, Tensor):
            sizes |= dict(zip(re.findall(r"\w+", axes), argument.shape, strict=False))
        elif isinstance(argument, int):
            sizes[name] = argument
    return sizes


def _shape(axes: str, sizes: dict[str, int]) -> tuple[int, ...]:
    """ "N*K, C/heads, T-1" -> the sizes."""

    def size(axis: str) -> int:
        product, less = axis.partition("-")[::2]
        above, *below = product.split("/")
        whole = math.prod(sizes[one] if one in sizes else int(one) for one in above.split("*"))
        return whole // math.prod(sizes[one] for one in below) - int(less or 0)

    return tuple(size(axis.strip()) for axis in axes.split(",") if axis.strip())


def number(value: Any, kind: str = "one number") -> Tensor:
    """The result as float64, if it is one real number: Python's, torch's or numpy's."""
    if isinstance(value, list | tuple) or getattr(value, "ndim", 0) > 0:
        raise NotUsable(
            f"Your function must return {kind}, got {len(value)} of them in a {type(value).__name__}."
        )
    if getattr(value, "ndim", None) == 0:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise NotUsable(f"Your function must return {kind}, not a value of type {type(value).__name__}.")
    if not math.isfinite(value):
        raise NotUsable(f"Your function must return {kind}, got {value}.")
    return torch.tensor(value, dtype=torch.float64)


# ---- what is wrong? ----


def _diagnosis(exercise: Exercise, function: Callable, seen: list[Outcome], right: list[Outcome]) -> Wrong:
    ordinary = [i for i in range(len(seen)) if i not in exercise.limits]
    fits = [close(one.value, wanted.value) for one, wanted in zip(seen, right, strict=True)]
    off = fits.index(False)
    if all(fits[i] for i in ordinary):
        unreal = seen[off].failure is not None or not bool(seen[off].value.isfinite().all())
        line = getattr(seen[off].failure, "line", None)
        return Wrong((unreal and exercise.overflow) or exercise.limits[off], line)
    if seen[ordinary[0]].failure is None and _is_random(exercise, function, seen[ordinary[0]], right[0]):
        return Wrong(RANDOM)
    if networks := [one for outcome in seen for one in outcome.networks]:
        if not any(one.questions for one in networks):
            name = networks[0].name
            return Wrong(f"The {name} is never asked: its answer is needed, so call it.")
    values, wanted = [seen[i].value for i in ordinary], [right[i].value for i in ordinary]
    found = [(variant.sentence, results) for variant, results in _results(exercise, ordinary)]
    sentence = (
        next((sentence for sentence, results in found if generic.same(values, results)), None)
        or _changed(exercise, seen)
        or _other_questions(seen, right)
        or _exchanged(exercise, function, right)
        or generic.of_mixtures(*(_mixtures(exercise, ordinary, seen, right, of) for of in (values, wanted)))
        or generic.of_numbers(values, wanted)
        or next(
            (told for sentence, results in found if (told := generic.turned(values, results, sentence))), None
        )
    )
    if sentence is not None:
        return Wrong(sentence)
    failed = next((seen[i].failure for i in ordinary if seen[i].failure is not None), None)
    if exercise.overflow and not exercise.limits and failed is not None:
        return Wrong(exercise.overflow, failed.line)
    return failed or _first_difference(exercise, off, seen, right)


def _results(exercise: Exercise, ordinary: list[int]) -> Any:
    """Each variant with what each of its formulas gives in the ordinary cases."""
    for variant in exercise.wrong:
        for formula in variant.formulas:
            yield variant, [outcome_of(exercise, formula, exercise.cases[i]).value for i in ordinary]


def _is_random(exercise: Exercise, function: Callable, before: Outcome, right: Outcome) -> bool:
    again = _call(exercise, function, exercise.cases[0], right)
    return not close(again.value, before.value)


def _changed(exercise: Exercise, seen: list[Outcome]) -> str | None:
    """Whether an argument is not as it was handed over."""
    for case, outcome in zip(exercise.cases, seen, strict=True):
        for name, now, before in zip(exercise.names, outcome.arguments, exercise.given(*case), strict=True):
            if not _same_argument(now, before):
                return f"{name} is changed: {CALLER}"
    return None


def _same_argument(now: Any, before: Any) -> bool:
    if isinstance(before, Tensor):
        return torch.equal(now.detach(), before) and not now.requires_grad and now.grad is None
    if isinstance(before, NoiseSchedule):
        return torch.equal(now.betas, before.betas) and torch.equal(now.alphas_cumprod, before.alphas_cumprod)
    return now == before if isinstance(before, int | float | list | tuple | dict) else True


def _other_questions(seen: list[Outcome], right: list[Outcome]) -> str | None:
    """Whether the network was asked something else than it must be."""
    for outcome, wanted in zip(seen, right, strict=True):
        for network, model in zip(outcome.networks, wanted.networks, strict=True):
            if network.questions and (sentence := _other_question(network, model)):
                return sentence
    return None


def _other_question(network: Network, model: Network) -> str | None:
    (rows, must), name = (_rows(net.questions) for net in (network, model)), network.name
    for what, part in (("at t =", 1), ("for the labels", 2)):
        asked, needed = ({row[part] for row in some} for some in (rows, must))
        if asked != needed:
            told = [", ".join(map(str, sorted(some))) for some in (asked, needed)]
            return f"The {name} is asked {what} {told[0]}: the right ones are {told[1]}."
    if any(not close(row[0], must[0][0]) for row in rows[:1]):
        return f"The {name} is first asked about another image than it must be."
    known = [row[0] for row in must]
    places = [[i for i, image in enumerate(known) if close(image, row[0])] for row in rows]
    if all(places) and any(
        row[1:] not in [must[i][1:] for i in some] for row, some in zip(rows, places, strict=True)
    ):
        return f"The {name} meets an image with another's t or label: repeat all of them in the same order."
    return None


def _rows(questions: list[Question]) -> list[tuple[Tensor, int, int | None]]:
    """Each image with its t and its label."""
    return [
        row
        for one in questions
        for row in zip(
            one.x, one.t.tolist(), [None] * len(one.x) if one.y is None else one.y.tolist(), strict=True
        )
    ]


def _exchanged(exercise: Exercise, function: Callable, right: list[Outcome]) -> str | None:
    """Whether the numbers are right once two arguments of one kind change places."""
    kinds = [_kind_of(argument) for argument in right[0].arguments]
    pairs = [
        (i, j) for j in range(len(kinds)) for i in range(j) if kinds[i] is not None and kinds[i] == kinds[j]
    ]
    for pair in pairs:
        with contextlib.suppress(Exception):
            if all(
                _fits_exchanged(exercise, function, pair, *one)
                for one in zip(exercise.cases, right, strict=True)
            ):
                first, second = (exercise.names[i] for i in pair)
                return f"{first} and {second} are exchanged: with the two in each other's place the numbers are right."
    return None


def _fits_exchanged(exercise: Exercise, function: Callable, pair: tuple, case: tuple, right: Outcome) -> bool:
    given, (i, j) = list(exercise.given(*case)), pair
    given[i], given[j] = given[j], given[i]
    with torch.no_grad() if exercise.in_sampler else contextlib.nullcontext():
        return close(usable(exercise, function(*given), tuple(given), right.value), right.value)


def _kind_of(argument: Any) -> Any:
    if isinstance(argument, Tensor):
        return tuple(argument.shape), argument.dtype
    return "number" if isinstance(argument, float) else None


def _mixtures(
    exercise: Exercise, ordinary: list[int], seen: list[Outcome], right: list[Outcome], values: list[Tensor]
) -> list[generic.Mixture | None]:
    """Each value as a mixture of the images that came in, and of what the network said."""
    return [
        generic.mixture(_images(exercise, exercise.cases[i], seen[i], right[i]), value)
        for i, value in zip(ordinary, values, strict=True)
    ]


def _images(exercise: Exercise, case: tuple, seen: Outcome, right: Outcome) -> dict[str, Tensor]:
    images = dict(zip(exercise.names, exercise.given(*case), strict=True))
    for network, model in zip(seen.networks, right.networks, strict=True):
        answers = [[one.answer for one in net.questions] for net in (network, model)]
        if generic.same(*answers):
            order = ("the network's answer", "its second answer")
            images |= dict(zip(order, answers[0], strict=False))
    shape = right.value.shape
    return {name: one for name, one in images.items() if isinstance(one, Tensor) and one.shape == shape}


# ---- the first difference ----


def _first_difference(exercise: Exercise, i: int, seen: list[Outcome], right: list[Outcome]) -> Wrong:
    case, value, wanted = exercise.cases[i], seen[i].value, right[i].value
    mixed = [generic.mixture(_images(exercise, case, seen[i], right[i]), one) for one in (value, wanted)]
    if all(mixed):
        factors = " and ".join(f"{name} is multiplied by {share:.3f}" for name, share in mixed[0].items())
        shares = " and ".join(f"{share:.3f}" for share in mixed[1].values())
        return Wrong(f"The numbers are off: {_where(exercise, case)} {factors}, which should be {shares}.")
    if value.ndim == 0:
        got, must = float(value), float(wanted)
        return Wrong(f"The number is off: {_where(exercise, case)} it should be {must:.4g}, got {got:.4g}.")
    farthest = int((value - wanted).abs().nan_to_num(nan=math.inf).argmax())
    place = [int(index) for index in torch.unravel_index(torch.tensor(farthest), value.shape)]
    got, must = float(value.flatten()[farthest]), float(wanted.flatten()[farthest])
    where = _where(exercise, case, place[0] if exercise.returns == "[B]" else None)
    return Wrong(f"The numbers are off: {where} the one at {place} should be {must:.3f}, got {got:.3f}.")


def _where(exercise: Exercise, case: tuple, row: int | None = None) -> str:
    """ "with abar = 0.3 and s = 2.5": the arguments that are small enough to be told."""
    told = [
        f"{name} = {text}"
        for name, argument in zip(exercise.names, exercise.given(*case), strict=True)
        if (text := _told(argument, row)) and len(text) < 90
    ]
    return f"with {' and '.join([', '.join(told[:-1]), told[-1]] if told[1:] else told)}" if told else "here"


def _told(value: Any, row: int | None) -> str:
    if isinstance(value, bool | int | float):
        return f"{value:g}" if isinstance(value, float) else str(value)
    if isinstance(value, Tensor):
        if row is not None and value.ndim and len(value) > row:
            value = value[row]
        small = value.ndim < 2 and value.numel() < 13
        return _told(value.tolist(), None) if small else ""
    if isinstance(value, list | tuple):
        return f"[{', '.join(_told(one, None) for one in value)}]"
    return str(value) if isinstance(value, dict) else ""


# ---- right numbers are not all ----


def _probe(exercise: Exercise, function: Callable, seen: list[Outcome], right: list[Outcome]) -> None:
    if sentence := _changed(exercise, seen):
        raise Wrong(sentence)
    if any(one.left_on for one in seen):
        raise Wrong(LEFT_ON)
    if exercise.in_sampler and any(one.needs_grad for one in seen):
        raise Wrong(GRAPH)
    for outcome, wanted in zip(seen, right, strict=True):
        if exercise.same_dtype and outcome.dtype != wanted.arguments[0].dtype:
            raise Wrong(f"The result has another dtype than {exercise.names[0]}: keep it.")
        for network, model in zip(outcome.networks, wanted.networks, strict=True):
            counts = [
                (len(net.questions), sum(len(one.x) for one in net.questions)) for net in (network, model)
            ]
            (calls, rows), (least, few) = counts
            if (exercise.asks == "calls" and calls > least) or (exercise.asks and rows > few):
                raise Wrong(
                    f"The numbers are right, but the {network.name} is called {calls} times, with {rows} images in all: "
                    f"{least} and {few} are enough. Keep what it said, or join what is asked into one batch."
                )
    if exercise.gradient_of:
        for case in exercise.cases:
            _probe_gradient(exercise, function, case)


def _probe_gradient(exercise: Exercise, function: Callable, case: tuple) -> None:
    """Ask as guidance does, with an argument that comes out of a network."""

    def gradient(of: Callable) -> Tensor | None:
        given = list(exercise.given(*case))
        place = exercise.names.index(exercise.gradient_of)
        source = given[place].requires_grad_()
        given[place] = source * 1.0
        result = of(*given)
        return (
            torch.autograd.grad(result.sum(), source, allow_unused=True)[0] if result.requires_grad else None
        )

    with torch.enable_grad():
        expected = gradient(exercise.right)
        try:
            found = gradient(function)
        except RuntimeError as error:
            words = {"modified by an inplace": OVERWRITTEN, "numpy": DETACHED, "does not require": DETACHED}
            sentence = next((told for word, told in words.items() if word in str(error)), None)
            if sentence is None:
                raise
            line = running.line_of(error, running.code_of(function))
            raise Wrong(sentence.format(exercise.gradient_of), line) from None
    if found is not None and not bool(found.isfinite().all()):
        raise Wrong(BAD_GRADIENT)
    if found is None or not close(found, expected):
        raise Wrong(DETACHED.format(exercise.gradient_of))


def _a(noun: str) -> str:
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"
