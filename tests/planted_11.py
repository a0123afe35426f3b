"""Answers to lesson 11's exercises: right ones, each written another way, and the wrong ones with a name."""

import copy
import math
import random

import numpy as np
import torch
import torch.nn.functional as F

from classroom.checks import lesson11
from lessons_lib.recipes.losses import random_flip

# ---- right answers ----


def shifted_as_in_the_lesson(abar, factor):
    snr = abar / (1 - abar) / factor**2
    return snr / (1 + snr)


def shifted_in_log_snr(abar, factor):
    return torch.sigmoid(torch.logit(abar) - 2 * math.log(factor))


def shifted_by_sigma(abar, factor):
    """In float32."""
    sigma = factor * ((1 - abar.float()) / abar.float()).sqrt()
    return 1 / (1 + sigma**2)


def shifted_in_one_fraction(abar, factor):
    return abar / (abar + factor**2 * (1 - abar))


def shifted_in_a_loop(abar, factor):
    odds = [value / (1 - value) / factor / factor for value in abar.tolist()]
    return torch.tensor([1 - 1 / (1 + one) for one in odds])


def shifted_with_numpy(abar, factor):
    half = 0.5 * np.log(abar.numpy() / (1 - abar.numpy())) - np.log(factor)
    return torch.from_numpy((1 + np.tanh(half)) / 2)


def flip_as_in_the_lesson(x_0, generator):
    coins = torch.rand(len(x_0), generator=generator) < 0.5
    return torch.where(coins[:, None, None, None], x_0.flip(3), x_0)


def flip_in_a_loop(x_0, generator):
    images = [x.flip(-1) if torch.rand(1, generator=generator) > 0.5 else x for x in x_0]
    return torch.stack(images)


def flip_by_index(x_0, generator):
    result, chosen = x_0.clone(), torch.randint(2, (len(x_0),), generator=generator).bool()
    result[chosen] = torch.fliplr(x_0[chosen].permute(2, 3, 0, 1)).permute(2, 3, 0, 1)
    return result


def flip_by_bernoulli(x_0, generator):
    m = torch.empty(x_0.shape[0], 1, 1, 1).bernoulli_(0.5, generator=generator)
    return m * x_0.flip(dims=(3,)) + (1 - m) * x_0


def flip_by_gather(x_0, generator):
    """A normal number is positive half of the time; the columns are looked up."""
    width = x_0.shape[3]
    columns = torch.arange(width).expand(len(x_0), width)
    up = torch.randn(len(x_0), 1, generator=generator) > 0
    columns = torch.where(up, columns, width - 1 - columns)
    return x_0.gather(3, columns[:, None, None, :].expand_as(x_0))


def flip_by_grid(x_0, generator):
    """Each image's own affine map: x to -x, or not."""
    side = 1 - 2 * torch.randint(0, 2, (len(x_0),), generator=generator).float()
    zero = torch.zeros_like(side)
    theta = torch.stack([torch.stack([side, zero, zero], 1), torch.stack([zero, zero + 1, zero], 1)], 1)
    grid = F.affine_grid(theta, list(x_0.shape), align_corners=False)
    return F.grid_sample(x_0, grid, align_corners=False)


def flip_with_the_library(x_0, generator):
    return random_flip(x_0, generator)


def front_as_in_the_lesson(rows):
    def beats(other, row):
        as_good = other["accuracy"] >= row["accuracy"] and other["fid"] <= row["fid"]
        return as_good and (other["accuracy"] > row["accuracy"] or other["fid"] < row["fid"])

    return [row for row in rows if not any(beats(other, row) for other in rows)]


def front_in_loops(rows):
    kept = []
    for row in rows:
        beaten = False
        for other in rows:
            gains = other["accuracy"] - row["accuracy"], row["fid"] - other["fid"]
            if min(gains) >= 0 and max(gains) > 0:
                beaten = True
        if not beaten:
            kept.append(row)
    return kept


def front_by_sweep(rows):
    """From the best accuracy down: a row stays if it is nearer than all that are more accurate."""
    best, last, stays = math.inf, math.inf, set()
    for accuracy in sorted({row["accuracy"] for row in rows}, reverse=True):
        nearest = min(row["fid"] for row in rows if row["accuracy"] == accuracy)
        best, last = min(best, nearest), best
        if nearest < last:
            stays.add((accuracy, nearest))
    return [row for row in rows if (row["accuracy"], row["fid"]) in stays]


