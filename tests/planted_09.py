"""Answers to lesson 09's exercises: right ones, each written another way, and the wrong ones with a name."""

import math

import torch

from classroom.checks import lesson09
from lessons_lib.counterfactuals import in_8_bits
from lessons_lib.samplers import ddim_invert
from lessons_lib.schedules import predict_x0, q_sample

# ---- right answers ----


def error_as_in_the_lesson(intervene, x_0, source, target):
    there = in_8_bits(intervene(x_0, source, target))
    back = intervene(there, target, source)
    return (back - x_0).abs().mean(dim=(1, 2, 3)) / 2


def error_of_8_bits(intervene, x_0, source, target):
    """Every picture in 8 bits, as the metrics have it."""
    x = in_8_bits(x_0)
    for labels in ((source, target), (target, source)):
        x = in_8_bits(intervene(x, *labels))
    return (x - in_8_bits(x_0)).abs().flatten(1).double().mean(dim=1) / 2


def error_in_a_loop(intervene, x_0, source, target):
    errors = []
    for i in range(len(x_0)):
        s, t = source[i : i + 1], target[i : i + 1]
        there = intervene(x_0[i : i + 1].clone(), s, t)
        levels = ((there + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        back = intervene(levels.float() / 127.5 - 1, t, s)
        errors.append(((back + 1) / 2 - (x_0[i] + 1) / 2).abs().mean())
    return torch.stack(errors)


def error_by_l1_loss(intervene, x_0, source, target):
    there = in_8_bits(intervene(x_0, source, target))
    back = intervene(there, target, source)
    each = torch.nn.functional.l1_loss(back / 2, x_0 / 2, reduction="none")
    return each.sum(dim=(1, 2, 3)) / x_0[0].numel()


def inverted_as_in_the_lesson(eps_fn, schedule, x_0, timesteps):
    abar = schedule.alphas_cumprod
    x, abar_now = x_0, 1.0
    for t in timesteps.flip(0).tolist():
        eps = eps_fn(x, torch.full((len(x),), t))
        estimate = (x - math.sqrt(1 - abar_now) * eps) / math.sqrt(abar_now)
        abar_now = float(abar[t])
        x = math.sqrt(abar_now) * estimate + math.sqrt(1 - abar_now) * eps
    return x


def inverted_with_the_library(eps_fn, schedule, x_0, timesteps):
    *_, last = ddim_invert(eps_fn, schedule, x_0, timesteps)
    return last.x_t


def inverted_with_q_sample(eps_fn, schedule, x_0, timesteps):
    x, before = x_0.double(), None
    for t in reversed(timesteps):
        batch_t = t.repeat(len(x))
        eps = eps_fn(x.to(x_0), batch_t).double()
        estimate = x if before is None else predict_x0(schedule, x, before, eps)
        x, before = q_sample(schedule, estimate, batch_t, eps), batch_t
    return x


def inverted_in_xbar(eps_fn, schedule, x_0, timesteps):
    """Euler's steps in x / sqrt(abar)."""
    xbar, shrink, sigma = x_0.clone(), 1.0, 0.0
    for t in timesteps.tolist()[::-1]:
        eps = eps_fn(shrink * xbar, torch.full((x_0.shape[0],), t, dtype=torch.int64))
        abar = schedule.alphas_cumprod[t].item()
        xbar += ((1 / abar - 1) ** 0.5 - sigma) * eps
        shrink, sigma = abar**0.5, (1 / abar - 1) ** 0.5
    return shrink * xbar


RIGHT = [
    ("09.1", error_as_in_the_lesson),
    ("09.1", error_of_8_bits),
    ("09.1", error_in_a_loop),
    ("09.1", error_by_l1_loss),
    ("09.2", inverted_as_in_the_lesson),
    ("09.2", inverted_with_the_library),
    ("09.2", inverted_with_q_sample),
    ("09.2", inverted_in_xbar),
]

# ---- classic wrong answers: the right one with one thing replaced ----


def name_in(line):
    return "return" if line.startswith("return") else line.split(" = ")[0]


def written(head, right, lines):
    """The right lines with each given line in the place of the one that sets the same name."""
    names, body = list(map(name_in, right)), list(right)
    for line in lines:
        body[names.index(name_in(line))] = line
    space = {"torch": torch, "math": math, "r": math.sqrt, "in_8_bits": in_8_bits, "q_sample": q_sample}
    exec(head + "\n    " + "\n    ".join(body), space)
    return next(space[name] for name in ("there_and_back", "invert") if name in space)


THERE_AND_BACK = (
    "there = intervene(x_0, source, target)",
    "sent = in_8_bits(there)",
    "back = intervene(sent, target, source)",
    "d = back - x_0",
    "return d.abs().mean(dim=(1, 2, 3)) / 2",
)


def wrong_error(*lines):
    return written("def there_and_back(intervene, x_0, source, target):", THERE_AND_BACK, lines)


NOT_THERE = ("sent = there", "back = None", "d = there - x_0")
WRONG_ERROR = [
    (name, wrong_error(*lines))
    for name, lines in [
        ("not rounded", ("sent = there",)),
        ("not rounded", ("sent = there.clamp(-1, 1)",)),
        ("not rounded", ("sent = there", "d = in_8_bits(back) - x_0")),
        ("not rounded", ("sent = there", "d = in_8_bits(back) - in_8_bits(x_0)")),
        ("other levels", ("sent = (there * 127.5).round() / 127.5",)),
        ("other levels", ("sent = (there * 255).round() / 255",)),
        ("other levels", ("sent = (there * 128).round() / 128",)),
        ("other levels", ("sent = there.round()",)),
        ("truncated", ("sent = ((there + 1) * 127.5).to(torch.uint8) / 127.5 - 1",)),
        ("truncated", ("sent = ((there + 1) / 2 * 255).floor() / 255 * 2 - 1",)),
        ("unit", ("sent = ((there + 1) / 2 * 255).round() / 255",)),
        ("unit", ("sent = in_8_bits((there + 1) / 2)",)),
        ("labels", ("back = intervene(sent, source, target)",)),
        ("same", ("back = intervene(sent, target, target)",)),
        ("same", ("back = intervene(sent, source, source)",)),
        ("same", ("there = intervene(x_0, source, source)",)),
        ("same", ("there = intervene(x_0, target, target)",)),
        ("wrong way", ("there = intervene(x_0, target, source)", "back = intervene(sent, source, target)")),
        ("wrong way", ("there = intervene(x_0, target, source)",)),
        ("from x_0", ("back = intervene(x_0, target, source)",)),
        ("from x_0", ("back = intervene(in_8_bits(x_0), target, source)",)),
        ("there", ("d = there - x_0",)),
        ("there", ("d = sent - x_0",)),
        ("there", NOT_THERE),
        ("other end", ("d = back - there",)),
        ("other end", ("d = sent - back",)),
        ("units", ("return d.abs().mean(dim=(1, 2, 3))",)),
        ("units", ("return d.abs().flatten(1).mean(1)",)),
        ("grey", ("return d.abs().mean(dim=(1, 2, 3)) * 127.5",)),
        ("grey", ("return 255 * d.abs().mean(dim=(1, 2, 3))",)),
        ("signed", ("return d.mean(dim=(1, 2, 3)) / 2",)),
        ("signed", ("return -d.mean(dim=(1, 2, 3))",)),
        ("signed", ("return d.mean(dim=(1, 2, 3)).abs() / 2",)),
        ("signed", ("d = (back - x_0).mean(dim=(1, 2, 3))", "return d.abs() / 2")),
        ("squared", ("return (d**2).mean(dim=(1, 2, 3))",)),
        ("squared", ("return ((d / 2)**2).mean(dim=(1, 2, 3))",)),
        ("squared", ("return (d**2).mean(dim=(1, 2, 3)) / 2",)),
        ("squared", ("return (d**2).mean(dim=(1, 2, 3)).sqrt() / 2",)),
        ("squared", ("return d.flatten(1).norm(dim=1)",)),
        ("sum", ("return d.abs().sum(dim=(1, 2, 3)) / 2",)),
        ("sum", ("return d.abs().flatten(1).sum(1)",)),
        ("largest", ("return d.abs().amax(dim=(1, 2, 3)) / 2",)),
        ("largest", ("return d.abs().flatten(1).max(dim=1).values",)),
        ("one number", ("return d.abs().mean() / 2",)),
        ("one number", ("return float(d.abs().mean() / 2)",)),
        ("one number", ("return d.mean().view(1)",)),
        ("one number", ("return d.abs().mean().expand(len(d)) / 2",)),
        ("over batch", ("return d.abs().mean(dim=0) / 2",)),
        ("not reduced", ("return d.abs() / 2",)),
        ("not reduced", ("return d.abs().mean(dim=(2, 3)) / 2",)),
        ("not reduced", ("return d.abs().mean(dim=-1) / 2",)),
        ("calls", ("d = back - x_0 + 0 * intervene(x_0, source, target)",)),
        ("calls", ("back = [intervene(sent, target, source) for _ in range(2)][0]",)),
        ("in place", ("d = x_0.sub_(back)",)),
        ("in place", ("d = back - x_0.mul_(0.9)",)),
        ("in place", ("return d.abs().mean(dim=(1, 2, 3)) / 2 + 0 * source.zero_()",)),
        ("in place", ("d = (back - x_0) + 0 * target.copy_(source).sum()",)),
    ]
]

INVERT = (
    "abar = schedule.alphas_cumprod",
    "now = 1.0",
    "x = x_0",
    "steps = timesteps.flip(0).tolist()",
    "for t in steps:",
    "    told = t",
    "    eps = eps_fn(x, torch.full((len(x),), told))",
    "    level = now",
    "    est = (x - r(1 - level) * eps) / r(level)",
    "    more = eps",
    "    now = float(abar[t])",
    "    x = r(now) * est + r(1 - now) * more",
    "return x",
)


def wrong_invert(*lines):
    """As above; a line of the loop is given with its four spaces."""
    return written("def invert(eps_fn, schedule, x_0, timesteps):", INVERT, lines)


CLIP = "    est = ((x - r(1 - level) * eps) / r(level)).clamp(-1, 1)"
DERIVE = "    more = (x - r(level) * est) / r(1 - level) if level < 1 else eps"


def walls(number):
    return f"    est = ((x - r(1 - level) * eps) / r(level)).clamp(-{number}, {number})"


def changed_estimate(formula):
    return "    est = (lambda e: " + formula + ")((x - r(1 - level) * eps) / r(level))"


def asked_again(fix):
    """A fixed point: each step is taken a second time with what the network says at its result."""

    def invert(eps_fn, schedule, x_0, timesteps):
        x, now = x_0, 1.0
        for t in timesteps.flip(0).tolist():
            to, guess = float(schedule.alphas_cumprod[t]), x
            for _ in range(2):
                eps = eps_fn(guess, torch.full((len(x),), t))
                estimate = fix((x - math.sqrt(1 - now) * eps) / math.sqrt(now))
                guess = math.sqrt(to) * estimate + math.sqrt(1 - to) * eps
            x, now = guess, to
        return x

    return invert


def noised(eps_fn, schedule, x_0, timesteps):
    return q_sample(schedule, x_0, timesteps[:1].expand(len(x_0)), torch.randn_like(x_0))


def stacked(eps_fn, schedule, x_0, timesteps):
    return torch.stack([step.x_t for step in ddim_invert(eps_fn, schedule, x_0, timesteps)])


def in_the_schedule(eps_fn, schedule, x_0, timesteps):
    x = inverted_as_in_the_lesson(eps_fn, schedule, x_0, timesteps)
    schedule.alphas_cumprod.clamp_(max=0.5)
    return x


def in_x_0(eps_fn, schedule, x_0, timesteps):
    return x_0.copy_(inverted_as_in_the_lesson(eps_fn, schedule, x_0, timesteps))


WRONG_INVERT = [
    (name, lines if callable(lines) else wrong_invert(*lines))
    for name, lines in [
        ("unit", (changed_estimate("torch.clip(e, 0, 1)"),)),
        ("unit", (changed_estimate("e.clamp(min=0).clamp(max=1)"),)),
        ("unit", (changed_estimate("e.clamp(0, 1)"), "x = x_0.clamp(-1, 1)")),
        ("clipped", (CLIP,)),
        ("clipped", (changed_estimate("torch.clip(e, -1, 1)"),)),
        ("clipped", (changed_estimate("e.clamp(min=-1).clamp(max=1)"),)),
        ("clipped", (CLIP, "x = x_0.clamp(-1, 1)")),
        ("rederived", (CLIP, DERIVE)),
        ("divided", (CLIP, "    more = (x - r(level) * est) / r(1 - level)")),
        ("divided", ("    more = (x - r(level) * est) / r(1 - level)",)),
        ("divided", ("    more = (1 / r(1 - level)) * (x - r(level) * est)",)),
        ("wall", (walls(2),)),
        ("wall", (walls(1.5),)),
        ("wall", (walls(1.1),)),
        ("wall", (walls(3),)),
        ("wall", (walls(10),)),
        ("wall", (walls(2), DERIVE)),
        ("soft", (changed_estimate("e.tanh()"),)),
        ("soft", (changed_estimate("e.tanh()"), DERIVE)),
        ("soft", (changed_estimate("e / e.abs().max()"),)),
        ("soft", (changed_estimate("e / e.abs().max().clamp(min=1)"),)),
        ("soft", (changed_estimate("e / e.abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=1)"),)),
        ("eps clipped", ("    eps = eps_fn(x, torch.full((len(x),), t)).clamp(-1, 1)",)),
        ("eps clipped", (CLIP, "    eps = eps_fn(x, torch.full((len(x),), t)).clamp(-1, 1)")),
        ("state clipped", ("    x = (r(now) * est + r(1 - now) * more).clamp(-1, 1)",)),
        ("state clipped", (CLIP, "    x = (r(now) * est + r(1 - now) * more).clamp(-1, 1)")),
        ("result clipped", ("return x.clamp(-1, 1)",)),
        ("direction", ("steps = timesteps.tolist()",)),
        ("direction", ("steps = timesteps.tolist()", CLIP)),
        ("direction", ("steps = timesteps.tolist()", "return x * 3")),
        ("early", ("    level = float(abar[t])",)),
        ("early", ("    level = now = float(abar[t])", CLIP)),
        ("stale", ("    level = 1.0",)),
        ("stale", ("    level = 1.0", CLIP)),
        ("old t", ("    told = max([s for s in steps if s < t], default=0)",)),
        ("old t", ("    told = max([s for s in steps if s < t], default=0)", CLIP)),
        ("old t", ("    told = max([s for s in steps if s < t], default=t)",)),
        ("dropped first", ("steps = timesteps.flip(0).tolist()[1:]",)),
        ("dropped first", ("steps = timesteps.flip(0).tolist()[1:]", CLIP)),
        ("dropped top", ("steps = timesteps.flip(0).tolist()[:-1]",)),
        ("dropped top", ("steps = timesteps.flip(0).tolist()[:-1]", CLIP)),
        ("one step", ("steps = [int(timesteps[0])]",)),
        ("one step", ("steps = timesteps[:1].tolist()", CLIP)),
        ("every step", ("steps = range(int(timesteps[0]) + 1)",)),
        ("every step", ("steps = range(schedule.num_timesteps)",)),
        ("every step", ("steps = range(schedule.num_timesteps)", CLIP)),
        ("noise", noised),
        ("noise", ("    eps = torch.randn_like(x)",)),
        ("noise", ("    more = torch.randn_like(x)",)),
        ("estimate", ("return est",)),
        ("estimate", ("return est", CLIP)),
        ("eps", ("return eps",)),
        ("steps", lambda *given: ddim_invert(*given)),
        ("steps", lambda *given: list(ddim_invert(*given))),
        ("steps", lambda *given: list(ddim_invert(*given))[-1]),
        ("steps", ("return x, est",)),
        ("steps", stacked),
        ("fixed point", asked_again(lambda estimate: estimate)),
        ("fixed point", asked_again(lambda estimate: estimate.clamp(-1, 1))),
        ("calls", ("    more = eps_fn(x, torch.full((len(x),), t))",)),
        ("calls", ("    told = int(0 * eps_fn(x, torch.full((len(x),), t)).sum()) + t",)),
        ("in place", in_the_schedule),
        ("in place", in_x_0),
        ("in place", ("    x = x_0.copy_(r(now) * est + r(1 - now) * more)",)),
        ("in place", ("return x + 0 * timesteps.zero_().sum()",)),
    ]
]
WRONG = {"09.1": WRONG_ERROR, "09.2": WRONG_INVERT}

UNNAMED = [
    (
        "09.1",
        wrong_error("return d.abs().mean(dim=(1, 2, 3)) / 3"),
        "with source = [4, 1] and target = [0, 6] the error of image ",
    ),
    ("09.1", wrong_error("back = sent * 0.1"), "numbers are off"),
    (
        "09.1",
        wrong_error("return d.abs().mean(dim=(1, 2, 3), keepdim=True) / 2"),
        "[2], that is [B], got [2, 1",
    ),
    ("09.1", wrong_error("return (d.abs().mean(dim=(1, 2, 3)) / 2).tolist()"), "a tensor, got a list"),
    ("09.1", wrong_error("return d.sum(dim=(1, 2, 3)) / 0"), "infinite"),
    ("09.1", wrong_error("return d.sum(dim=(1, 2, 3)) * 1j"), "complex"),
    ("09.1", wrong_error("return (d - 9).log().sum(dim=(1, 2, 3))"), "holds NaN"),
    ("09.1", wrong_error("return print(end='')"), "returns nothing"),
    ("09.1", lambda intervene, x_0, source, target: x_0.mean(dim=(1, 2, 3)), "Nothing is ever asked"),
    (
        "09.2",
        wrong_invert("return 1.2 * x"),
        "with timesteps = [59, 44, 30, 17, 6] one pixel should be",
    ),
    ("09.2", wrong_invert("return x if len(steps) > 3 else 2 * x"), "with timesteps = [40, 21, 3] one pixel"),
    ("09.2", wrong_invert("return x[0]"), "must have shape [2, 3, 4, 5], that is [B, C, H, W]"),
    ("09.2", wrong_invert("return x / 0"), "infinite"),
    ("09.2", wrong_invert("return x * 1j"), "complex"),
    ("09.2", lambda eps_fn, schedule, x_0, timesteps: x_0 * math.nan, "holds NaN"),
    ("09.2", wrong_invert("return now"), "must return a tensor, got a float"),
    ("09.2", wrong_invert("return print(end='')"), "returns nothing"),
    ("09.2", lambda eps_fn, schedule, x_0, timesteps: x_0, "The network is never asked"),
]

# What the intervention or the network refuses, as a real one would: the learner's line is shown.
REFUSED = [
    (
        "there_and_back",
        wrong_error("there = intervene(x_0[0], source, target)"),
        "got torch.float32 of shape",
    ),
    ("there_and_back", wrong_error("back = intervene(128 * sent, target, source)"), "images in [-1, 1]"),
    ("there_and_back", wrong_error("back = intervene((255 * sent).byte(), target, source)"), "torch.uint8"),
    ("there_and_back", wrong_error("back = intervene(sent, 4, 1)"), "labels of shape [B], int64"),
    ("there_and_back", wrong_error("back = intervene(sent, target.float(), source)"), "shape [B], int64"),
    ("there_and_back", wrong_error("there = intervene(None, source, target)"), "got NoneType"),
    (
        "invert",
        wrong_invert("    eps = eps_fn(x[0], torch.full((len(x),), t))"),
        "got one of shape [3, 4, 5]",
    ),
    ("invert", wrong_invert("    eps = eps_fn(t, x)"), "got one of type int"),
    ("invert", wrong_invert("    eps = eps_fn(x, t)"), "int64, got int"),
    ("invert", wrong_invert("    eps = eps_fn(x, torch.tensor(t))"), "int64, got torch.int64 of shape []"),
    ("invert", wrong_invert("    eps = eps_fn(x, torch.full((len(x),), t / 60))"), "got torch.float32 of"),
]


def results_of_formulas():
    """For each exercise what every wrong formula gives in all its cases, after what the right one gives."""
    returns = [*(("right", found) for found in lesson09._right_returns()), *lesson09._wrong_returns()]
    walks = [("right", lesson09._right_walk), *lesson09.WRONG_WALKS]
    return {
        "09.1": [(name, torch.stack(found)) for name, found in returns],
        "09.2": [(name, torch.stack(lesson09._ends(formula))) for name, formula in walks],
    }


def random_cases(seed):
    """Other cases for each exercise: originals and labels; lists of timesteps."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(10, (3, 2, 2), generator=generator).tolist()
    walks = [torch.randperm(lesson09.TIMESTEPS, generator=generator)[:n] for n in (1, 2, 4, 7)]
    return {
        "LABELS": [(seed + 7 * i, *map(tuple, pair)) for i, pair in enumerate(labels)],
        "WALKS": [tuple(walk.sort(descending=True).values.tolist()) for walk in walks],
    }
