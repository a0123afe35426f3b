"""The engine that judges an answer by its exercise's declaration.

It runs the learner's function, the right one and the wrong variants on the same cases. An answer that is not
right is named by the variant that gives the same numbers in every case, or by a mistake that any exercise
may have (`generic`); else the first number that is off is told.
"""

import contextlib
import itertools
import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from classroom.checks import generic, running
from classroom.checks.exercise import Exercise, NotUsable, Unfinished, Wrong
from classroom.checks.generic import close
from classroom.checks.networks import Network
from lessons_lib.schedules import NoiseSchedule

COMPLEX = "The result is complex: somewhere the square root of a negative number is taken."
NAN = "The result holds NaN: look for the square root of a negative number, or for 0 divided by 0."
INFINITE = "The result holds an infinite number: look for a division by 0."
MINGLED = "The samples of the batch mingle: each has its own result, so nothing may run along the batch."
RANDOM = "Two calls give two results: use what is handed over, and draw no random numbers of your own."
CHANGED = "{} is changed: the caller still needs it, so make a new one instead of changing it in place."
GRAPH = "The result still carries the graph of its computation: return numbers, as by .detach()."
GRADIENT = "The numbers are right, but guidance follows their gradient, and here "
CUT = GRADIENT + "it is cut off or changed: no detach, no_grad, item or numpy on the way."
BAD_GRADIENT = (
    GRADIENT + "it is NaN or infinite: -inf or log 0 is on the way, even if torch.where leaves it out."
)
OVERWRITTEN = GRADIENT + "there is none: a tensor that autograd needs again is changed in place."
JOIN = "Keep its answers, or join the questions into one batch."
NO_GRADIENT = {"modified by an inplace": OVERWRITTEN, "numpy": CUT, "does not require": CUT}
BOOL = (
    "torch does not subtract or negate True and False: ~mask is the opposite, torch.where chooses by a mask."
)


class Outcome(NamedTuple):
    """One call of a function: its arguments as it left them, and its numbers; why, if it has none."""

    arguments: tuple
    value: Tensor
    failure: Wrong | None = None
    result: Any = None

    @property
    def networks(self) -> list[Network]:
        return [argument for argument in self.arguments if isinstance(argument, Network)]


def examine(exercise: Exercise, function: Callable) -> str:
    """The praise for a right answer; Wrong, with one or two sentences, is raised for others."""
    if exercise.examine is not None:
        return exercise.examine(function)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Examination(exercise, function).verdict()


def outcome_of(exercise: Exercise, formula: Callable, given: Sequence) -> Outcome:
    """What one of the exercise's own formulas gives: NaN where it has no value."""
    with contextlib.suppress(Exception), torch.set_grad_enabled(not exercise.asks):
        result = formula(*given)
        value = torch.as_tensor(exercise.reads(result, given) if exercise.reads else result)
        if not value.is_complex():
            return Outcome(tuple(given), value.detach().double())
    return Outcome(tuple(given), torch.tensor(math.nan, dtype=torch.float64))