def front_with_tensors(rows):
    """As copies."""
    a, f = (torch.tensor([row[key] for row in rows]) for key in ("accuracy", "fid"))
    as_good = (a[:, None] >= a) & (f[:, None] <= f)
    beaten = (as_good & ~as_good.T).any(dim=0)
    return [dict(row) for row, out in zip(rows, beaten.tolist(), strict=True) if not out]


def front_by_striking_out(rows):
    left = list(rows)
    for row in rows:
        pair = row["accuracy"], -row["fid"]
        if any(pair != (a, -f) and a >= pair[0] and -f >= pair[1] for a, f in map(numbers, rows)):
            left.remove(row)
    return left


def numbers(row):
    return row["accuracy"], row["fid"]


RIGHT = [
    ("11.1", shifted_as_in_the_lesson),
    ("11.1", shifted_in_log_snr),
    ("11.1", shifted_by_sigma),
    ("11.1", shifted_in_one_fraction),
    ("11.1", shifted_in_a_loop),
    ("11.1", shifted_with_numpy),
    ("11.2", flip_as_in_the_lesson),
    ("11.2", flip_in_a_loop),
    ("11.2", flip_by_index),
    ("11.2", flip_by_bernoulli),
    ("11.2", flip_by_gather),
    ("11.2", flip_by_grid),
    ("11.2", flip_with_the_library),
    ("11.3", front_as_in_the_lesson),
    ("11.3", front_in_loops),
    ("11.3", front_by_sweep),
    ("11.3", front_with_tensors),
    ("11.3", front_by_striking_out),
]

# ---- classic wrong answers: the right one with one thing replaced ----


def best_by(rows, key):
    return max(rows, key=key)


def written(head, lines):
    space = {"torch": torch, "math": math, "np": np, "random": random, "copy": copy, "numbers": numbers}
    space |= {"front": front_as_in_the_lesson, "best_by": best_by, "rolled": rolled}
    exec(head + "\n    " + "\n    ".join(lines), space)
    return next(space[name] for name in ("shifted", "flip_some", "not_beaten") if name in space)


def replaced(head, right, lines):
    """The right lines with each given line in the place of the one that sets the same name."""
    names, body = [line.split()[0] for line in right], list(right)
    for line in lines:
        body[names.index(line.split()[0])] = line
    return written(head, body)


def rolled(abar, count):
    return torch.cat([abar[count:], abar[-1:].expand(count)])


SHIFTED = ("a = abar.clone()", "snr = a / (1 - a)", "new = snr / factor**2", "return new / (1 + new)")


def wrong_shift(*lines):
    return replaced("def shifted(abar, factor):", SHIFTED, lines)


def betas_scaled(most):
    def shifted(abar, factor):
        betas = 1 - abar / torch.cat([torch.ones(1, dtype=abar.dtype), abar[:-1]])
        return torch.cumprod(1 - torch.clip(betas * factor**2, max=most), dim=0)

    return shifted


