"""What an exercise is: a declaration, from which `engine` judges every answer."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor


class Wrong(Exception):
    """Raised when an answer is wrong: a sentence on what is wrong, and the line if one is to blame."""

    def __init__(self, message: str, line: str | None = None) -> None:
        super().__init__(message)
        self.line = line


class NotUsable(Wrong):
    """Wrong, whatever the exercise: nothing, of another kind or shape. The line that returns it is shown."""


class Unfinished(Exception):
    """Raised for a function that is not written yet."""


class Variant(NamedTuple):
    """A classic wrong answer: its sentence, and functions of the exercise's arguments that give it."""

    sentence: str
    formulas: tuple[Callable, ...]


def variants(*parts: str | Callable) -> tuple[Variant, ...]:
    """Sentences, each before its formulas."""
    starts = [i for i, part in enumerate(parts) if isinstance(part, str)]
    ends = [*starts[1:], len(parts)]
    return tuple(Variant(parts[i], parts[i + 1 : end]) for i, end in zip(starts, ends, strict=True))


@dataclass(frozen=True)
class Exercise:
    """An exercise whose answer is a function.

    Args:
        number: its id, "NN.k".
        signature: "NAME(x_t [B, C, H, W], abar) -> [B, C, H, W]": it is checked by `checks.NAME(function)`, its
            arguments have axes, and so has the result, or it is "one number" or "one whole number".
        hints: a question, a formula, a line with a blank.
        praise: the sentence for a right answer.
        right: the right function.
        cases: each is handed to `given`, which makes the arguments afresh.
        wrong: at most ten classic wrong answers. They are run on the cases, as the right function is.
        limits: the sentence for an answer that is off in this case alone (by its place): an edge that a
            formula may miss. Variants need not fit there.
        overflow: the sentence where the numbers there are infinite or NaN.
        shapes: the sentence for a result of the wrong shape, such as "[] [1]"; a size may be N*K or C/heads.
        errors: the sentence for an exception that holds these words.
        reads: (result, arguments) -> tensor, for a result of another kind; tells: (arguments, place, value, right)
            -> the sentence for the first difference.
        gradient_of: the argument along which the gradient must be right too.
        asks: "calls" if the network may be asked as often as by the right function, "rows" if only the
            number of images counts, "" if any number will do.
        in_sampler: called under torch.no_grad(), as samplers do.
        same_dtype: the result has the dtype of the first argument.
        planted: for a repair, the function as the lesson gives it.
        examine: for an exercise of another kind, in the place of all that: takes the learner's function,
            raises Wrong, or returns the praise.
    """

    number: str
    minutes: int
    title: str
    signature: str
    hints: tuple[str, str, str]
    praise: str = ""
    right: Callable | None = None
    cases: tuple[tuple, ...] = ()
    given: Callable[..., tuple] = field(default=lambda *case: case)
    wrong: tuple[Variant, ...] = ()
    limits: Mapping[int, str] = field(default_factory=dict)
    overflow: str = ""
    shapes: Mapping[str, str] = field(default_factory=dict)
    errors: Mapping[str, str] = field(default_factory=dict)
    reads: Callable[[Any, tuple], Any] | None = None
    tells: Callable[[tuple, list[int], Tensor, Tensor], str] | None = None
    gradient_of: str = ""
    asks: str = ""
    in_sampler: bool = False
    same_dtype: bool = False
    planted: Callable | None = None
    examine: Callable[[Callable], str] | None = None

    @property
    def check_name(self) -> str:
        return self.signature.split("(")[0]

    @property
    def arguments(self) -> tuple[str, ...]:
        """Each with its axes."""
        return tuple(re.split(r", (?![^\[]*\])", self.signature.partition("(")[2].rpartition(") -> ")[0]))

    @property
    def names(self) -> tuple[str, ...]:
        """The arguments without their axes."""
        return tuple(argument.split(" ")[0] for argument in self.arguments)

    @property
    def returns(self) -> str:
        return self.signature.rpartition(" -> ")[2]