class Examination:
    """An exercise, a learner's function, and what right and learner's function give in each case."""

    def __init__(self, exercise: Exercise, function: Callable) -> None:
        self.exercise, self.function, self.code = exercise, function, running.code_of(function)
        self.right = [self.wanted(self.given(i)) for i in range(len(exercise.cases))]
        self.seen = [self.call(self.given(i), right, i) for i, right in enumerate(self.right)]
        self.both = list(zip(self.seen, self.right, strict=True))
        self.ordinary = [i for i in range(len(self.seen)) if i not in exercise.limits]

    def verdict(self) -> str:
        fits = [close(one.value, right.value) for one, right in self.both]
        if all(fits):
            self.probe()
            return self.exercise.praise
        off = fits.index(False)
        if all(fits[i] for i in self.ordinary):
            unreal = self.exercise.overflow if not bool(self.seen[off].value.isfinite().all()) else ""
            raise Wrong(unreal or self.exercise.limits[off], getattr(self.seen[off].failure, "line", None))
        sentence = next(filter(None, self.sentences()), None)
        if sentence is not None:
            raise Wrong(sentence)
        failed = next((self.seen[i].failure for i in self.ordinary if self.seen[i].failure), None)
        if failed and self.exercise.overflow and not self.exercise.limits:
            failed = Wrong(self.exercise.overflow, failed.line)
        raise failed or self.first_difference(off)

    def given(self, i: int) -> list:
        """The arguments of a case, made afresh."""
        return list(self.exercise.given(*self.exercise.cases[i]))

    def wanted(self, given: Sequence) -> Outcome:
        return outcome_of(self.exercise, self.exercise.right, given)

    def call(self, given: Sequence, right: Outcome, i: int = 0) -> Outcome:
        """The learner's function; where it has no value, other cases may have one."""
        nothing = torch.full_like(right.value, math.nan)
        try:
            with torch.set_grad_enabled(not self.exercise.asks):
                result = self.function(*given)
        except Exception as error:
            return Outcome(tuple(given), nothing, self.failure(error, i))
        value = usable(self.exercise, result, tuple(given), right.value)
        if value.is_complex():
            return Outcome(tuple(given), nothing, NotUsable(COMPLEX))
        why = NAN if bool(value.isnan().any()) else INFINITE
        return Outcome(tuple(given), value, None if bool(value.isfinite().all()) else NotUsable(why), result)

    def failure(self, error: Exception, i: int) -> Wrong:
        """What an exception means, if it has a meaning that is known; else it is raised again."""
        text, line = f"{type(error).__name__}: {error}", running.line_of(error, self.code)
        for words, sentence in {"bool tensor": BOOL, **self.exercise.errors}.items():
            if words in text:
                raise Wrong(sentence, line) from None
        if isinstance(error, ZeroDivisionError):
            return Wrong(f"Something is divided by 0 {self.where(i)}.", line)
        if isinstance(error, ValueError) and re.search("math domain|nonnegative", text):
            return Wrong(f"The square root of a negative number is taken {self.where(i)}.", line)
        raise error

    def sentences(self) -> Iterator[str | None]:
        """What may be said on wrong numbers, the best first."""
        values, right = ([some[i].value for i in self.ordinary] for some in (self.seen, self.right))
        last, first = self.ordinary[-1], self.seen[0]
        again = self.call(self.given(last), self.right[last], last)
        yield None if again.failure or close(again.value, self.seen[last].value) else RANDOM
        networks = [network for one in self.seen for network in one.networks]
        if networks and not any(network.questions for network in networks):
            yield f"The {networks[0].name} is never asked: its answer is needed, so call it."
        found = list(self.variants())
        yield next((sentence for sentence, results in found if generic.same(values, results)), None)
        yield self.changed()
        drawn = any(isinstance(one, torch.Generator) for one in first.arguments)
        yield next(filter(None, (other_question(*nets, drawn) for nets in self.networks())), None)
        yield self.exchanged()
        if self.exercise.reads is None:
            images = [self.images(i) for i in self.ordinary]
            mixtures = [list(map(generic.mixture, images, some)) for some in (values, right)]
            yield generic.of_mixtures(*mixtures)
            yield generic.of_numbers(values, right)
            yield generic.of_steps(values, right, images)
        yield self.unused()
        if self.exercise.reads is None:
            yield next(filter(None, (generic.turned(values, results, name) for name, results in found)), None)
            yield self.mingled()
            yield generic.of_mixtures(*mixtures, vague=True)

    def variants(self) -> Iterator[tuple[str, list[Tensor]]]:
        """Each sentence with what one of its formulas gives in the ordinary cases."""
        for sentence, formulas in self.exercise.wrong:
            for formula in formulas:
                yield (
                    sentence,
                    [outcome_of(self.exercise, formula, self.given(i)).value for i in self.ordinary],
                )

    def changed(self) -> str | None:
        """Whether an argument is not as it was handed over."""
        for i, one in enumerate(self.seen):
            for name, *both in zip(self.exercise.names, one.arguments, self.given(i), strict=True):
                if not _is_kept(*both):
                    return CHANGED.format(name)
        return None

    def exchanged(self) -> str | None:
        """Whether the numbers are right once two arguments of one kind change places."""
        kinds = [_kind(argument) for argument in self.right[0].arguments]
        for i, j in itertools.combinations(range(len(kinds)), 2):
            with contextlib.suppress(Exception):
                fits = kinds[i] is not None and kinds[i] == kinds[j]
                for k, right in enumerate(self.right if fits else ()):
                    given = self.given(k)
                    given[i], given[j] = given[j], given[i]
                    fits = fits and close(self.call(given, right, k).value, right.value)
                if fits:
                    both = f"{self.exercise.names[i]} and {self.exercise.names[j]}"
                    return f"{both} are exchanged: each in the other's place, they give the right numbers."
        return None

    def unused(self) -> str | None:
        """The arguments that may take any other value, and the learner's result stays the same."""
        names = []
        for k, name in enumerate(self.exercise.names if self.seen[0].failure is None else ()):
            others, kept = [self.given(i)[k] for i in range(len(self.seen))], []
            others += [others[0].flip(0)] if isinstance(others[0], Tensor) else []
            for other in others:
                given, again = (
                    [other if j == k else one for j, one in enumerate(self.given(0))] for _ in "12"
                )
                with contextlib.suppress(Exception):
                    right = self.wanted(given)
                    if not right.value.isnan().any() and not close(right.value, self.right[0].value):
                        kept.append(close(self.call(again, right).value, self.seen[0].value))
            names += [name] if kept and all(kept) else []
        return f"{' and '.join(names)}: not used, though the result depends on it." if names else None

    def mingled(self) -> str | None:
        """Whether a sample's result depends on the other samples of the batch."""
        size = len(self.right[0].value) if self.exercise.returns.startswith("[B") else 0
        given, again = (
            [
                one[:1] if isinstance(one, Tensor) and one.ndim and len(one) == size else one
                for one in self.given(0)
            ]
            for _ in "12"
        )
        with contextlib.suppress(Exception):
            right = self.wanted(given)
            alone = close(right.value, self.right[0].value[:1]) and self.call(again, right).value
            if alone is not False and size > 1 and not close(alone, self.seen[0].value[:1]):
                return MINGLED
        return None

    def networks(self) -> Iterator[tuple[Network, Network]]:
        """Each network that was asked, beside that of the right function."""
        for one, right in self.both:
            yield from zip(one.networks, right.networks, strict=True)

    def images(self, i: int) -> dict[str, Tensor]:
        """What came in and has the shape of the result; with what the network said, if it was asked right."""
        seen, right = self.both[i]
        images = dict(zip(self.exercise.names, self.given(i), strict=True))
        for network, model in zip(seen.networks, right.networks, strict=True):
            answers = [[one.answer for one in net.questions] for net in (network, model)]
            if generic.same(*answers):
                images |= dict(zip(("the network's answer", "its second answer"), answers[0], strict=False))
        return {
            n: x.double() for n, x in images.items() if isinstance(x, Tensor) and x.shape == right.value.shape
        }

    def first_difference(self, i: int) -> Wrong:
        value, right = self.seen[i].value, self.right[i].value
        farthest = int((value - right).abs().nan_to_num(nan=math.inf).argmax())
        place = [int(k) for k in torch.unravel_index(torch.tensor(farthest), value.shape)]
        got, must = (float(one.flatten()[farthest]) for one in (value, right))
        if self.exercise.tells is not None:
            return Wrong(self.exercise.tells(self.right[i].arguments, value, right))
        if not place:
            return Wrong(f"The number is off: {self.where(i)} it should be {must:.4g}, got {got:.4g}.")
        where = self.where(i, place[0] if self.exercise.returns == "[B]" else None)
        return Wrong(f"The numbers are off: {where} the one at {place} should be {must:.3f}, got {got:.3f}.")

    def where(self, i: int, row: int | None = None) -> str:
        """The arguments of a case that are small enough to be told: "with abar = 0.3 and s = 2.5"."""
        given = zip(self.exercise.names, self.given(i), strict=True)
        told = [f"{name} = {text}" for name, argument in given if (text := _told(argument, row))]
        return "with " + " and ".join([", ".join(told[:-1]), *told[-1:]][not told[1:] :]) if told else "here"

    def probe(self) -> None:
        if sentence := self.changed():
            raise Wrong(sentence)
        if self.exercise.asks and any(getattr(one.result, "requires_grad", False) for one in self.seen):
            raise Wrong(GRAPH)
        for network, model in self.networks():
            counts = [[len(one.x) for one in net.questions] for net in (network, model)]
            too_often = self.exercise.asks == "calls" and len(counts[0]) > len(counts[1])
            if too_often or (self.exercise.asks in ("calls", "rows") and sum(counts[0]) > sum(counts[1])):
                told = [f"{len(some)} times, about {sum(some)} images" for some in counts]
                raise Wrong(f"Right, but the {network.name} is asked {told[0]}: {told[1]}, is enough. {JOIN}")
        if self.exercise.gradient_of:
            for i in range(len(self.seen)):
                self.probe_gradient(i)

    def probe_gradient(self, i: int) -> None:
        """Ask as guidance does, with an argument that comes out of a network."""

        def gradient(function: Callable) -> Tensor | None:
            given = self.given(i)
            place = self.exercise.names.index(self.exercise.gradient_of)
            source = given[place].requires_grad_()
            given[place] = source * 1.0
            result = function(*given)
            return torch.autograd.grad(result.sum(), source)[0] if result.requires_grad else None

        with torch.enable_grad():
            try:
                found = gradient(self.function)
            except RuntimeError as error:
                sentence = next((told for words, told in NO_GRADIENT.items() if words in str(error)), None)
                if sentence is None:
                    raise
                raise Wrong(sentence, running.line_of(error, self.code)) from None
            expected = gradient(self.exercise.right)
        if found is not None and not bool(found.isfinite().all()):
            raise Wrong(BAD_GRADIENT)
        if found is None or not close(found, expected):
            raise Wrong(CUT)