WRONG_SHIFT = [
    (name, lines if callable(lines) else wrong_shift(*lines))
    for name, lines in [
        ("factor", ("new = snr / factor",)),
        ("factor", ("return torch.sigmoid(torch.logit(a) - math.log(factor))",)),
        ("factor", ("return torch.sigmoid(2 * (0.5 * snr.log() - 0.5 * math.log(factor)))",)),
        ("fourth", ("new = snr / factor**4",)),
        ("fourth", ("return torch.sigmoid(2 * (0.5 * snr.log() - 2 * math.log(factor)))",)),
        ("direction", ("new = snr * factor**2",)),
        ("direction", ("new = snr * factor",)),
        ("direction", ("return torch.sigmoid(torch.logit(a) + 2 * math.log(factor))",)),
        ("direction", ("return torch.sigmoid(torch.logit(a) + math.log(factor))",)),
        ("share", ("return a / factor**2",)),
        ("share", ("return a / factor",)),
        ("share", ("return 1 - (1 - a) * factor**2",)),
        ("share", ("return (1 - (1 - a) * factor**2).clamp(0, 1)",)),
        ("share", ("return (factor**2 * a).clamp(max=1)",)),
        ("snr", ("return new",)),
        ("snr", ("return snr",)),
        ("snr", ("new = snr * factor**2", "return new")),
        ("log", ("return new.log()",)),
        ("log", ("return torch.logit(a) - 2 * math.log(factor)",)),
        ("log", ("return 10 * new.log10()",)),
        ("log", ("return 0.5 * torch.logit(a) - math.log(factor)",)),
        ("root", ("return (new / (1 + new)).sqrt()",)),
        ("root", ("snr = (a / (1 - a)).sqrt()",)),
        ("root", ("snr = (a / (1 - a)).sqrt()", "new = snr / factor")),
        ("root", ("a = abar.sqrt()",)),
        ("root", ("a = abar.sqrt()", "return (new / (1 + new))**2")),
        ("root", ("a = abar**2",)),
        ("root", ("a = abar**2", "return (new / (1 + new)).sqrt()")),
        ("noise share", ("return 1 / (1 + new)",)),
        ("noise share", ("return 1 - new / (1 + new)",)),
        ("noise share", ("snr = (1 - a) / a", "new = snr * factor**2")),
        ("noise share", ("return (1 / (1 + new)).sqrt()",)),
        ("inverse", ("snr = (1 - a) / a",)),
        ("inverse", ("snr = (1 - a) / a", "return new")),
        ("inverse", ("return 1 / new",)),
        ("back", ("return new / (1 - new)",)),
        ("back", ("return 1 - 1 / new",)),
        ("share", ("return new / (1 + snr)",)),
        ("base", ("return torch.sigmoid(torch.logit(a) - 2 * math.log2(factor))",)),
        ("base", ("return torch.sigmoid(torch.logit(a) - 2 * math.log10(factor))",)),
        ("base", ("return torch.sigmoid(torch.logit(a) - math.log2(factor))",)),
        ("base", ("return torch.sigmoid(snr.log10() - 2 * math.log10(factor))",)),
        ("base", ("return torch.sigmoid(new.log2())",)),
        ("power", ("return a**factor",)),
        ("power", ("return a**(factor**2)",)),
        ("power", ("return a**(1 / factor)",)),
        ("betas", betas_scaled(0.999)),
        ("betas", betas_scaled(1)),
        ("betas", betas_scaled(math.inf)),
        ("in t", ("return a.roll(1)",)),
        ("in t", ("return rolled(a, 2)",)),
        ("in t", ("return a[(torch.arange(len(a)) * factor).long().clamp(max=len(a) - 1)]",)),
        ("in t", ("return a.flip(0)",)),
        (
            "in t",
            ("return torch.tensor(np.interp(np.arange(len(a)) / factor, np.arange(len(a)), a.numpy()))",),
        ),
        ("unchanged", ("return a",)),
        ("unchanged", ("new = snr",)),
        ("in place", ("return abar.copy_(new / (1 + new))",)),
        ("in place", ("snr = abar.div_(1 - abar)",)),
        ("in place", ("return new / (1 + new) + 0 * abar.zero_()",)),
    ]
]

MIRROR = (
    "B, C, H, W = x_0.shape",
    "coins = torch.rand(B, generator=generator) < 0.5",
    "m = coins[:, None, None, None]",
    "other = x_0.flip(3)",
    "return torch.where(m, other, x_0)",
)


def wrong_flip(*lines):
    return replaced("def flip_some(x_0, generator):", MIRROR, lines)


def flip_both_ways(x_0, generator):
    for axis in (2, 3):
        coins = torch.rand(len(x_0), generator=generator) < 0.5
        x_0 = torch.where(coins[:, None, None, None], x_0.flip(axis), x_0)
    return x_0


def flip_in_the_data(x_0, generator):
    coins = torch.rand(len(x_0), generator=generator) < 0.5
    x_0[coins] = x_0[coins].flip(3)
    return x_0


def flip_a_copy_and_the_data(x_0, generator):
    result = flip_as_in_the_lesson(x_0, generator)
    x_0 *= 0
    return result


def flip_sorted(x_0, generator):
    coins = torch.rand(len(x_0), generator=generator) < 0.5
    return torch.cat([x_0[coins].flip(3), x_0[~coins]])


def flip_by_global_loop(x_0, generator):
    return torch.stack([x.flip(-1) if random.random() < 0.5 else x for x in x_0])


def flip_one_after_another(x_0, generator):
    """Alternating, from a random start."""
    start = torch.randint(2, (1,), generator=generator)
    coins = (torch.arange(len(x_0)) + start) % 2 == 0
    return torch.where(coins[:, None, None, None], x_0.flip(3), x_0)


