"""Exercises of lesson 11, colour: a schedule for larger pictures, a mirror to repair, and the Pareto front.

A wrong answer is named by working out the classic wrong formulas on the same inputs: the one that gives what
the learner's function gives in every case is the learner's. In 11.2 any use of the generator that throws
fair coins is right: there each image is found among the ways to turn it, and the coins of many calls are
counted. The seeds are fixed, so that an answer is judged the same every time.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from classroom.checks.judging import Exercise, NotUsable, Unfinished, Wrong, close, expect_tensor

SHIFT = {
    "factor": "The SNR is divided by factor: it is a ratio of variances, so it falls with factor² (its "
    "logarithm by 2 log factor).",
    "fourth": "The SNR is divided by factor⁴: as a ratio of variances it falls with factor² already.",
    "direction": "The SNR goes up: a larger picture needs more noise, so it must fall.",
    "share": "abar or 1 - abar itself is scaled: the two shares of the variance must still add up to 1. "
    "Scale their ratio.",
    "snr": "The SNR is returned: turn it back into abar, which lies between 0 and 1.",
    "log": "The logarithm of the SNR is returned: turn it back into abar, which lies between 0 and 1.",
    "root": "A square root is in it: abar is a share of the variance, and the SNR is abar / (1 - abar).",
    "noise share": "The share of the noise is returned: abar is the share of the signal.",
    "inverse": "The SNR is upside down: it is abar / (1 - abar), large where there is little noise.",
    "back": "The way back from the SNR to abar is not right: solve SNR = abar / (1 - abar) for abar.",
    "base": "The logarithms have different bases: shift by the natural log, which the sigmoid undoes.",
    "power": "abar is raised to a power: that is no fixed factor of the SNR.",
    "betas": "The betas are scaled: what they do to the SNR differs from t to t. Scale the SNR itself.",
    "in t": "The old values of abar are moved along t: each timestep keeps its place and gets a new abar.",
    "unchanged": "abar comes back as it was: its SNR must fall.",
    "in place": "abar is changed: the caller still needs it.",
}
FLIP = {
    "one coin": "One coin decides for the whole batch: each image needs its own.",
    "upside down": "Images stand on their heads: left and right run along the last axis of [B, C, H, W].",
    "turned": "Images are turned by 180 degrees: left and right change places, above and below do not.",
    "channels": "The channels change places, red and blue: left and right run along the last axis.",
    "order": "Images change places in the batch, and their labels do not: mirror each where it stands.",
    "negated": "The colours are turned round: the pixels' places change, not their values.",
    "every": "Every image is mirrored: each of them only with probability 1/2.",
    "none": "No image is mirrored: each of them is, with probability 1/2.",
    "fixed": "The same places in the batch are mirrored whatever the generator: that is not random.",
    "again": "A second call with the same generator mirrors the same places: draw from it, not from a copy.",
    "generator": "The same generator gives different results: hand it to every random draw, so that a run "
    "can be repeated.",
    "exact": "Every batch has the same number of mirrored images: with a coin for each that number varies.",
    "probability": "The share of mirrored images is not one half: torch.rand is uniform in [0, 1), and "
    "torch.randn is not.",
    "places": "Some places in the batch are always mirrored or never: each image needs a fair coin.",
    "together": "Some images share a coin: each needs one that no other has.",
    "pixel": "Single pixels or columns are exchanged: a coin decides for a whole image.",
    "row": "Each row of pixels has its own coin: a coin decides for a whole image.",
    "channel": "Each channel has its own coin: a coin decides for a whole image.",
    "coins": "The coins are returned: return the images, [B, C, H, W].",
    "tuple": "Several things are returned: only the images are asked.",
    "in place": "x_0 is changed: return a new tensor, for x_0 is the data set's.",
}
FRONT = {
    "best accuracy": "Only the best accuracy is returned: rows with a better FID are not beaten by it.",
    "best fid": "Only the best FID is returned: rows with a better accuracy are not beaten by it.",
    "both ends": "Only the best in either measure are returned: between them lie rows that none beats.",
    "all": "Every row is returned: leave out those that another row beats.",
    "strict": "Better in both is asked: a row that is as good in one and better in the other beats, too.",
    "either": "Better in one measure is taken for enough: a row that is worse in the other does not beat.",
    "itself": "Nothing is left: each row is compared with itself, and is as good as itself in both.",
    "duplicates": "A row is lost that has an equal one: none of two equal rows beats the other, both stay.",
    "again": "A row is returned more often than the table has it.",
    "fid up": "A high FID is taken for good: it is a distance to real images, so lower is better.",
    "accuracy down": "A low accuracy is taken for good: higher is better.",
    "both turned": "Both measures are turned round: accuracy should be high, FID low.",
    "beaten": "The beaten rows are returned: the others are asked.",
    "one way": "Each row is compared with a part of the others: any row of the table can beat it.",
    "hull": "A row is lost that no weighted sum puts first: it is not beaten all the same.",
    "weighted": "One row is returned, as a weighted sum would choose it: all that are not beaten are asked.",
    "order": "The rows are right and their order is not: keep the given one.",
    "indices": "Positions are returned, or True and False: return the rows themselves.",
    "values": "Parts of the rows are returned: return the rows as they are, with all their keys.",
    "dict": "A dict is returned: a list of rows is asked, even if there is only one.",
    "in place": "rows is changed: the caller still needs it.",
}

# ---- 11.1 ----

# (abar, factor): from hardly any noise to hardly any signal; no SNR divided by factor² is 1.
SHIFTS = (
    ((0.99999, 0.93, 0.7, 0.36, 0.08, 1e-8), 3),
    ((0.97, 0.82, 0.55, 0.3, 0.11), 2.0),
    ((0.9, 0.6, 0.45, 0.2), 1.5),
)
Curve = Callable[[Tensor, float], Tensor]


def _snr(abar: Tensor) -> Tensor:
    return abar / (1 - abar)


def _back(snr: Tensor) -> Tensor:
    return snr / (1 + snr)


def _right_shift(abar: Tensor, factor: float) -> Tensor:
    """Hoogeboom et al. 2023, sec. 3.1: the log-SNR falls by 2 log factor."""
    return _back(_snr(abar) / factor**2)


def _by_betas(abar: Tensor, scale: float, most: float) -> Tensor:
    betas = 1 - abar / torch.cat([abar.new_ones(1), abar[:-1]])
    return (1 - (scale * betas).clamp(max=most)).cumprod(dim=0)


def _along_t(abar: Tensor, places: Callable[[Tensor], Tensor]) -> Tensor:
    """abar at other places of its axis, in between by a straight line."""
    t = places(torch.arange(len(abar), dtype=torch.float64)).clamp(0, len(abar) - 1)
    low = t.floor().long()
    return torch.lerp(abar[low], abar[(low + 1).clamp(max=len(abar) - 1)], t - low)


WRONG_SHIFTS: list[tuple[str, Curve]] = [
    ("unchanged", lambda a, f: a),
    ("factor", lambda a, f: _back(_snr(a) / f)),
    ("fourth", lambda a, f: _back(_snr(a) / f**4)),
    *(("direction", lambda a, f, k=k: _back(_snr(a) * f**k)) for k in (1, 2, 4)),
    *(("share", lambda a, f, k=k: a * f**k) for k in (-2, -1, 1, 2)),
    *(("share", lambda a, f, k=k: (a * f**k).clamp(max=1)) for k in (1, 2)),
    *(("share", lambda a, f, k=k: 1 - (1 - a) * f**k) for k in (-2, -1, 1, 2)),
    *(("share", lambda a, f, k=k: (1 - (1 - a) * f**k).clamp(min=0)) for k in (1, 2)),
    *(("snr", lambda a, f, k=k: _snr(a) * f**k) for k in (-2, -1, 0, 1, 2)),
    *(
        ("log", lambda a, f, k=k, unit=unit: unit * (_snr(a) * f**k).log())
        for k in (-2, -1, 0, 1, 2)
        for unit in (1, 0.5, 1 / math.log(2), 1 / math.log(10), 10 / math.log(10))
    ),
    ("root", lambda a, f: _right_shift(a, f).sqrt()),
    ("root", lambda a, f: _right_shift(a, f) ** 2),
    *(("root", lambda a, f, k=k: _back(_snr(a).sqrt() / f**k)) for k in (1, 2)),
    *(("root", lambda a, f, k=k: _right_shift(a.sqrt(), f) ** k) for k in (1, 2)),
    *(("root", lambda a, f, k=k: _right_shift(a**2, f) ** k) for k in (1, 0.5)),
    *(("noise share", lambda a, f, k=k: (1 - _right_shift(a, f)) ** k) for k in (1, 0.5)),
    ("inverse", lambda a, f: 1 - _back(_snr(a) * f**2)),
    ("inverse", lambda a, f: f**2 / _snr(a)),
    ("inverse", lambda a, f: 1 / _snr(a) / f**2),
    ("back", lambda a, f: _snr(a) / f**2 / (1 - _snr(a) / f**2)),
    ("back", lambda a, f: 1 - f**2 / _snr(a)),
    *(
        ("base", lambda a, f, k=k, log=log: torch.sigmoid(_snr(a).log() + k * log(f)))
        for k in (-2, -1, 1, 2)
        for log in (math.log2, math.log10)
    ),
    *(
        ("base", lambda a, f, log=log: torch.sigmoid(log(_snr(a) / f**2)))
        for log in (torch.log2, torch.log10)
    ),
    *(("power", lambda a, f, k=k: a ** (f**k)) for k in (-2, -1, 1, 2)),
    *(
        ("betas", lambda a, f, k=k, most=most: _by_betas(a, f**k, most))
        for k in (-2, -1, 1, 2)
        for most in (0.999, 1, math.inf)
    ),
    *(("in t", lambda a, f, k=k: _along_t(a, lambda t: t * f**k)) for k in (-2, -1, 1, 2)),
    *(("in t", lambda a, f, k=k: _along_t(a, lambda t: t + k * f)) for k in (-1, 1)),
]


def examine_shift(function: Callable) -> str:
    """Exercise 11.1."""
    values, changed = [], False
    for (abar, factor), (given, _) in zip(_shift_cases(), _shift_cases(), strict=True):
        values.append(expect_tensor(function(given, factor), tuple(abar.shape), "[T]"))
        changed = changed or not torch.equal(given, abar)
    right = all(map(close, values, _shifts(_right_shift)))
    if not right:
        for name, formula in WRONG_SHIFTS:
            if all(map(close, values, _shifts(formula))):
                raise Wrong(SHIFT[name])
    if changed:
        raise Wrong(SHIFT["in place"])
    if not right:
        if all(map(_all_among, values, (abar for abar, _ in _shift_cases()))):
            raise Wrong(SHIFT["in t"])
        raise _off_shift(values)
    return "After a mean over blocks the larger picture is as noisy as the small one was, at every t."


def _shift_cases() -> list[tuple[Tensor, float]]:
    """Made afresh."""
    return [(torch.tensor(curve, dtype=torch.float64), factor) for curve, factor in SHIFTS]


def _shifts(formula: Curve) -> list[Tensor]:
    return [formula(abar, factor) for abar, factor in _shift_cases()]


def _all_among(value: Tensor, abar: Tensor) -> bool:
    """Whether every value is one of the old ones."""
    return bool(((value[:, None] - abar).abs().amin(dim=1) < 1e-5).all())


def _off_shift(values: list[Tensor]) -> Wrong:
    for value, wanted, (abar, factor) in zip(values, _shifts(_right_shift), _shift_cases(), strict=True):
        if not close(value, wanted):
            t = int((value - wanted).abs().argmax())
            where = f"with factor = {factor:g} the abar of {float(abar[t]):.3g} should become"
            return Wrong(f"The numbers are off: {where} {float(wanted[t]):.4f}, got {float(value[t]):.4f}.")
    raise AssertionError("no value is off")


# ---- 11.2 ----

SHAPE = (61, 3, 4, 5)  # [B, C, H, W], all different; so many images that every statistic is decided
AXES = "[B, C, H, W]"
SEEDS = tuple(range(24))  # of the generators, one call each
ERRORS = 6  # standard errors: for a right answer less likely than one in a hundred million
# Each way to turn an image, by a number: 1 for its channels, 2 for above and below, 4 for left and right.
TURNS = {number: tuple(axis for bit, axis in ((1, 1), (2, 2), (4, 3)) if number & bit) for number in range(8)}
MIRRORED = 4


def flip_some(x_0, generator):
    """The function that 11.2 asks to repair, as the lesson gives it."""
    coin = torch.rand(1, generator=generator) < 0.5
    return torch.where(coin, x_0.flip(2), x_0)


class Flipped(NamedTuple):
    """One call of the learner's function: what it was given, what it returned, whether x_0 was changed."""

    x_0: Tensor
    value: Tensor
    changed: bool