def _is_kept(now: Any, before: Any) -> bool:
    if isinstance(before, Tensor):
        return torch.equal(now.detach(), before) and not now.requires_grad and now.grad is None
    if isinstance(before, NoiseSchedule):
        return _is_kept(now.betas, before.betas) and _is_kept(now.alphas_cumprod, before.alphas_cumprod)
    return now == before if isinstance(before, int | float | list | tuple | dict) else True


def _kind(argument: Any) -> Any:
    if isinstance(argument, Tensor):
        return tuple(argument.shape), argument.dtype
    return float if isinstance(argument, float) else None


def _told(value: Any, row: int | None) -> str:
    if isinstance(value, Tensor):
        value = value[row] if row is not None and value.ndim and len(value) > row else value
        value = value.tolist() if value.ndim < 2 and value.numel() < 13 else None
    if isinstance(value, list | tuple):
        return f"[{', '.join(_told(one, None) for one in value)}]"
    return f"{value:g}" if isinstance(value, float) else str(value) if isinstance(value, int | dict) else ""


def other_question(network: Network, model: Network, drawn: bool) -> str | None:
    """Whether the network was asked something else than it must be; `drawn`: about images that are random."""
    if not network.questions:
        return None
    asked, must = (network.rows(), model.rows())
    for what, part in (("at t =", 1), ("for the labels", 2)):
        told = [", ".join(map(str, sorted({row[part] for row in rows}))) for rows in (asked, must)]
        if told[0] != told[1]:
            return f"The {network.name} is asked {what} {told[0]}: the right ones are {told[1]}."
    if drawn:
        return None
    order = [[one.t.tolist() for one in net.questions] for net in (network, model)]
    if sorted(order[0]) == sorted(order[1]) and order[0] != order[1]:
        return f"The {network.name} is asked at the right timesteps, but in another order."
    if not close(asked[0][0], must[0][0]):
        return f"The {network.name} is first asked about another image than it must be."
    known = [[row[1:] for row in must if close(row[0], x)] for x, *_ in asked]
    if all(known) and any(row[1:] not in some for row, some in zip(asked, known, strict=True)):
        return f"The {network.name} meets an image with another's t or label: repeat all in the same order."
    return None