def flip_with_a_copy(x_0, generator):
    own = torch.Generator()
    own.set_state(generator.get_state())
    return flip_as_in_the_lesson(x_0, own)


def flip_with_the_same_seed(x_0, generator):
    return flip_as_in_the_lesson(x_0, torch.Generator().manual_seed(generator.initial_seed()))


WRONG_FLIP = [
    (name, lines if callable(lines) else wrong_flip(*lines))
    for name, lines in [
        ("one coin", ("coins = torch.rand(1, generator=generator) < 0.5",)),
        ("one coin", ("coins = (torch.rand(1, generator=generator) < 0.5).expand(B)",)),
        ("one coin", ("coins = (torch.rand(1) < 0.5).expand(B)",)),
        ("upside down", ("other = x_0.flip(2)",)),
        ("upside down", ("other = x_0.flip(-2)", "coins = torch.rand(1, generator=generator) < 0.5")),
        ("upside down", flip_both_ways),
        ("turned", ("other = x_0.flip(2, 3)",)),
        ("turned", ("other = x_0.rot90(2, (2, 3))",)),
        ("channels", ("other = x_0.flip(1)",)),
        ("channels", ("other = x_0.flip(1, 3)",)),
        ("channels", ("other = x_0.flip(1, 2, 3)",)),
        ("order", ("other = x_0.flip(0)",)),
        ("order", ("other = x_0.flip(0)", "return other")),
        ("order", ("return torch.where(m, other, x_0)[torch.randperm(B)]",)),
        ("order", ("other = x_0.flip(0, 3)",)),
        ("order", ("other = x_0.flip(0)", "coins = torch.rand(1, generator=generator) < 0.5")),
        ("order", flip_sorted),
        ("negated", ("other = -x_0",)),
        ("negated", ("other = x_0 * -1", "return other")),
        ("negated", ("other = -x_0.flip(3)",)),
        ("every", ("return other",)),
        ("every", ("coins = torch.rand(B, generator=generator) < 1",)),
        ("none", ("return x_0.clone()",)),
        ("none", ("return x_0",)),
        ("none", ("other = x_0.flip(3).flip(3)",)),
        ("fixed", ("coins = torch.arange(B) < B // 2",)),
        ("fixed", ("coins = torch.arange(B) % 2 == 0",)),
        ("fixed", ("coins = torch.rand(B, generator=generator.manual_seed(0)) < 0.5",)),
        ("fixed", ("coins = torch.rand(B, generator=torch.Generator().manual_seed(3)) < 0.5",)),
        ("again", flip_with_a_copy),
        ("again", flip_with_the_same_seed),
        ("generator", ("coins = torch.rand(B) < 0.5",)),
        ("generator", ("coins = torch.randint(2, (B,)) == 1",)),
        ("generator", ("coins = torch.from_numpy(np.random.rand(B)) < 0.5",)),
        ("generator", flip_by_global_loop),
        ("exact", ("coins = torch.randperm(B, generator=generator) < B // 2",)),
        ("exact", ("coins = torch.randperm(B, generator=generator) < 1",)),
        ("probability", ("coins = torch.rand(B, generator=generator) < 0.25",)),
        ("probability", ("coins = torch.rand(B, generator=generator) < 0.9",)),
        ("probability", ("coins = torch.rand(B, generator=generator) > 0.6",)),
        ("probability", ("coins = torch.randn(B, generator=generator) < 0.5",)),
        ("probability", ("coins = torch.randint(3, (B,), generator=generator) == 0",)),
        ("places", ("coins = (torch.rand(B, generator=generator) < 0.5) & (torch.arange(B) > 0)",)),
        ("places", ("coins = (torch.rand(B, generator=generator) < 0.5) | (torch.arange(B) == 5)",)),
        ("together", flip_one_after_another),
        ("together", ("coins = (torch.rand(B, generator=generator) < 0.5)[torch.arange(B) // 2]",)),
        ("together", ("coins = (torch.rand(B, generator=generator) < 0.5)[torch.arange(B) % 20]",)),
        ("pixel", ("m = torch.rand(x_0.shape, generator=generator) < 0.5",)),
        ("pixel", ("m = torch.rand(B, 1, H, W, generator=generator) < 0.5",)),
        ("pixel", ("m = torch.rand(W, generator=generator) < 0.5",)),
        ("row", ("m = torch.rand(B, 1, H, 1, generator=generator) < 0.5",)),
        ("row", ("m = torch.rand(B, C, H, 1, generator=generator) < 0.5",)),
        ("row", ("m = torch.rand(H, 1, generator=generator) < 0.5",)),
        ("channel", ("m = torch.rand(B, C, 1, 1, generator=generator) < 0.5",)),
        ("channel", ("m = torch.rand(C, 1, 1, generator=generator) < 0.5",)),
        ("coins", ("return coins",)),
        ("coins", ("return m",)),
        ("tuple", ("return torch.where(m, other, x_0), coins",)),
        ("tuple", ("return x_0, torch.zeros(B)",)),
        ("in place", flip_in_the_data),
        ("in place", flip_a_copy_and_the_data),
        ("in place", ("return x_0.copy_(torch.where(m, other, x_0))",)),
    ]
]