def examine_flip(function: Callable) -> str:
    """Exercise 11.2."""
    seen = [_flip(function, torch.Generator().manual_seed(seed), luck=k) for k, seed in enumerate(SEEDS)]
    turns = torch.stack([_turns(one) for one in seen])  # [calls, B]
    name = _name_of_turns(seen, turns) or _name_of_calls(function, turns == MIRRORED)
    name = name or _name_of_coins(turns == MIRRORED)
    if name is not None:
        raise Wrong(FLIP[name])
    if any(one.changed for one in seen):
        raise Wrong(FLIP["in place"])
    return "Each image has its own fair coin, and the same generator throws the same coins again."


def _images() -> Tensor:
    return 2 * torch.rand(SHAPE, generator=torch.Generator().manual_seed(11)) - 1


def _flip(function: Callable, generator: torch.Generator, luck: int) -> Flipped:
    """One call; `luck` seeds the global random numbers, which a right answer does not touch."""
    x_0 = _images()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1000 + luck)
        result = function(x_0, generator)
    if isinstance(result, tuple):
        raise NotUsable(FLIP["tuple"])
    if isinstance(result, Tensor) and tuple(result.shape) in {SHAPE[:1], (*SHAPE[:1], 1, 1, 1)}:
        raise NotUsable(FLIP["coins"])
    value = expect_tensor(result, SHAPE, AXES).clone()
    return Flipped(_images().double(), value, not torch.equal(x_0, _images()))


