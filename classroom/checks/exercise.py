"""What an exercise is: a declaration, from which `engine` judges every answer."""

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
    return tuple(
        Variant(parts[i], parts[i + 1 : j]) for i, j in zip(starts, [*starts[1:], None], strict=True)
    )


@dataclass(frozen=True)
class Exercise:
    """An exercise whose answer is a function.

    One of another kind brings its own `examine`: it takes the function, raises Wrong, or returns the praise.
    """

    heading: str  # "NN.k title (5 min)"
    # "NAME(x_t [B, C, H, W], abar) -> [B, C, H, W]" with its axes, for `checks.NAME(function)`.
    signature: str
    question: str  # the three hints: a question, …
    formula: str  # … a formula, …
    blank: str  # … and a line with a blank
    praise: str = ""  # for a right answer
    right: Callable | None = None
    cases: tuple[tuple, ...] = ()  # each is handed to `given`, which makes the arguments afresh
    given: Callable[..., tuple] = field(default=lambda *case: case)
    wrong: tuple[Variant, ...] = ()  # at most ten
    # The sentence for an answer that is off in these cases alone, by their place.
    limits: Mapping[int, str] = field(default_factory=dict)
    overflow: str = ""  # the sentence if it is infinite or NaN there
    # For wrong shapes, such as "[] [B, 1]" (a size may be N*K, C/heads or T-1), and words of an exception.
    shapes: Mapping[str, str] = field(default_factory=dict)
    errors: Mapping[str, str] = field(default_factory=dict)
    reads: Callable[[Any, tuple], Tensor] | None = None  # (result, arguments), for a result of another kind
    # (arguments, value, right) -> the sentence for the first difference.
    tells: Callable[[tuple, Tensor, Tensor], str] | None = None
    gradient_of: str = ""  # the argument along which the gradient must be right too
    # With a network, called under torch.no_grad(): "freely", or no more "calls" or "rows" than the right one.
    asks: str = ""
    planted: Callable | None = None  # for a repair, the function as the lesson gives it
    examine: Callable[[Callable], str] | None = None

    hints = property(lambda self: (self.question, self.formula, self.blank))
    number = property(lambda self: self.heading.split(" ")[0])
    title = property(lambda self: self.heading.partition(" ")[2].rpartition(" (")[0])
    minutes = property(lambda self: int(self.heading.rpartition(" (")[2].split(" ")[0]))
    check_name = property(lambda self: self.signature.split("(")[0])
    returns = property(lambda self: self.signature.rpartition(" -> ")[2])

    @property
    def arguments(self) -> tuple[str, ...]:
        """Each with its axes."""
        return tuple(re.split(r", (?![^\[]*\])", self.signature.partition("(")[2].rpartition(") -> ")[0]))

    @property
    def names(self) -> tuple[str, ...]:
        """The arguments without their axes."""
        return tuple(argument.split(" ")[0] for argument in self.arguments)