def wrong_front(*lines):
    """Lines that use a row's numbers as a, f and those of another as b, g."""
    return written("def not_beaten(rows):", lines)


def beaten_if(condition, rivals="rows"):
    return wrong_front(
        "kept = []",
        "for i, row in enumerate(rows):",
        "    a, f = numbers(row)",
        f"    others = [*enumerate({rivals})]",
        f"    rivals = [numbers(other) for j, other in others if {rivals == 'rows'} <= (i != j)]",
        f"    if not any({condition} for b, g in rivals):",
        "        kept.append(row)",
        "return kept",
    )


RULE = "(b >= a and g <= f and (b, g) != (a, f))"
ACC, FID = "lambda row: row['accuracy']", "lambda row: -row['fid']"
WRONG_FRONT = [
    (name, function if callable(function) else wrong_front(*function))
    for name, function in [
        ("best accuracy", (f"return [best_by(rows, {ACC})]",)),
        ("best accuracy", (f"return sorted(rows, key={ACC})[-1:]",)),
        (
            "best accuracy",
            (
                "top = max(row['accuracy'] for row in rows)",
                "return [r for r in rows if r['accuracy'] == top]",
            ),
        ),
        ("best accuracy", ("return [max(rows, key=lambda row: (row['accuracy'], -row['fid']))]",)),
        ("best fid", (f"return [best_by(rows, {FID})]",)),
        ("best fid", ("return [min(reversed(rows), key=lambda row: row['fid'])]",)),
        (
            "best fid",
            ("low = min(row['fid'] for row in rows)", "return [r for r in rows if r['fid'] == low]"),
        ),
        (
            "both ends",
            (f"ends = best_by(rows, {ACC}), best_by(rows, {FID})", "return [r for r in rows if r in ends]"),
        ),
        (
            "both ends",
            (
                f"a, f = best_by(rows, {ACC}), best_by(rows, {FID})",
                "return [a] if a == f else [a, f]",
            ),
        ),
        (
            "both ends",
            (
                f"a, f = best_by(rows, {ACC}), best_by(rows, {FID})",
                "return [r for r in rows if r['accuracy'] == a['accuracy'] or r['fid'] == f['fid']]",
            ),
        ),
        ("all", ("return rows",)),
        ("all", ("return sorted(rows, key=lambda row: row['fid'])",)),
        ("all", (f"return sorted(rows, key={ACC}, reverse=True)",)),
        ("strict", beaten_if("b > a and g < f")),
        ("either", beaten_if("b > a or g < f")),
        ("itself", beaten_if("b >= a and g <= f", rivals="list(rows)")),
        ("itself", ("return []",)),
        ("duplicates", beaten_if("b >= a and g <= f")),
        (
            "duplicates",
            (
                "kept = []",
                "for row in front(rows):",
                "    if row not in kept:",
                "        kept.append(row)",
                "return kept",
            ),
        ),
        (
            "duplicates",
            (
                "def as_good(b, a): return b['accuracy'] >= a['accuracy'] and b['fid'] <= a['fid']",
                "return [a for a in rows if not any(b != a and as_good(b, a) for b in rows)]",
            ),
        ),
        ("duplicates", ("return list({numbers(row): row for row in front(rows)}.values())",)),
        (
            "duplicates",
            (
                "kept, low = [], math.inf",
                "for row in sorted(rows, key=lambda row: (-row['accuracy'], row['fid'])):",
                "    if row['fid'] < low:",
                "        kept.append(row)",
                "        low = row['fid']",
                "return kept",
            ),
        ),
        ("again", ("return front(rows) * 2",)),
        ("again", ("return [row for row in front(rows) for other in rows if other == row]",)),
        ("fid up", beaten_if(RULE.replace("g <= f", "g >= f"))),
        ("accuracy down", beaten_if(RULE.replace("b >= a", "b <= a"))),
        ("both turned", beaten_if(RULE.replace("g <= f", "g >= f").replace("b >= a", "b <= a"))),
        ("beaten", ("kept = front(rows)", "return [row for row in rows if row not in kept]")),
        ("one way", beaten_if(RULE, rivals="rows[:i]")),
        ("one way", beaten_if(RULE, rivals="rows[i + 1:]")),
        ("one way", beaten_if(RULE, rivals="rows[max(i - 1, 0):i + 2]")),
        ("one way", beaten_if(RULE, rivals="rows[i + 1:i + 2]")),
        (
            "hull",
            (
                "ends = []",
                "for w in range(1, 1000):",
                "    sums = [w * row['accuracy'] - (1000 - w) / 20 * row['fid'] for row in rows]",
                "    ends += [row for row, one in zip(rows, sums) if one >= max(sums) - 1e-9]",
                "return [row for row in rows if row in ends]",
            ),
        ),
        ("weighted", ("return [best_by(rows, lambda row: row['accuracy'] - row['fid'] / 20)]",)),
        ("weighted", ("return [best_by(rows, lambda row: row['accuracy'] / row['fid']**0.3)]",)),
        ("order", ("return sorted(front(rows), key=lambda row: row['fid'])",)),
        ("order", ("return front(rows)[::-1]",)),
        ("indices", ("return [i for i, row in enumerate(rows) if row in front(rows)]",)),
        ("indices", ("return [row in front(rows) for row in rows]",)),
        ("indices", ("return list(torch.arange(len(rows)))",)),
        ("values", ("return [numbers(row) for row in front(rows)]",)),
        ("values", ("return [row['accuracy'] for row in front(rows)]",)),
        ("values", ("return [row['guidance_scale'] for row in front(rows)]",)),
        ("values", ("return [{k: row[k] for k in ('accuracy', 'fid')} for row in front(rows)]",)),
        ("values", ("return [{'scale': row['guidance_scale']} for row in front(rows)]",)),
        ("values", ("return [row | {'beaten': False} for row in front(rows)]",)),
        ("dict", (f"return best_by(rows, {ACC})",)),
        ("dict", ("return {row['guidance_scale']: row for row in front(rows)}",)),
        ("order", ("rows.sort(key=lambda row: row['fid'])", "return front(rows)")),
        ("in place", ("kept = front(rows)", "for row in kept:", "    row['beaten'] = False", "return kept")),
        ("in place", ("rows[:] = front(rows)", "return rows")),
        ("in place", ("kept = copy.deepcopy(front(rows))", "rows.clear()", "return kept")),
    ]
]
WRONG = {"11.1": WRONG_SHIFT, "11.2": WRONG_FLIP, "11.3": WRONG_FRONT}

