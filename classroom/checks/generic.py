"""Mistakes that any exercise may have: they are known from the right numbers alone, and told for all once.

An answer that mixes images (a x + b eps) is taken apart first: then it can be told which factor is off, and
how. Else the whole result is compared with what a slip makes of the right one.
"""

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


# What a slip at the end makes of the right result.
SLIPS: tuple[tuple[str, Callable[[Tensor], Tensor]], ...] = (
    ("The sign is turned round: all numbers are right but for it.", lambda r: -r),
    ("The result is 0 everywhere: what is added up cancels out.", lambda r: r * 0),
    ("The result is clipped to [-1, 1]: leave it as it is.", lambda r: r.clamp(-1, 1)),
    ("The result is clipped to [0, 1]: leave it as it is.", lambda r: r.clamp(0, 1)),
    ("The signs are lost: these are the absolute values of the right numbers.", torch.abs),
    ("The result is rounded to whole numbers: leave it as it is.", torch.round),
    ("This is the square of the right result: a root is missing, or a square too many.", torch.square),
    ("This is the root of the right result: a square root is too many.", torch.sqrt),
    ("This is e to the right result: a logarithm is missing.", torch.exp),
    ("The result is upside down: it is 1 divided by the right one.", torch.reciprocal),
    ("This is 1 minus the right result: the other share is asked.", lambda r: 1 - r),
    ("Only signs are left: keep how large each number is.", torch.sign),
    ("The order is turned round: the first entry is last.", lambda r: r.flip(0) if r.ndim else r),
    *(
        ("The result is divided by its own size: keep it, for it says how much there is to gain.", slip)
        for slip in (
            lambda r: r / r.norm(),
            lambda r: torch.nn.functional.normalize(r.flatten(1)).view_as(r) if r.ndim > 1 else r,
            lambda r: r / r.abs().max(),
        )
    ),
)


def of_numbers(values: list[Tensor], right: list[Tensor]) -> str | None:
    """What a slip at the end has made of the right numbers: the sign, a factor, a clip, a logarithm, …"""
    for sentence, slip in SLIPS:
        if same(values, [slip(one) for one in right]):
            return sentence
    if factor := _factor(values, right):
        size = f"{1 / factor:.4g} times too small" if abs(factor) < 1 else f"{factor:.4g} times too large"
        if right[0].ndim and _near(factor, 1 / len(right[0])):
            return f"The result is {size}, and so large is the batch: add up over it, take no mean."
        base = next(
            (f", as with base {base}" for base in (2, 10) if _near(abs(factor), 1 / math.log(base))), ""
        )
        return f"Every number is {size}, by the same factor{base}."
    shifts = [value - one for value, one in zip(values, right, strict=True) if value.shape == one.shape]
    shift = float(shifts[0].flatten()[0]) if shifts else math.nan
    if math.isfinite(shift) and same(shifts, [torch.full_like(one, shift) for one in shifts]):
        return f"Every number is off by the same amount, {shift:.4g}."
    if right[0].ndim == 1 and same(*([one.sort().values for one in some] for some in (values, right))):
        return "The numbers are right and their order is not."
    return None


def of_steps(values: list[Tensor], right: list[Tensor], images: list[dict[str, Tensor]]) -> str | None:
    """Whether the result is right but for an image from which a step goes off."""
    for name in images[0]:
        base = [one[name] for one in images]
        for sentence, factor, sign in (
            ("The step goes the wrong way from {}: its sign is turned round.", 2, -1),
            ("{} is missing: to the step it must be added.", -1, 1),
            ("What is returned is {} less the right result.", 1, -1),
        ):
            if same(values, [factor * x + sign * one for x, one in zip(base, right, strict=True)]):
                return sentence.format(name)
    return None


def turned(values: list[Tensor], results: list[Tensor], sentence: str) -> str | None:
    """A classic mistake with a factor, sign or logarithm on top."""
    if _factor(values, results) == -1:
        return f"{sentence} And the sign is turned round."
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
RELATIONS: dict[str, Callable[[float], float]] = {
    "{0} is missing: it has no part in the result.": lambda f: 0.0,
    "The sign of {0} is turned round.": lambda f: -f,
    "A square root is missing before {0}: its factor is {1}, the square of {2}.": lambda f: f * f,
    "A square root is too many before {0}: its factor is {1}, the root of {2}.": lambda f: abs(f) ** 0.5,
    "The factor of {0} is upside down: it is {1}, and should be {2}.": lambda f: 1 / f if f else math.inf,
    "The factor of {0} is missing: it should be {2}, and is 1.": lambda f: 1.0,
    "The factor of {0} is subtracted from 1: it is {1}, and should be {2}.": lambda f: 1 - f,
}


def of_mixtures(values: list[Mixture | None], right: list[Mixture | None], vague: bool = False) -> str | None:
    """What is wrong with the factors in every case; `vague`: at least which of them."""
    if not values or None in (*values, *right):
        return None
    both = list(zip(values, right, strict=True))
    names = [name for name in right[0] if any(not _near(v[name], r[name]) for v, r in both)]
    if not names:
        return None
    i = next(i for i, (v, r) in enumerate(both) if not _near(v[names[0]], r[names[0]]))
    told = [" and ".join(names), *(" and ".join(f"{some[name]:.3f}" for name in names) for some in both[i])]
    pairs = [(v[name], r[name]) for v, r in both for name in names]
    for sentence, relation in RELATIONS.items():
        if all(_near(v, relation(r)) for v, r in pairs):
            return sentence.format(*told)
    ratio = pairs[0][0] / pairs[0][1] if pairs[0][1] else 0.0
    if len(pairs) > 1 and ratio and all(_near(v, ratio * r) for v, r in pairs):
        return f"The factor of {told[0]} is {ratio:.4g} times what it should be: {told[1]}, not {told[2]}."
    if len(names) == 2 and all(_near(v[names[i]], r[names[1 - i]]) for v, r in both for i in (0, 1)):
        return f"The factors of {told[0]} are exchanged: they are {told[1]}, and should be {told[2]}."
    good = " and ".join(name for name in right[0] if name not in names)
    if good and vague:
        return f"The factor of {good} is right, that of {told[0]} is not: {told[1]} once, not {told[2]}."
    return None


def _near(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=1e-3, abs_tol=1e-4)
