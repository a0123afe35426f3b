"""What an exercise is: a declaration, from which `engine` judges every answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple


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
        check_name: it is checked by `checks.CHECK_NAME(function)`.
        arguments: in order; an image or a batch with its axes, such as "x_t [B, C, H, W]".
        returns: the axes of the result, "[B, C, H, W]", or "one number", "one whole number".
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
        reads: (result, arguments) -> tensor, for a result of another kind.
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
    check_name: str
    arguments: tuple[str, ...]
    returns: str
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
    gradient_of: str = ""
    asks: str = ""
    in_sampler: bool = False
    same_dtype: bool = False
    planted: Callable | None = None
    examine: Callable[[Callable], str] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The arguments without their axes."""
        return tuple(argument.split(" ")[0] for argument in self.arguments)