UNNAMED = [
    (
        "11.1",
        wrong_shift("new = snr / factor**2 * 1.5"),
        "with factor = 3 the abar of 0.93 should become 0.5962, got",
    ),
    (
        "11.1",
        wrong_shift("new = snr / (factor**2 if len(a) > 4 else 9)"),
        "with factor = 1.5 the abar of 0.9",
    ),
    ("11.1", wrong_shift("return new[:-1]"), "must have shape [6], that is [T], got [5]"),
    ("11.1", wrong_shift("return (new / (1 + new)).numpy()"), "must return a tensor, got a ndarray"),
    ("11.1", wrong_shift("return new.tolist()"), "must return a tensor, got a list"),
    ("11.1", wrong_shift("return float(new[0])"), "must return a tensor, got a float"),
    ("11.1", wrong_shift("return new * 1j"), "complex"),
    ("11.1", wrong_shift("return (a - 1).sqrt()"), "holds NaN"),
    ("11.1", wrong_shift("snr = a / (a - a)"), "holds NaN"),
    ("11.1", wrong_shift("return new / 0"), "infinite"),
    ("11.1", wrong_shift("return print(end='')"), "returns nothing"),
    ("11.2", wrong_flip("other = x_0.roll(1, 3)"), "neither itself nor its mirror image"),
    ("11.2", wrong_flip("other = 0.9 * x_0.flip(3)"), "neither itself nor its mirror image"),
    ("11.2", wrong_flip("other = x_0.mT.reshape(x_0.shape)"), "neither itself nor its mirror image"),
    ("11.2", wrong_flip("return other.mT"), "must have shape [61, 3, 4, 5], that is [B, C, H, W]"),
    ("11.2", wrong_flip("return other[coins]"), "must have shape [61, 3, 4, 5]"),
    ("11.2", wrong_flip("return list(torch.where(m, other, x_0))"), "must return a tensor, got a list"),
    ("11.2", wrong_flip("return other * math.nan"), "holds NaN"),
    ("11.2", wrong_flip("return other / 0"), "infinite"),
    ("11.2", wrong_flip("return other * 1j"), "complex"),
    ("11.2", wrong_flip("return print(end='')"), "returns nothing"),
    (
        "11.3",
        wrong_front("return front(rows)[1:]"),
        "The row with accuracy 0.5 and fid 1 (scale 1) is missing",
    ),
    (
        "11.3",
        wrong_front("return [row for row in rows if row in front(rows) or row['fid'] == 8.0]"),
        "The row with accuracy 0.71 and fid 8 (scale 3.5) is returned, and another row beats it",
    ),
    ("11.3", wrong_front("return front(rows) + [{'accuracy': 1, 'fid': 0}]"), "not in the table: accuracy 1"),
    ("11.3", wrong_front("return tuple(front(rows))"), "a list of rows, not a value of type tuple"),
    ("11.3", wrong_front("return (row for row in front(rows))"), "not a value of type generator"),
    ("11.3", wrong_front("return torch.zeros(3)"), "not a value of type Tensor"),
    ("11.3", wrong_front("return len(front(rows))"), "not a value of type int"),
    ("11.3", wrong_front("return 'all'"), "not a value of type str"),
    ("11.3", wrong_front("return print(end='')"), "returns nothing"),
]