def usable(exercise: Exercise, result: Any, given: tuple, wanted: Tensor) -> Tensor:
    """The result as float64 on the CPU, or complex, if it is of the right kind and shape."""
    if result is ...:
        raise Unfinished
    if result is None:
        raise NotUsable("Your function returns nothing: is the `return` missing?")
    if exercise.reads is not None:
        return exercise.reads(result, given)
    if exercise.returns in ("one number", "one whole number"):
        return _number(result, exercise.returns)
    return expect_tensor(result, tuple(wanted.shape), exercise, given)


def expect_tensor(result: Any, shape: tuple[int, ...], exercise: Exercise, given: tuple) -> Tensor:
    """The result in float64 on the CPU (or complex), if it is a tensor of that shape."""
    if not isinstance(result, Tensor):
        kind = type(result).__name__
        several = (
            f": only {exercise.returns} is asked, so take one entry, or make a tensor of it by torch.stack"
        )
        more = several if isinstance(result, tuple | list) else ""
        raise NotUsable(
            f"Your function must return a tensor, got {'an' if kind[0] in 'aeiou' else 'a'} {kind}{more}."
        )
    if tuple(result.shape) != shape:
        raise NotUsable(_of_shape(exercise, tuple(result.shape), shape, given))
    return result.detach().to("cpu", torch.complex128 if result.is_complex() else torch.float64, copy=True)


