"""Mistakes that any exercise may have: they are known from the right numbers alone, and told for all once.

An answer that mixes images (a x + b eps) is taken apart first: then it can be told which factor is off, and
how. Else the whole result is compared with what a slip makes of the right one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Mixture = dict[str, float]  # the factor of each image


def close(a: Tensor, b: Tensor) -> bool:
    """Equal up to float32 rounding; NaN counts as equal to NaN."""
    if a.shape != b.shape or a.is_complex():
        return False
    return torch.allclose(a.double(), b.double(), rtol=1e-4, atol=1e-4, equal_nan=True)


def same(values: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    """Whether all of them are equal, and there is a number to compare.

    Where a formula has no value it is one NaN, whatever the shape.
    """
    if len(values) != len(others) or all(bool(value.isnan().all()) for value in others):
        return False
    return all(
        close(value, other) or bool(value.isnan().all() and other.isnan().all())
        for value, other in zip(values, others, strict=True)
    )


# ---- the whole result ----


def _size(r: Tensor, axes: tuple[int, ...]) -> Tensor:
    return torch.linalg.vector_norm(r, dim=axes or None, keepdim=r.ndim > 0)


NOT_ITS_SIZE = "The result is divided by its own size: keep it, for it says how much there is to gain."
CLIPPED = "The result is clipped to [-1, 1]: leave it as it is."
FRACTION = "The result is upside down: it is 1 divided by the right one."
# What a slip makes of the right result.
SLIPS: tuple[tuple[str, Callable[[Tensor], Tensor]], ...] = (
    ("The sign is turned round: all numbers are right but for it.", lambda r: -r),
    (CLIPPED, lambda r: r.clamp(-1, 1)),
    ("The result is clipped to [0, 1]: leave it as it is.", lambda r: r.clamp(0, 1)),
    ("The signs are lost: these are the absolute values of the right numbers.", torch.abs),
    ("The result is rounded to whole numbers: leave it as it is.", torch.round),
    (
        "The result is the square of the right one: a square root is missing, or a square too many.",
        torch.square,
    ),
    ("The result is the root of the right one: a square root is too many.", torch.sqrt),
    ("The result is e to the right one: a logarithm is missing.", torch.exp),
    ("The result is the logarithm of the right one: a logarithm is too many.", torch.log),
    (FRACTION, torch.reciprocal),
    ("The result is 1 minus the right one: it is the other share that is asked.", lambda r: 1 - r),
    (NOT_ITS_SIZE, lambda r: r / _size(r, tuple(range(1, r.ndim)))),
    (NOT_ITS_SIZE, lambda r: r / _size(r, ())),
    (NOT_ITS_SIZE, lambda r: r / _size(r, (1,) if r.ndim > 1 else ())),
    (NOT_ITS_SIZE, lambda r: r / r.abs().max()),
    ("Only signs are left: keep how large each number is.", torch.sign),
    ("The order of the entries is turned round: the first is last.", lambda r: r.flip(0) if r.ndim else r),
    (
        "The entries are one place too far: the last has become the first.",
        lambda r: r.roll(1, 0) if r.ndim else r,
    ),
    (
        "The entries are one place too early: the first has become the last.",
        lambda r: r.roll(-1, 0) if r.ndim else r,
    ),
)


def of_numbers(values: list[Tensor], right: list[Tensor]) -> str | None:
    """What a slip at the end has made of the right numbers: the sign, a factor, a clip, a logarithm, …"""
    for sentence, slip in SLIPS:
        if same(values, [slip(one) for one in right]):
            return sentence
    if factor := _factor(values, right):
        batch = right[0].shape[0] if right[0].ndim else 0
        size = f"{1 / factor:.4g} times too small" if abs(factor) < 1 else f"{factor:.4g} times too large"
        if batch and math.isclose(factor, 1 / batch, rel_tol=1e-3):
            return (
                f"The result is {size}, and {batch} is the size of the batch: add up over it, take no mean."
            )
        for base in (2, 10):
            if math.isclose(abs(factor), 1 / math.log(base), rel_tol=1e-3):
                return f"The logarithm has base {base}: it must be the natural one."
        return f"Every number is {size}: a factor is missing or too many."
    shifts = [value - one for value, one in zip(values, right, strict=True)]
    if same(shifts, [torch.full_like(shift, float(shifts[0].flatten()[0])) for shift in shifts]):
        return f"Every number is off by the same amount, {float(shifts[0].flatten()[0]):.4g}."
    if all(one.ndim == 1 for one in right):
        if same([one.sort().values for one in values], [one.sort().values for one in right]):
            return "The numbers are right and their order is not."
    return None


def turned(values: list[Tensor], results: list[Tensor], sentence: str) -> str | None:
    """A classic mistake with a factor, sign or logarithm on top."""
    if factor := _factor(values, results):
        more = "the sign is turned round" if factor == -1 else f"all is multiplied by {factor:.4g}"
        return f"{sentence} And {more}."
    for more, slip in (("a logarithm is missing", torch.exp), ("a logarithm is too many", torch.log)):
        if same(values, [slip(one) for one in results]):
            return f"{sentence} And {more}."
    return None


def _factor(values: list[Tensor], others: list[Tensor]) -> float | None:
    """The number that all of the others are multiplied by, if it is one, and neither 0 nor 1."""
    if [one.shape for one in values] != [one.shape for one in others]:
        return None
    a, b = (torch.cat([one.flatten() for one in some]) for some in (values, others))
    keep = a.isfinite() & b.isfinite()
    if not bool(keep.any()) or float(b[keep].abs().max()) < 1e-3:
        return None
    factor = float((a[keep] * b[keep]).sum() / (b[keep] ** 2).sum())
    if abs(factor) < 1e-3 or abs(factor - 1) < 1e-3 or not close(a, factor * b):
        return None
    return -1.0 if abs(factor + 1) < 1e-4 else factor


# ---- the factors of a mixture ----


def mixture(images: dict[str, Tensor], value: Tensor) -> Mixture | None:
    """The factors of the images whose sum is `value`, if it is one."""
    if not 2 <= len(images) <= 4 or value.ndim < 2 or value.numel() <= len(images):
        return None
    if not bool(value.isfinite().all()):
        return None
    basis = torch.stack([image.double().flatten() for image in images.values()], dim=1)
    factors = torch.linalg.lstsq(basis, value.flatten()[:, None]).solution.flatten()
    if not close((basis @ factors).view_as(value), value):
        return None
    return dict(zip(images, [round(one, 6) + 0.0 for one in factors.tolist()], strict=True))


# What is wrong with a factor, from the right one.
RELATIONS: tuple[tuple[str, Callable[[float], float]], ...] = (
    ("{0} is missing: it has no part in the result.", lambda f: 0.0),
    ("The sign of {0} is turned round.", lambda f: -f),
    (
        "A square root is missing in the factor of {0}: {1} is the square of what it should be, {2}.",
        lambda f: f * f,
    ),
    (
        "A square root is too many in the factor of {0}: it is {1}, and should be {2}.",
        lambda f: abs(f) ** 0.5,
    ),
    ("The factor of {0} is upside down: it is {1}, and should be {2}.", lambda f: 1 / f if f else math.inf),
    ("The factor of {0} is missing: it should be {2}, and is 1.", lambda f: 1.0),
    ("The factor of {0} is subtracted from 1: it is {1}, and should be {2}.", lambda f: 1 - f),
)


def of_mixtures(values: list[Mixture | None], right: list[Mixture | None]) -> str | None:
    """What is wrong with the factors, if the same is wrong in every case."""
    if not values or any(one is None for one in (*values, *right)):
        return None
    names = [
        name
        for name in right[0]
        if any(not _near(v[name], r[name]) for v, r in zip(values, right, strict=True))
    ]
    pairs = [[(v[name], r[name]) for v, r in zip(values, right, strict=True)] for name in names]
    if not names:
        return None
    off = next(i for i, (v, r) in enumerate(pairs[0]) if not _near(v, r))
    told = [" and ".join(names), *(" and ".join(f"{of[off][k]:.3f}" for of in pairs) for k in (0, 1))]
    for sentence, relation in RELATIONS:
        if all(_near(v, relation(r)) for of in pairs for v, r in of):
            return sentence.format(*told)
    if len(names) == 2 and all(_near(a[0], b[1]) and _near(b[0], a[1]) for a, b in zip(*pairs, strict=True)):
        return f"The factors of {told[0]} are exchanged: they are {told[1]}, and should be {told[2]}."
    ratios = [v / r for of in pairs for v, r in of if r]
    if len(ratios) > 1 and all(_near(one, ratios[0]) for one in ratios):
        return f"The factor of {told[0]} is {ratios[0]:.4g} times what it should be in every case: {told[1]}, not {told[2]}."
    return None


def _near(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=1e-3, abs_tol=1e-4)