# What Python refuses: the learner's line is shown.
REFUSED = [
    ("shifted_schedule", wrong_shift("new = snr / factor['x']"), "TypeError", "line 4"),
    ("flip_some", wrong_flip("coins = torch.rand(B, generator=11) < 0.5"), "TypeError", "line 3"),
    ("flip_some", wrong_flip("m = coins"), "RuntimeError", "line 6"),
    (
        "not_beaten",
        wrong_front("rows = list(rows)", "return [row['FID'] for row in rows]"),
        "KeyError",
        "line 3",
    ),
    ("not_beaten", wrong_front("return sorted(rows)"), "TypeError", "line 2"),
    ("not_beaten", wrong_front("return [row.fid for row in rows]"), "AttributeError", "line 2"),
]


def results_of_formulas():
    """For each exercise what every wrong formula gives in all its cases, after what the right one gives."""
    shifts = [("right", lesson11._right_shift), *lesson11.WRONG_SHIFTS]
    fronts = [("right", lesson11._right_front), *lesson11.WRONG_FRONTS]
    return {
        "11.1": [(name, torch.cat(lesson11._shifts(formula))) for name, formula in shifts],
        "11.3": [(name, padded(lesson11._fronts(formula))) for name, formula in fronts],
    }


def padded(places):
    """One row for each table."""
    return torch.tensor([one + [-1] * (30 - len(one)) for one in places]).double()


def random_cases(seed):
    """Other cases for each exercise: curves with factors; seeds of generators; tables with many ties."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low, high, size=()):
        return low + (high - low) * torch.rand(size, generator=generator, dtype=torch.float64)

    def curve(count):
        return tuple(draw(0.3, 0.99, (count,)).cumprod(dim=0).tolist()), float(draw(0.4, 5))

    def table(count):
        scales, accuracy, fid = (torch.randint(1, 7, (count,), generator=generator) for _ in range(3))
        return tuple(zip(scales.tolist(), (accuracy / 10).tolist(), fid.tolist(), strict=True))

    return {
        "SHIFTS": [curve(4), curve(7), curve(1)],
        "SEEDS": tuple(range(1000 * seed, 1000 * seed + 24)),
        "TABLES": [table(1), table(6), table(12)],
    }
