"""Exercises of lesson 11, colour: a schedule for larger pictures, a mirror to repair, and the Pareto front.

In 11.2 any use of the generator that throws fair coins is right: the coins of many calls are read off the
images and counted. The seeds are fixed, so an answer is judged the same every time.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from classroom.checks.engine import usable
from classroom.checks.exercise import Exercise, NotUsable, Wrong, variants


def _snr(abar: Tensor) -> Tensor:
    return abar / (1 - abar)


def _back(snr: Tensor) -> Tensor:
    return snr / (1 + snr)


SHAPE, CALLS = (61, 3, 4, 5), 24  # so many images that every statistic is decided, and a generator a call
PICTURES = 2 * torch.rand(SHAPE, generator=torch.Generator().manual_seed(11)) - 1
TURNS = ((), (3,), (2,), (2, 3), (1,), (1, 2), (1, 3), (1, 2, 3))  # the axes of each turn
ONE_COIN = "One coin decides for the whole batch: each image needs its own."
WRONG_AXIS = "Another axis is turned, or two: left and right run along the last axis of [B, C, H, W]."
PARTS = "Pixels, rows or channels have coins of their own: one coin decides for a whole image."
NOT_ITSELF = "Some image is neither itself nor its mirror image: its pixels or its place in the batch change."
ALWAYS = "Every image is mirrored, or none: each of them is with probability 1/2."
FIXED = "Another call mirrors the same places: draw the coins from the generator itself, at every call."
GENERATOR = "The same generator gives different results: hand it to every random draw, so it can be repeated."
UNFAIR = "The share of mirrored images is not one half: torch.rand is uniform in [0, 1), torch.randn is not."
TOGETHER = "The coins depend on each other or on the place: each image needs a fair coin that no other has."


def flip_some(x_0, generator):
    """The function that 11.2 asks to repair, as the lesson gives it."""
    coin = torch.rand(1, generator=generator) < 0.5
    return torch.where(coin, x_0.flip(2), x_0)


def examine_flip(function: Callable) -> str:
    """Exercise 11.2."""

    def flipped(generator: torch.Generator, luck: int) -> Tensor:
        """One call; `luck` seeds the global random numbers, which a right answer does not touch."""
        x_0 = PICTURES.clone()
        torch.manual_seed(1000 + luck)
        value = usable(MIRROR, function(x_0, generator), (x_0, generator), PICTURES)
        if not torch.equal(x_0, PICTURES):
            raise Wrong("x_0 is changed: return a new tensor, for x_0 is the data set's.")
        return value

    with torch.random.fork_rng(devices=[]):
        values = torch.stack([flipped(torch.Generator().manual_seed(k), k) for k in range(CALLS)])
        generator = torch.Generator().manual_seed(0)
        again, later = (flipped(generator, luck) for luck in (CALLS, 0))
    coins = _equal(values, PICTURES.flip(3)).flatten(2).all(dim=2)  # [CALLS, B]
    numbers = coins.sum(dim=1).unique().numel()
    # Pairs at each distance agree half of the time; those at large distances are few, and the near ones tell.
    pairs = any(_is_off(coins[:, k:] == coins[:, :-k]) for k in range(1, SHAPE[0] // 2 + 1))
    wrongs = {
        _name_of_turns(values): True,
        ALWAYS: not coins.any() or coins.all(),
        ONE_COIN: (coins == coins[:, :1]).all(),
        GENERATOR: not torch.equal(again, values[0]),
        FIXED: torch.equal(later, values[0]) or (coins == coins[0]).all(),
        UNFAIR: numbers > 1 and _is_off(coins),
        TOGETHER: numbers == 1 or pairs or coins.all(dim=0).any() or not coins.any(dim=0).all(),
    }
    if sentence := next((sentence for sentence, is_so in wrongs.items() if sentence and is_so), None):
        raise Wrong(sentence)
    return "Each image has its own fair coin, and the same generator throws the same coins again."


def _equal(one: Tensor, other: Tensor) -> Tensor:
    return (one - other).abs() < 1e-4


def _is_off(coins: Tensor) -> bool:
    """Whether their share of True differs from one half by more than six standard errors."""
    return abs(float(coins.double().mean()) - 0.5) > 3 / math.sqrt(coins.numel())


def _name_of_turns(values: Tensor) -> str:
    """What is wrong apart from the coins."""
    turned = [_equal(values, PICTURES.flip(axes)).flatten(2).all(dim=2) for axes in TURNS]
    if bool((turned[0] | turned[1]).all()):
        return ""
    if bool(torch.stack(turned).any(dim=0).all()):
        return WRONG_AXIS
    return PARTS if bool((_equal(values, PICTURES) | _equal(values, PICTURES.flip(-1))).all()) else NOT_ITSELF


# Each row: guidance scale, accuracy, fid. In the first table rows tie in one measure or in both, two are the
# same, and that of scale 3 lies in a dent of the front. In the last, one row beats all others.
EQUALS = ((5.0, 0.90, 5.0), (5.0, 0.90, 5.0), (2.0, 0.70, 2.0), (1.5, 0.60, 2.0), (2.5, 0.70, 2.0))
TABLES = (
    (*EQUALS, (4.0, 0.90, 6.0), (1.0, 0.50, 1.0), (6.0, 0.95, 9.5), (3.0, 0.72, 4.0), (3.5, 0.71, 8.0)),
    ((3.0, 0.80, 3.0), (1.0, 0.60, 4.0), (2.0, 0.90, 2.0), (4.0, 0.85, 2.5), (5.0, 0.40, 0.5)),
    ((2.0, 0.50, 3.0), (1.0, 0.80, 1.5), (3.0, 0.70, 2.0)),
)
NOT_ROWS = "Something else than rows is returned: return a list of the rows as they are, with all their keys."


def table_rows(*table: tuple) -> tuple[list[dict]]:
    """Made afresh; with a key in front and one behind."""
    names = ("guidance_scale", "accuracy", "fid", "steps")
    return ([dict(zip(names, (*row, 25), strict=True)) for row in table],)


def _as_good(other: dict, row: dict, accuracy: int = 1, fid: int = 1) -> bool:
    return min(accuracy * (other["accuracy"] - row["accuracy"]), fid * (row["fid"] - other["fid"])) >= 0


def _beats(other: dict, row: dict, *signs: int) -> bool:
    return _as_good(other, row, *signs) and not _as_good(row, other, *signs)


def _front(beats: Callable = _beats) -> Callable:
    """The rows that no other row beats."""
    return lambda rows: [row for row in rows if not any(beats(other, row) for other in rows)]


def _counts(result: Any, given: tuple) -> Tensor:
    """How often each row of the table is returned, and 1 if their order is another."""
    rows = given[0]
    if not isinstance(result, list) or any(row not in rows for row in result):
        raise NotUsable(NOT_ROWS)
    first = [rows.index(row) for row in result]
    counts = [first.count(rows.index(row)) for row in rows]
    return torch.tensor([*counts, first != sorted(first)], dtype=torch.float64)


def _first_row(given: tuple, value: Tensor, right: Tensor) -> str:
    i = int((value != right).nonzero()[0])
    return f"The row {given[0][i]} is returned {value[i]:g} times: {right[i]:g} is right, see what beats it."


MIRROR = Exercise(
    heading="11.2 Repair a mirror (15 min)",
    signature="flip_some(x_0 [B, C, H, W], generator) -> [B, C, H, W]",
    question="How many coins does a batch of 64 images need, and how many are thrown? Which axis of [B, C, "
    "H, W] do you walk along from left to right?",
    formula="coin_b ~ Bernoulli(1/2) for each image b, and result_b = mirrored x_b where coin_b = 1, else "
    "x_b. A mask [B] chooses between images once it has shape [B, 1, 1, 1].",
    blank="coins = torch.rand(____, generator=generator) < 0.5 … return torch.where(coins[____], "
    "x_0.flip(____), x_0)",
    shapes={"[B] [B, 1, 1, 1]": "The coins are returned: return the images, [B, C, H, W]."},
    examine=examine_flip,
    planted=flip_some,
)
SHIFTED_SCHEDULE = Exercise(
    heading="11.1 A schedule for larger pictures (5 min)",
    signature="shifted_schedule(abar [T], factor) -> [T]",
    question="The mean over a block of factor × factor pixels leaves coarse content as it is. What does it "
    "do to the standard deviation of independent noise, and so to the ratio of the variances?",
    formula="SNR = abar / (1 - abar), the new one is SNR / factor², and solved for abar: abar' = SNR' / (1 "
    "+ SNR').",
    blank="snr = abar / (____) / factor**____ … return snr / (____)",
    praise="After a mean over blocks the larger picture is as noisy as the small one was, at every t.",
    # From hardly any noise to hardly any signal; no SNR divided by factor² is 1.
    cases=(
        ((0.999, 0.93, 0.7, 0.36, 0.08, 1e-8), 3),
        ((0.97, 0.82, 0.55, 0.3), 2.0),
        ((0.9, 0.6, 0.2), 1.5),
    ),
    given=lambda curve, factor: (torch.tensor(curve, dtype=torch.float64), factor),
    right=lambda a, f: _back(_snr(a) / f**2),  # Hoogeboom et al. 2023, sec. 3.1
    wrong=variants(
        "The SNR must be divided by factor², a ratio of variances: its logarithm falls by 2 log factor.",
        lambda a, f: _back(_snr(a) / f),
        "The SNR goes up: a larger picture needs more noise, so it must fall.",
        lambda a, f: _back(_snr(a) * f**2),
        "abar or 1 - abar itself is scaled: the two shares must still add up to 1. Scale their ratio.",
        *(lambda a, f, k=k: a / f**k for k in (1, 2)),
        *(lambda a, f, k=k: 1 - (1 - a) * f**k for k in (1, 2)),
        "The SNR or its logarithm is returned: turn it back into abar, which lies between 0 and 1.",
        lambda a, f: _snr(a) / f**2,
        lambda a, f: (_snr(a) / f**2).log(),
        "A square root is in it: abar is a share of the variance, and the SNR is abar / (1 - abar).",
        lambda a, f: _back(_snr(a).sqrt() / f),
        "The SNR is upside down: it is abar / (1 - abar), large where there is little noise.",
        lambda a, f: _back(1 / _snr(a) / f**2),
    ),
)
NOT_BEATEN = Exercise(
    heading="11.3 The rows that none beats (15 min)",
    signature="not_beaten(rows) -> a list of rows",
    question="Two rows: when would nobody choose the second, whichever measure matters more? And what if "
    "both are equal?",
    formula="other beats row: other's accuracy >= row's and other's fid <= row's, and one of the two is not "
    "an equality.",
    blank="return [row for row in rows if not any(____ for other in rows)]",
    praise="For each row that is left out, another one is at least as good in both: only these are a choice.",
    cases=TABLES,
    given=table_rows,
    right=_front(),
    reads=_counts,
    tells=_first_row,
    wrong=variants(
        "Only the best in a measure are returned: between them lie rows that none beats.",
        lambda rows: [max(rows, key=lambda row: row["accuracy"])],
        lambda rows: [min(rows, key=lambda row: row["fid"])],
        "Every row is returned: leave out those that another row beats.",
        list,
        "Better in both is asked: a row that is as good in one and better in the other beats, too.",
        _front(lambda o, r: o["accuracy"] > r["accuracy"] and o["fid"] < r["fid"]),
        "Better in one measure is taken for enough: a row that is worse in the other does not beat.",
        _front(lambda o, r: o["accuracy"] > r["accuracy"] or o["fid"] < r["fid"]),
        "Nothing is left: each row is compared with itself, and is as good as itself in both.",
        lambda rows: [],
        "A row is lost that has an equal one: none of two equal rows beats the other, both stay.",
        lambda rows: [row for i, row in enumerate(rows) if row in _front()(rows) and row not in rows[:i]],
        _front(lambda o, r: o is not r and _as_good(o, r)),
        "A measure is turned round: a high accuracy is good, and a low FID, a distance to real images.",
        _front(lambda o, r: _beats(o, r, 1, -1)),
        _front(lambda o, r: _beats(o, r, -1, 1)),
        "The rows are right and their order is not: keep the given one.",
        lambda rows: sorted(_front()(rows), key=lambda row: row["fid"]),
    ),
)
EXERCISES = (SHIFTED_SCHEDULE, MIRROR, NOT_BEATEN)