def _of_shape(exercise: Exercise, got: tuple[int, ...], shape: tuple[int, ...], given: tuple) -> str:
    sizes = {}  # by name; a whole number among the arguments is one, too
    for name, axes, argument in zip(exercise.names, exercise.arguments, given, strict=False):
        if isinstance(argument, Tensor):
            sizes |= dict(zip(re.findall(r"\w+", axes.partition(" ")[2]), argument.shape, strict=False))
        elif isinstance(argument, int):
            sizes[name] = argument
    for shapes, sentence in exercise.shapes.items():
        if got in [_sizes(axes, sizes) for axes in re.findall(r"\[(.*?)\]", shapes)]:
            return sentence
    if got in ((), (1,)) and exercise.returns == "[B]":
        return "The batch is reduced to one number: each sample needs its own, [B]."
    wanted = f"the result must have shape {list(shape)}, that is {exercise.returns}, got {list(got)}."
    if got == (*shape, 1):
        return f"There is an axis too many, left by keepdim or an index in brackets: {wanted}"
    if sorted(got) == sorted(shape):
        return f"The axes are in another order: {wanted}"
    return wanted[0].upper() + wanted[1:]


def _sizes(axes: str, sizes: dict[str, int]) -> tuple[int, ...]:
    """Of "N*K, C/heads, T-1" the sizes."""

    def size(axis: str) -> int:
        product, _, less = axis.strip().partition("-")
        above, *below = product.split("/")
        whole = math.prod(sizes[one] if one in sizes else int(one) for one in above.split("*"))
        return whole // math.prod(sizes[one] for one in below) - int(less or 0)

    return tuple(size(axis) for axis in axes.split(",") if axis)


def _number(value: Any, kind: str) -> Tensor:
    """The result as float64, if it is one real number: Python's, torch's or numpy's."""
    if isinstance(value, list | tuple) or getattr(value, "ndim", 0) > 0:
        raise NotUsable(f"Your function must return {kind}, got {len(value)} of them.")
    value = value.item() if getattr(value, "ndim", None) == 0 else value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise NotUsable(f"Your function must return {kind}, not a value of type {type(value).__name__}.")
    if not math.isfinite(value):
        raise NotUsable(f"Your function must return {kind}, got {value}.")
    return torch.tensor(value, dtype=torch.float64)