def _same(one: Tensor, other: Tensor) -> Tensor:
    return (one - other).abs() < 1e-4


def _turns(seen: Flipped) -> Tensor:
    """The number of each image's turn, or -1, [B]."""
    found = torch.full(SHAPE[:1], -1)
    for number, axes in TURNS.items():
        found[_same(seen.value, seen.x_0.flip(axes)).flatten(1).all(dim=1)] = number
    return found


def _name_of_turns(seen: list[Flipped], turns: Tensor) -> str | None:
    """What is wrong apart from the coins: another turn, or images that are no longer whole."""
    numbers = set(turns.flatten().tolist())
    if -1 in numbers:
        call, image = (turns == -1).nonzero()[0].tolist()
        if name := _name_of_pixels(seen) or _name_of_places(seen[call]):
            return name
        raise Wrong(
            f"Image {image} of the batch is neither itself nor its mirror image: all its pixels must be "
            "found again, each in its own row and channel."
        )
    if any(number & 1 for number in numbers):
        return "channels"
    if any(number & 2 for number in numbers):
        return "turned" if numbers <= {0, 6} else "upside down"
    return None


def _name_of_pixels(seen: list[Flipped]) -> str | None:
    x_0, value = (torch.stack(parts) for parts in ([s.x_0 for s in seen], [s.value for s in seen]))
    stays, moves = _same(value, x_0), _same(value, x_0.flip(-1))
    negated = _same(value, -x_0) | _same(value, -x_0.flip(-1))
    if bool((negated | stays | moves).flatten(2).all(dim=2).all()) and not bool((stays | moves).all()):
        return "negated"
    if not bool((stays | moves).all()):
        return None
    only_stays, only_moves = stays & ~moves, moves & ~stays  # in the middle column both are true
    for name, axes in (("channel", (-2, -1)), ("row", (-1,))):
        if not bool((only_stays.any(dim=axes) & only_moves.any(dim=axes)).any()):
            return name
    return "pixel"


