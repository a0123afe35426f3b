"""Answers to lesson 08's exercises: right ones, each written another way, and the wrong ones with a name."""

import math

import torch
import torch.nn.functional as F

from classroom.checks import lesson08
from lessons_lib.samplers import ddim_invert
from lessons_lib.schedules import NoiseSchedule

# ---- right answers ----


def grid_by_repeat_interleave(x_T, num_classes):
    return x_T.repeat_interleave(num_classes, dim=0), torch.arange(num_classes).repeat(len(x_T))


def grid_by_expand(x_T, num_classes):
    x = x_T[:, None].expand(-1, num_classes, -1, -1, -1).flatten(0, 1)
    return [x, torch.arange(num_classes).expand(len(x_T), -1).reshape(-1)]


def grid_by_index(x_T, num_classes):
    i = torch.arange(len(x_T) * num_classes)
    return x_T[i // num_classes], i % num_classes


def grid_in_a_loop(x_T, num_classes):
    pairs = [(noise, k) for noise in x_T for k in range(num_classes)]
    return torch.stack([noise for noise, _ in pairs]), torch.tensor([k for _, k in pairs])


def grid_by_meshgrid(x_T, num_classes):
    rows, columns = torch.meshgrid(torch.arange(len(x_T)), torch.arange(num_classes), indexing="ij")
    return x_T.double()[rows.flatten()], columns.flatten()


def grid_by_turning_the_given_one(x_T, num_classes):
    x = x_T.repeat(num_classes, 1, 1, 1).unflatten(0, (num_classes, -1)).transpose(0, 1).flatten(0, 1)
    return x, torch.arange(num_classes).repeat(len(x_T))


def inverse_as_in_the_lesson(eps_fn, x, t_to, abar, abar_to):
    eps = eps_fn(x, torch.full((len(x),), t_to))
    x_0 = (x - math.sqrt(1 - abar) * eps) / math.sqrt(abar)
    return math.sqrt(abar_to) * x_0 + math.sqrt(1 - abar_to) * eps


def inverse_in_xbar(eps_fn, x, t_to, abar, abar_to):
    """Euler's step in x / sqrt(abar)."""
    eps = eps_fn(x, torch.full(x.shape[:1], t_to, dtype=torch.int64))
    way = (1 / abar_to - 1) ** 0.5 - (1 / abar - 1) ** 0.5
    return abar_to**0.5 * (x / abar**0.5 + way * eps)


def inverse_with_tensors(eps_fn, x, t_to, abar, abar_to):
    a, p = (torch.tensor(level, dtype=torch.float64) for level in (abar, abar_to))
    eps = eps_fn(x, torch.tensor([t_to] * len(x))).double()
    return (p / a).sqrt() * x + ((1 - p).sqrt() - (p / a).sqrt() * (1 - a).sqrt()) * eps


def inverse_in_place(eps_fn, x, t_to, abar, abar_to):
    """On its own copy."""
    eps = eps_fn(x, x.new_full((len(x),), t_to, dtype=torch.long))
    state = x.clone().sub_(eps, alpha=math.sqrt(1 - abar)).div_(math.sqrt(abar))
    return state.mul_(math.sqrt(abar_to)).add_(eps, alpha=math.sqrt(1 - abar_to))


def inverse_with_the_library(eps_fn, x, t_to, abar, abar_to):
    """The library walks from the image: one level of its schedule is x's, and eps there is not asked."""
    if abar == 1:
        schedule, low = NoiseSchedule(torch.tensor([1 - abar_to], dtype=torch.float64), "one"), []
    else:
        betas = torch.tensor([1 - abar, 1 - abar_to / abar], dtype=torch.float64)
        schedule, low = NoiseSchedule(betas, "two"), [0]
    eps = eps_fn(x, torch.full((len(x),), t_to))
    x_0 = (x - math.sqrt(1 - abar) * eps) / math.sqrt(abar)
    *_, last = ddim_invert(lambda x, t: eps, schedule, x_0, [*([1] if low else [0]), *low])
    return last.x_t


RIGHT = [
    ("08.1", grid_by_repeat_interleave),
    ("08.1", grid_by_expand),
    ("08.1", grid_by_index),
    ("08.1", grid_in_a_loop),
    ("08.1", grid_by_meshgrid),
    ("08.1", grid_by_turning_the_given_one),
    ("08.2", inverse_as_in_the_lesson),
    ("08.2", inverse_in_xbar),
    ("08.2", inverse_with_tensors),
    ("08.2", inverse_in_place),
    ("08.2", inverse_with_the_library),
]

# ---- classic wrong answers: the right one with one thing replaced ----


def wrong_grid(x="x_T.repeat_interleave(K, dim=0)", y="torch.arange(K).repeat(N)", back="x, y"):
    """Formulas of x_T, N and K: the images, the labels, and what is returned."""

    def grid_inputs(x_T, num_classes):
        names = {"x_T": x_T, "N": len(x_T), "K": num_classes, "torch": torch, "F": F}
        names["x"] = eval(x, names)
        return eval(back, names | {"y": eval(y, names)})

    return grid_inputs


def grid_that_spoils_x_T(x_T, num_classes):
    x, y = grid_by_repeat_interleave(x_T, num_classes)
    x_T.zero_()
    return x, y


TILED, SORTED = "torch.cat([x_T] * K)", "torch.arange(K).repeat_interleave(N)"
WRONG_GRID = [
    ("repeat", wrong_grid(TILED)),
    ("repeat", wrong_grid("x_T.repeat(K, 1, 1, 1)", "torch.arange(N * K) % K")),
    ("repeat", wrong_grid("torch.stack([x_T] * K).flatten(0, 1)")),
    ("repeat", wrong_grid("x_T.tile(K, 1, 1, 1)")),
    ("repeat", wrong_grid(TILED, "(torch.arange(N * K) % K).float()")),
    ("labels", wrong_grid(y=SORTED)),
    ("labels", wrong_grid(y="torch.arange(N * K) // N")),
    ("transposed", wrong_grid(TILED, SORTED)),
    ("transposed", wrong_grid("x_T.repeat(K, 1, 1, 1)", SORTED)),
    ("fresh", wrong_grid("torch.randn(N * K, *x_T.shape[1:])")),
    ("fresh", wrong_grid("torch.randn_like(x_T).repeat_interleave(K, dim=0)")),
    ("fresh", wrong_grid("2 * x_T.repeat_interleave(K, dim=0)")),
    ("fresh", wrong_grid("x_T.repeat_interleave(K, dim=0) + 0.1")),
    ("one noise", wrong_grid("x_T[:1].repeat(N * K, 1, 1, 1)")),
    ("one noise", wrong_grid("x_T[:1].expand(N * K, -1, -1, -1)", SORTED)),
    ("one noise", wrong_grid("x_T[-1:].repeat_interleave(N * K, dim=0)")),
    ("noise as label", wrong_grid(y="torch.arange(N).repeat_interleave(K)")),
    ("noise as label", wrong_grid(y="torch.arange(N).repeat(K)")),
    ("noise as label", wrong_grid(TILED, "torch.arange(N).repeat(K)")),
    ("noise as label", wrong_grid(TILED, "torch.arange(N).repeat_interleave(K)")),
    ("plus one", wrong_grid(y="torch.arange(1, K + 1).repeat(N)")),
    ("plus one", wrong_grid(TILED, "torch.arange(1, K + 1).repeat(N)")),
    ("plus one", wrong_grid(TILED, f"1 + {SORTED}")),
    ("one class", wrong_grid(y="torch.zeros(N * K, dtype=torch.int64)")),
    ("one class", wrong_grid(TILED, "torch.full((N * K,), 2)")),
    ("random", wrong_grid(y="torch.randint(K, (N * K,))")),
    ("random", wrong_grid(y="torch.randint(100 * K, (N * K,))")),
    ("dtype", wrong_grid(y="torch.arange(K).repeat(N).float()")),
    ("dtype", wrong_grid(y="torch.arange(K).repeat(N).int()")),
    ("dtype", wrong_grid(y="torch.arange(0.0, K).repeat(N)")),
    ("only one", wrong_grid(back="x")),
    ("only one", wrong_grid(back="y")),
    ("order", wrong_grid(back="(y, x)")),
    ("order", wrong_grid(TILED, back="[y, x]")),
    ("not flat", wrong_grid(back="(x.unflatten(0, (N, K)), y)")),
    ("not flat", wrong_grid(back="(x.unflatten(0, (N, K)), y.view(N, K))")),
    ("not flat", wrong_grid(back="(x, y.view(N, K))")),
    ("not flat", wrong_grid("torch.stack([x_T] * K)")),
    ("not flat", wrong_grid("x_T[:, None].expand(-1, K, -1, -1, -1)")),
    ("once", wrong_grid("x_T")),
    ("once", wrong_grid("x_T", "torch.arange(K)")),
    ("once", wrong_grid("torch.randn_like(x_T)")),
    ("few labels", wrong_grid(y="torch.arange(K)")),
    ("few labels", wrong_grid(y="torch.arange(N)")),
    ("few labels", wrong_grid(TILED, "torch.arange(K)")),
    ("no dim", wrong_grid("x_T.repeat_interleave(K)")),
    ("no dim", wrong_grid("torch.repeat_interleave(x_T, K)")),
    ("axis", wrong_grid("x_T.repeat_interleave(K, dim=1)")),
    ("axis", wrong_grid("x_T.repeat(1, K, 1, 1)")),
    ("axis", wrong_grid("x_T.tile(K)")),
    ("axis", wrong_grid("x_T.repeat(1, 1, K, 1)")),
    ("one-hot", wrong_grid(y="F.one_hot(torch.arange(K), K).repeat(N, 1)")),
    ("one-hot", wrong_grid(y="torch.eye(K).repeat(N, 1)")),
    ("in place", grid_that_spoils_x_T),
    ("in place", wrong_grid(back="(x, y + 0 * x_T.mul_(2).long().sum())")),
]

ALL_OF_IT = (
    "t = torch.full((len(x),), t_to)",
    "eps = eps_fn(x, t)",
    "x_0 = (x - r(1 - a) * eps) / r(a)",
    "more = eps",
    "return r(b) * x_0 + r(1 - b) * more",
)


def wrong_inverse(*lines):
    """The right function with each given line in the place of the one that sets the same name."""
    names = [line.split()[0] for line in ALL_OF_IT]
    body = list(ALL_OF_IT)
    for line in lines:
        body[names.index(line.split()[0])] = line
    space = {"torch": torch, "r": math.sqrt, "math": math}
    head = "def inverse_step(eps_fn, x, t_to, abar, abar_to):\n    a, b = abar, abar_to\n    "
    exec(head + "\n    ".join(body), space)
    return space["inverse_step"]


def inverse_exchanged(eps_fn, x, t_to, abar, abar_to):
    return inverse_as_in_the_lesson(eps_fn, x, t_to, abar_to, abar)


def inverse_that_spoils_x(eps_fn, x, t_to, abar, abar_to):
    eps = eps_fn(x, torch.full((len(x),), t_to))
    x -= math.sqrt(1 - abar) * eps
    return math.sqrt(abar_to / abar) * x + math.sqrt(1 - abar_to) * eps


def inverse_never_below_1(eps_fn, x, t_to, abar, abar_to):
    return x if abar == 1 else inverse_as_in_the_lesson(eps_fn, x, t_to, abar, abar_to)


CLIPPED = "x_0 = ((x - r(1 - a) * eps) / r(a)).clamp(-1, 1)"
SQUEEZED = "x_0 = ((x - r(1 - a) * eps) / r(a)).tanh()"
DERIVED = "more = (x - r(a) * x_0) / r(1 - a)"
FORWARD = "return r(b / a) * x + r(1 - b / a) * more"
NOISE = "more = torch.randn_like(x)"
NO_NETWORK = ("eps = torch.randn_like(x)",)
WRONG_INVERSE = [
    (name, function if callable(function) else wrong_inverse(*function))
    for name, function in [
        ("clipped", (CLIPPED,)),
        ("clipped", ("x_0 = torch.clip((x - r(1 - a) * eps) / r(a), -1, 1)",)),
        ("rederived", (CLIPPED, DERIVED)),
        ("rederived", (CLIPPED, "more = (x - r(a) * x_0) / r(1 - a) if a < 1 else eps")),
        ("soft", (SQUEEZED,)),
        ("soft", (SQUEEZED, DERIVED)),
        ("result clipped", ("return (r(b) * x_0 + r(1 - b) * eps).clamp(-1, 1)",)),
        ("result clipped", (CLIPPED, "return (r(b) * x_0 + r(1 - b) * eps).clamp(-1, 1)")),
        ("t", ("eps = eps_fn(x, t_to)",)),
        ("t", ("t = float(t_to)",)),
        ("t", ("t = torch.tensor(t_to)",)),
        ("t", ("t = torch.tensor([t_to])",)),
        ("t", ("t = torch.full((len(x),), float(t_to))",)),
        ("t", ("t = torch.full((len(x),), t_to / 1000)",)),
        ("t", ("t = torch.full((len(x), 1), t_to)",)),
        ("t", ("t = torch.full((len(x),), t_to, dtype=torch.int32)",)),
        ("timestep", ("t = torch.full((len(x),), t_to - 1)",)),
        ("timestep", ("t = torch.full((len(x),), t_to + 1)",)),
        ("timestep", ("t = torch.zeros(len(x), dtype=torch.int64)",)),
        ("timestep", ("t = torch.arange(len(x))",)),
        ("timestep", ("t = torch.full((len(x),), int(1000 * (1 - a)))",)),
        ("noise", (NOISE,)),
        ("noise", NO_NETWORK),
        ("noise", ("eps = torch.randn_like(x)", "return r(b) * x + r(1 - b) * eps")),
        ("noise", ("eps = torch.randn_like(x)", FORWARD)),
        ("exchanged", inverse_exchanged),
        ("mixed", ("return r(a) * x_0 + r(1 - b) * eps",)),
        ("mixed", ("return r(b) * x_0 + r(1 - a) * eps",)),
        ("mixed", ("x_0 = (x - r(1 - b) * eps) / r(a)",)),
        ("mixed", ("x_0 = (x - r(1 - a) * eps) / r(b)",)),
        ("unchanged", ("return r(a) * x_0 + r(1 - a) * eps",)),
        ("unchanged", ("x_0 = (x - r(1 - b) * eps) / r(b)",)),
        ("unchanged", ("return x",)),
        ("factors", ("return r(1 - b) * x_0 + r(b) * eps",)),
        ("factors", ("x_0 = (x - r(a) * eps) / r(1 - a)",)),
        ("factors", ("x_0 = (x - r(a) * eps) / r(1 - a)", "return r(1 - b) * x_0 + r(b) * eps")),
        ("root", ("x_0 = (x - (1 - a) * eps) / r(a)",)),
        ("root", ("x_0 = (x - r(1 - a) * eps) / a",)),
        ("root", ("x_0 = (x - (1 - a) * eps) / a",)),
        ("root", ("return b * x_0 + r(1 - b) * eps",)),
        ("root", ("return r(b) * x_0 + (1 - b) * eps",)),
        ("root", ("return b * x_0 + (1 - b) * eps",)),
        ("root", ("x_0 = (x - (1 - a) * eps) / a", "return b * x_0 + (1 - b) * eps")),
        ("sign", ("x_0 = (x + r(1 - a) * eps) / r(a)",)),
        ("sign", ("x_0 = (x + r(1 - a) * eps) / r(a)", "return r(b) * x_0 - r(1 - b) * eps")),
        ("sign back", ("return r(b) * x_0 - r(1 - b) * eps",)),
        ("no division", ("x_0 = x - r(1 - a) * eps",)),
        ("multiplied", ("x_0 = (x - r(1 - a) * eps) * r(a)",)),
        ("estimate", ("return x_0",)),
        ("no noise", ("return r(b) * x_0",)),
        ("not shrunk", ("return x_0 + r(1 - b) * eps",)),
        ("as image", ("x_0 = x",)),
        ("as image", ("return r(b) * x + r(1 - b) * eps",)),
        ("jump", (FORWARD,)),
        ("only eps", ("return eps",)),
        ("asked", ("eps = eps_fn(x / r(a), t)",)),
        ("asked", ("eps = eps_fn(x.clamp(-1, 1), t)",)),
        ("asked", ("eps = eps_fn(r(b) * x, t)",)),
        ("asked", ("eps = eps_fn(torch.zeros_like(x), t)",)),
        (
            "fixed point",
            ("more = eps = eps_fn(r(b) * x_0 + r(1 - b) * eps, t); x_0 = (x - r(1 - a) * eps) / r(a)",),
        ),
        ("calls", ("more = eps_fn(x, t)",)),
        ("calls", ("eps = [eps_fn(x, t) for _ in range(3)][-1]",)),
        ("at 1", inverse_never_below_1),
        ("at 1", (DERIVED,)),
        ("at 1", ("x_0 = (x / r(1 - a) - eps) * (r(1 - a) / r(a))",)),
        ("at 1", ("t = torch.full((len(x),), t_to * int(a < 1))",)),
        ("in place", inverse_that_spoils_x),
        ("in place", ("return x.copy_(r(b) * x_0 + r(1 - b) * eps)",)),
        ("in place", ("x_0 = x.sub_(r(1 - a) * eps).div_(r(a))",)),
        ("in place", ("eps = eps_fn(x.div_(2), t)",)),
    ]
]
WRONG = {"08.1": WRONG_GRID, "08.2": WRONG_INVERSE}

UNNAMED = [
    (
        "08.1",
        wrong_grid(y="torch.arange(K).flip(0).repeat(N)"),
        "with N = 3 and K = 4, image 0 of the batch is noise 0 asked for class 3; it should be noise 0 asked "
        "for class 0",
    ),
    ("08.1", wrong_grid("x_T.flip(0).repeat_interleave(K, dim=0)"), "image 0 of the batch is noise 2 asked"),
    ("08.1", wrong_grid(y="torch.arange(K).repeat(N).clamp(max=2)"), "image 3 of the batch is noise 0"),
    ("08.1", wrong_grid("x_T.repeat_interleave(K, dim=0)[1:]"), "[12, 2, 6, 7], that is [N*K, C, H, W]"),
    ("08.1", wrong_grid(y="torch.arange(K + 1).repeat(N)"), "[12], that is [N*K], got [15]"),
    ("08.1", wrong_grid(y="list(range(K)) * N"), "must return a tensor, got a list"),
    ("08.1", wrong_grid(back="(x, y, K)"), "two tensors, x and y, got 3 things"),
    ("08.1", wrong_grid(back="{'x': x}"), "two tensors, x and y, got a dict"),
    ("08.1", wrong_grid("x_T.repeat_interleave(K, dim=0) / 0"), "infinite"),
    ("08.1", wrong_grid(back="print(end='')"), "returns nothing"),
    (
        "08.2",
        wrong_inverse("return 1.1 * (r(b) * x_0 + r(1 - b) * eps)"),
        "with t_to = 200, abar = 0.9, abar_to = 0.7 one pixel should be",
    ),
    (
        "08.2",
        wrong_inverse("more = eps if a > 0.5 else 2 * eps"),
        "with t_to = 850, abar = 0.3, abar_to = 0.1",
    ),
    ("08.2", wrong_inverse("return x_0[0]"), "must have shape [2, 3, 4, 5], that is [B, C, H, W]"),
    ("08.2", wrong_inverse("return x_0 / 0"), "infinite"),
    ("08.2", wrong_inverse("more = (a - 1) ** 0.5 * eps"), "complex"),
    ("08.2", wrong_inverse("more = math.nan * eps"), "holds NaN"),
    ("08.2", wrong_inverse("return abar"), "must return a tensor, got a float"),
    ("08.2", wrong_inverse("return print(end='')"), "returns nothing"),
    ("08.2", lambda eps_fn, x, t_to, abar, abar_to: 2 * x, "The network is never asked"),
]

# What the network refuses, as a real one would: the learner's line is shown.
REFUSED = [
    ("eps = eps_fn(x[0], t)", "x of shape [2, 3, 4, 5], got one of shape [3, 4, 5]"),
    ("eps = eps_fn(t, x)", "got one of shape [2]"),
    ("eps = eps_fn(abar, t)", "got one of type float"),
]


def results_of_formulas():
    """For each exercise what every wrong formula gives in all its cases, after what the right one gives."""
    grids = [("right", lesson08._rows, lesson08._columns), *lesson08.WRONG_GRIDS]
    moves = [("right", lesson08._right_move), *lesson08.WRONG_MOVES]

    def numbers(orders):
        return [
            number for size in lesson08.SIZES for part in lesson08._grid(size, *orders) for number in part
        ]

    return {
        "08.1": [(name, torch.tensor(numbers(orders), dtype=torch.float64)) for name, *orders in grids],
        "08.2": [(name, torch.stack(lesson08._results(formula))) for name, formula in moves],
    }


def random_cases(seed):
    """Other cases for each exercise: sizes of a grid; a timestep and two levels."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randint(2, 7, (4, 2), generator=generator).tolist()
    levels = 0.02 + 0.96 * torch.rand(3, 2, generator=generator, dtype=torch.float64)
    pairs = levels.sort(dim=1, descending=True).values.tolist()
    times = torch.randint(1000, (4,), generator=generator).tolist()
    return {
        "SIZES": [tuple(size) for size in sizes],
        "CASES": [(t, *pair) for t, pair in zip(times[1:], pairs, strict=True)],
        "FROM_IMAGE": (times[0], 1.0, pairs[0][1]),
    }