def _name_of_places(seen: Flipped) -> str | None:
    """Whether each image, turned or not, is one of the batch, at whatever place."""
    found = torch.zeros(SHAPE[:1], dtype=torch.bool)
    for axes in TURNS.values():
        found |= _same(seen.value[:, None], seen.x_0.flip(axes)[None]).flatten(2).all(dim=2).any(dim=1)
    return "order" if bool(found.all()) else None


def _name_of_calls(function: Callable, coins: Tensor) -> str | None:
    """What is wrong with how one call's coins differ from another's; coins: [calls, B]."""
    if not coins.any():
        return "none"
    if coins.all():
        return "every"
    if bool((coins == coins[:, :1]).all()):
        return "one coin"

    def call(generator: torch.Generator, luck: int) -> Tensor:
        return _turns(_flip(function, generator, luck)) == MIRRORED

    generator = torch.Generator().manual_seed(SEEDS[0])
    if not torch.equal(call(generator, luck=len(SEEDS)), coins[0]):
        return "generator"
    if bool((coins == coins[0]).all()):
        return "fixed"
    return "again" if torch.equal(call(generator, luck=0), coins[0]) else None


def _name_of_coins(coins: Tensor) -> str | None:
    """Whether the coins are fair and independent; coins: [calls, B]."""
    if len(set(coins.sum(dim=1).tolist())) == 1:
        return "exact"
    if _is_off(coins):
        return "probability"
    shares = coins.double().mean(dim=0)
    if bool(((shares == 0) | (shares == 1)).any()):
        return "places"
    # Pairs at each distance agree half of the time; those at large distances are few, and the near ones tell.
    if any(_is_off(coins[:, k:] == coins[:, :-k]) for k in range(1, SHAPE[0] // 2 + 1)):
        return "together"
    return None


def _is_off(coins: Tensor) -> bool:
    """Whether their share of True differs from one half by more than luck."""
    return abs(float(coins.double().mean()) - 0.5) > ERRORS * 0.5 / math.sqrt(coins.numel())


# ---- 11.3 ----

Point = tuple[float, float]  # accuracy, fid
# Each row: guidance scale, accuracy, fid. In the first, rows tie in one measure or in both, two are the same
# throughout, and that of scale 3 lies in a dent of the front. In the last, one row beats all others.
TABLES = (
    (
        *((4.0, 0.90, 6.0), (1.0, 0.50, 1.0), (7.0, 0.95, 9.0), (2.0, 0.70, 2.0), (1.5, 0.60, 2.0)),
        *((2.5, 0.70, 2.0), (6.0, 0.95, 9.5), (3.0, 0.72, 4.0), (0.5, 0.45, 1.0), (5.0, 0.90, 5.0)),
        *((5.0, 0.90, 5.0), (3.5, 0.71, 8.0)),
    ),
    ((3.0, 0.80, 3.0), (1.0, 0.60, 4.0), (2.0, 0.90, 2.0), (4.0, 0.85, 2.5), (5.0, 0.40, 0.5)),
    ((2.0, 0.50, 3.0), (1.0, 0.80, 1.5), (3.0, 0.70, 2.0)),
)


def _rows(table: Sequence[tuple]) -> list[dict]:
    """Made afresh; with a key in front and one behind."""
    names = ("guidance_scale", "accuracy", "fid")
    return [dict(zip(names, row, strict=True)) | {"steps": 25} for row in table]


def _points(table: Sequence[tuple]) -> list[Point]:
    return [(accuracy, fid) for _, accuracy, fid in table]


def _beats(other: Point, one: Point) -> bool:
    return other[0] >= one[0] and other[1] <= one[1] and other != one


def _unbeaten(
    beats: Callable[[Point, Point], bool] = _beats,
    others: Callable[[int, int], Sequence[int]] = lambda i, count: [j for j in range(count) if j != i],
) -> Callable[[list[Point]], list[int]]:
    """The front by another meaning of `beats`, or with a part of the others."""

    def places(points: list[Point]) -> list[int]:
        rivals = [[points[j] for j in others(i, len(points))] for i in range(len(points))]
        return [i for i, one in enumerate(points) if not any(beats(other, one) for other in rivals[i])]

    return places


def _turned(accuracy: int, fid: int) -> Callable[[Point, Point], bool]:
    return lambda other, one: _beats((accuracy * other[0], fid * other[1]), (accuracy * one[0], fid * one[1]))


def _best(value: Callable[[Point], float]) -> Callable[[list[Point]], list[int]]:
    """The places of all that are best in one measure."""
    return lambda points: [i for i, one in enumerate(points) if value(one) == max(map(value, points))]


def _ends(points: list[Point], first: Callable, second: Callable, pick: slice) -> list[int]:
    return list(dict.fromkeys(first(points)[pick] + second(points)[pick]))


def _hull(points: list[Point], pick: slice) -> list[int]:
    """Every place that some weighted sum puts first."""
    found = set()
    for weight in torch.linspace(0.0005, 0.9995, 1000, dtype=torch.float64).tolist():
        for scale in (1, 10, 100):
            sums = [weight * scale * accuracy - (1 - weight) * fid for accuracy, fid in points]
            found |= set([i for i, one in enumerate(sums) if one == max(sums)][pick])
    return sorted(found)


ACCURATE, NEAR = _best(lambda one: one[0]), _best(lambda one: -one[1])
PICKS = (slice(None), slice(1), slice(-1, None))  # all of equal rows, the first, the last
_right_front = _unbeaten()
WRONG_FRONTS: list[tuple[str, Callable[[list[Point]], list[int]]]] = [
    *(("best accuracy", lambda points, pick=pick: ACCURATE(points)[pick]) for pick in PICKS),
    *(("best fid", lambda points, pick=pick: NEAR(points)[pick]) for pick in PICKS),
    *(
        ("both ends", lambda points, ends=ends, pick=pick: _ends(points, *ends, pick))
        for ends, pick in itertools.product(((ACCURATE, NEAR), (NEAR, ACCURATE)), PICKS)
    ),
    *(("both ends", lambda points, pick=pick: sorted(_ends(points, ACCURATE, NEAR, pick))) for pick in PICKS),
    ("all", lambda points: list(range(len(points)))),
    ("strict", _unbeaten(lambda other, one: other[0] > one[0] and other[1] < one[1])),
    ("either", _unbeaten(lambda other, one: other[0] > one[0] or other[1] < one[1])),
    ("itself", lambda points: []),
    ("fid up", _unbeaten(_turned(1, -1))),
    ("accuracy down", _unbeaten(_turned(-1, 1))),
    ("both turned", _unbeaten(_turned(-1, -1))),
    ("beaten", lambda points: [i for i in range(len(points)) if i not in _right_front(points)]),
    ("one way", _unbeaten(others=lambda i, count: range(i))),
    ("one way", _unbeaten(others=lambda i, count: range(i + 1, count))),
    ("one way", _unbeaten(others=lambda i, count: [j for j in (i - 1, i + 1) if 0 <= j < count])),
    ("one way", _unbeaten(others=lambda i, count: range(i - 1, i) if i else ())),
    ("one way", _unbeaten(others=lambda i, count: range(i + 1, min(i + 2, count)))),
    *(("hull", lambda points, pick=pick: _hull(points, pick)) for pick in PICKS),
]


class Chosen(NamedTuple):
    """One call of the learner's function: the places of the rows returned, what became of the rows."""

    places: list[int]
    altered: bool  # what is returned is not the rows as they were given
    changed: bool


def examine_front(function: Callable) -> str:
    """Exercise 11.3."""
    seen = [_choose(function, table) for table in TABLES]
    places, wanted = [one.places for one in seen], _fronts(_right_front)
    if places != wanted and (name := _name_of_fronts(places, wanted)):
        raise Wrong(FRONT[name])
    if any(one.changed for one in seen):
        raise Wrong(FRONT["in place"])
    if places != wanted:
        raise _off_front(places, wanted)
    if any(one.altered for one in seen):
        raise Wrong(FRONT["values"])
    return "For each row that is left out, another one is at least as good in both: only these are a choice."


def _choose(function: Callable, table: Sequence[tuple]) -> Chosen:
    given, rows = _rows(table), _rows(table)
    result = function(given)
    if result is ...:
        raise Unfinished
    if result is None:
        raise NotUsable("Your function returns nothing: is the `return` missing?")
    if isinstance(result, dict):
        raise NotUsable(FRONT["dict"])
    if not isinstance(result, list):
        kind = type(result).__name__
        raise NotUsable(f"Your function must return a list of rows, not a value of type {kind}.")
    places: list[int] = []
    for row in result:
        places.append(_place(row, table, places))
    first = [rows.index(rows[i]) for i in places]
    return Chosen(first, any(row not in rows for row in result), given != rows)


def _place(row: Any, table: Sequence[tuple], taken: list[int]) -> int:
    """Where the table has this row; a row that was altered is known by its accuracy and FID."""
    if isinstance(row, int) or getattr(row, "ndim", None) == 0:
        raise NotUsable(FRONT["indices"])
    if not isinstance(row, dict) or not {"accuracy", "fid"} <= set(row):
        raise NotUsable(FRONT["values"])
    rows, points = _rows(table), _points(table)
    if row in rows:
        return rows.index(row)
    found = [i for i, point in enumerate(points) if point == (row["accuracy"], row["fid"])]
    if not found:
        told = f"accuracy {row['accuracy']}, fid {row['fid']}"
        raise NotUsable(f"A row is returned that is not in the table: {told}.")
    return next((i for i in found if i not in taken), found[0])


def _fronts(formula: Callable[[list[Point]], list[int]]) -> list[list[int]]:
    """For each table the first place of each row that the formula returns."""
    return [[_rows(table).index(_rows(table)[i]) for i in formula(_points(table))] for table in TABLES]


def _name_of_fronts(places: list[list[int]], wanted: list[list[int]]) -> str | None:
    formulas = [(name, _fronts(formula)) for name, formula in WRONG_FRONTS]
    everything = dict(formulas)["all"]
    if any(one.count(i) > all_.count(i) for one, all_ in zip(places, everything, strict=True) for i in one):
        return "again"
    for name, found in formulas:
        if places == found:
            return name
    in_order = [sorted(one) for one in places]
    if in_order == everything:
        return "all"
    if in_order == wanted:
        return "order"
    if all(_lost_equals(*one) for one in zip(places, wanted, TABLES, strict=True)):
        return "duplicates"
    for name, found in formulas:  # the rows of a wrong answer, in another order
        if in_order == [sorted(one) for one in found]:
            return name
    return "weighted" if all(len(one) == 1 for one in places) else None


def _lost_equals(places: list[int], wanted: list[int], table: Sequence[tuple]) -> bool:
    """Whether nothing is missing of the front but rows that have an equal one."""
    points, missing = _points(table), list(wanted)
    for place in places:
        if place not in missing:
            return False
        missing.remove(place)
    return all(points.count(points[i]) > 1 for i in missing)


def _off_front(places: list[list[int]], wanted: list[list[int]]) -> Wrong:
    for one, right, table in zip(places, wanted, TABLES, strict=True):
        for i, (scale, accuracy, fid) in enumerate(table):
            if (i in one) != (i in right):
                end = "is returned, and another row beats it" if i in one else "is missing, and none beats it"
                return Wrong(f"The row with accuracy {accuracy:g} and fid {fid:g} (scale {scale:g}) {end}.")
    return Wrong("The right rows are returned, but not each as often as the table has it.")


EXERCISES = (
    Exercise(
        number="11.1",
        minutes=5,
        title="A schedule for larger pictures",
        check_name="shifted_schedule",
        arguments=("abar", "factor"),
        hints=(
            "The mean over a block of factor × factor pixels leaves coarse content as it is. What does it do "
            "to the standard deviation of independent noise, and so to the ratio of the variances?",
            "SNR = abar / (1 - abar), the new one is SNR / factor², and solved for abar: "
            "abar' = SNR' / (1 + SNR').",
            "snr = abar / (____) / factor**____ … return snr / (____)",
        ),
        examine=examine_shift,
        diagnoses=SHIFT,
    ),
    Exercise(
        number="11.2",
        minutes=15,
        title="Repair a mirror",
        check_name="flip_some",
        arguments=("x_0", "generator"),
        hints=(
            "How many coins does a batch of 64 images need, and how many are thrown? Which axis of "
            "[B, C, H, W] do you walk along from left to right?",
            "coin_b ~ Bernoulli(1/2) for each image b, and result_b = mirrored x_b where coin_b = 1, else "
            "x_b. A mask [B] chooses between images once it has shape [B, 1, 1, 1].",
            "coins = torch.rand(____, generator=generator) < 0.5 … "
            "return torch.where(coins[____], x_0.flip(____), x_0)",
        ),
        examine=examine_flip,
        diagnoses=FLIP,
        planted=flip_some,
    ),
    Exercise(
        number="11.3",
        minutes=15,
        title="The rows that none beats",
        check_name="not_beaten",
        arguments=("rows",),
        hints=(
            "Two rows: when would nobody choose the second, whichever measure matters more? And what if both "
            "are equal?",
            "other beats row: other's accuracy >= row's and other's fid <= row's, and one of the two is not "
            "an equality.",
            "return [row for row in rows if not any(____ for other in rows)]",
        ),
        examine=examine_front,
        diagnoses=FRONT,
    ),
)
