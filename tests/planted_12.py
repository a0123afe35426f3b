"""Answers to lesson 12's exercises: right ones, each written another way, and the wrong ones with a name."""

import functools
import math

import numpy as np
import torch
import torch.nn.functional as F

from classroom.checks import lesson12
from lessons_lib import guidance

# ---- right answers ----


def all_as_in_the_lesson(logits, wanted):
    total = torch.zeros(len(logits))
    for place, value in wanted.items():
        z = logits[:, place]
        total = total + F.logsigmoid(z if value else -z)
    return total


def all_by_sign(logits, wanted):
    signs = torch.tensor([1.0 if value else -1.0 for value in wanted.values()])
    return F.logsigmoid(signs * logits[:, list(wanted)]).sum(dim=1)


def all_by_softplus(logits, wanted):
    return -sum(F.softplus(-logits[:, i] if value else logits[:, i]) for i, value in wanted.items())


def all_by_cross_entropy(logits, wanted):
    places = list(wanted)
    answers = torch.tensor([wanted[i] for i in places]).float().expand(len(logits), -1)
    loss = F.binary_cross_entropy_with_logits(logits[:, places], answers, reduction="none")
    return -loss.sum(dim=1)


def all_by_weights(logits, wanted):
    """Over all attributes, in float64."""
    A = logits.shape[1]
    value, weight = torch.zeros(A).double(), torch.zeros(A).double()
    for place in wanted:
        value[place], weight[place] = float(wanted[place]), 1.0
    z = logits.double()
    return (value * z - F.softplus(z)) @ weight


def all_by_logaddexp(logits, wanted):
    """log p = z_answer - log(exp(0) + exp(z)), as for two classes."""
    rows = []
    for z in logits:
        wishes = (
            (z[i] if value else z[i] * 0) - torch.logaddexp(z[i] * 0, z[i]) for i, value in wanted.items()
        )
        rows.append(functools.reduce(torch.add, wishes))
    return torch.stack(rows)


def all_by_bernoulli(logits, wanted):
    found = torch.distributions.Bernoulli(logits=logits)
    answers = torch.tensor([float(wanted.get(i, False)) for i in range(logits.shape[1])])
    mask = torch.tensor([i in wanted for i in range(logits.shape[1])])
    return torch.where(mask, found.log_prob(answers.expand_as(logits)), 0.0).sum(-1)


def all_with_the_library(logits, wanted):
    x_t, t = torch.zeros(len(logits), 1, 1, 1), torch.zeros(len(logits), dtype=torch.int64)
    wishes = (guidance.attribute_log_prob(lambda x, t: logits, i, value) for i, value in wanted.items())
    return sum(wish(x_t, t) for wish in wishes)


def held_as_in_the_lesson(pull, other):
    along = (pull * other).sum(dim=(1, 2, 3), keepdim=True)
    square = (other * other).sum(dim=(1, 2, 3), keepdim=True)
    return pull - torch.where(square > 0, along / square, 0) * other


def held_by_clamp(pull, other):
    p, o = pull.flatten(1), other.flatten(1)
    k = (p * o).sum(1, keepdim=True) / (o**2).sum(1, keepdim=True).clamp(min=1e-12)
    return (p - k * o).view_as(pull)


def held_by_a_small_number(pull, other):
    k = torch.einsum("bchw,bchw->b", pull, other) / (torch.einsum("bchw,bchw->b", other, other) + 1e-8)
    return pull - k[:, None, None, None] * other


def held_by_direction(pull, other):
    unit = F.normalize(other.flatten(1), dim=1)
    along = torch.linalg.vecdot(pull.flatten(1), unit)[:, None]
    return pull - (along * unit).reshape(pull.shape)


def held_in_a_loop(pull, other):
    images = []
    for p, o in zip(pull, other, strict=True):
        square = torch.dot(o.flatten(), o.flatten()).item()
        k = torch.dot(p.flatten(), o.flatten()).item() / square if square else 0.0
        images.append(p - k * o)
    return torch.stack(images)


def held_by_cosine(pull, other):
    long, wide = (torch.linalg.vector_norm(x, dim=(1, 2, 3), keepdim=True) for x in (pull, other))
    cosine = F.cosine_similarity(pull.flatten(1), other.flatten(1), eps=0).view(-1, 1, 1, 1)
    return pull - (cosine * long / wide).nan_to_num() * other


def held_by_pseudoinverse(pull, other):
    column = other.flatten(1)[:, :, None]
    return pull - (column @ (torch.linalg.pinv(column) @ pull.flatten(1)[:, :, None])).view_as(pull)


def held_with_vmap(pull, other):
    """The scale of other is taken out first."""

    def one(p, o):
        o = o / o.abs().max().clamp(min=1e-30)
        return p - (p * o).sum() / (o * o).sum().clamp(min=1e-30) * o

    return torch.vmap(one)(pull, other)


def held_with_numpy(pull, other):
    p, o = pull.numpy().astype(np.float64), other.numpy().astype(np.float64)
    along, square = (p * o).sum((1, 2, 3)), (o * o).sum((1, 2, 3))
    k = np.divide(along, square, out=np.zeros_like(along), where=square > 0)
    return torch.from_numpy(p - k[:, None, None, None] * o).to(pull.dtype)


RIGHT = [
    ("12.1", all_as_in_the_lesson),
    ("12.1", all_by_sign),
    ("12.1", all_by_softplus),
    ("12.1", all_by_cross_entropy),
    ("12.1", all_by_weights),
    ("12.1", all_by_logaddexp),
    ("12.1", all_by_bernoulli),
    ("12.1", all_with_the_library),
    ("12.2", held_as_in_the_lesson),
    ("12.2", held_by_clamp),
    ("12.2", held_by_a_small_number),
    ("12.2", held_by_direction),
    ("12.2", held_in_a_loop),
    ("12.2", held_by_cosine),
    ("12.2", held_by_pseudoinverse),
    ("12.2", held_with_vmap),
    ("12.2", held_with_numpy),
]

# ---- classic wrong answers: a formula, or a function ----


def wrong_all(formula="total(s)"):
    """A formula: z, w the arguments; c the wanted columns, s with the sign of the wish, y which are yes."""

    def log_prob_of_all(logits, wanted):
        c, y = logits[:, list(wanted)], torch.tensor(list(wanted.values()))
        names = {"z": logits, "w": wanted, "c": c, "y": y, "s": torch.where(y, c, -c), "ls": F.logsigmoid}
        names |= {"torch": torch, "F": F, "math": math, "inf": math.inf, "items": wanted.items()}
        names |= {"A": logits.shape[1], "each": lambda one: sum(one(i, v) for i, v in wanted.items())}
        return eval(formula, names | {"total": lambda x: F.logsigmoid(x).sum(1), "p": names["s"].sigmoid()})

    return log_prob_of_all


def all_of_the_last(logits, wanted):
    for place, value in wanted.items():
        total = F.logsigmoid(logits[:, place] if value else -logits[:, place])
    return total


def all_of_the_first(logits, wanted):
    for place, value in wanted.items():
        return F.logsigmoid(logits[:, place] if value else -logits[:, place])


def all_by_minus_one(logits, wanted):
    """CelebA's own files say -1 for no; here it is False."""
    total = 0
    for place, value in wanted.items():
        total = total + F.logsigmoid(-logits[:, place] if value == -1 else logits[:, place])
    return total


def all_by_mask_of_inf(logits, wanted):
    mask = torch.zeros(logits.shape[1], dtype=torch.bool)
    mask[list(wanted)] = True
    return F.logsigmoid(logits).masked_fill(~mask, -math.inf).sum(dim=1)


def all_by_enumerate(logits, wanted):
    return sum(F.logsigmoid(logits[:, i] if v else -logits[:, i]) for i, v in enumerate(wanted))


def all_overwritten(logits, wanted):
    z, total = logits.clone(), 0
    for place, value in wanted.items():
        if not value:
            z[:, place] = -z[:, place]
        total = total + F.logsigmoid(z)[:, place]
    return total


def all_turned_in_place(logits, wanted):
    for place, value in wanted.items():
        if not value:
            logits[:, place] *= -1
    return F.logsigmoid(logits[:, list(wanted)]).sum(dim=1)


def all_popped(logits, wanted):
    total = 0
    while wanted:
        place, value = wanted.popitem()
        total = total + F.logsigmoid(logits[:, place] if value else -logits[:, place])
    return total


def all_of_numbers(logits, wanted):
    rows = logits.double().tolist()
    softplus = lambda z: max(z, 0) + math.log1p(math.exp(-abs(z)))  # noqa: E731
    return torch.tensor([-sum(softplus(-z[i] if v else z[i]) for i, v in wanted.items()) for z in rows])


@torch.no_grad()
def all_without_grad(logits, wanted):
    return all_by_sign(logits, wanted)


def all_in_numpy(logits, wanted):
    z = logits.numpy().astype(np.float64)
    return torch.from_numpy(-sum(np.logaddexp(0, -z[:, i] if v else z[:, i]) for i, v in wanted.items()))


def all_where_it_rounds(logits, wanted):
    """Where log p is infinite the logit takes its place: for the numbers, not for autograd."""
    z = torch.where(torch.tensor(list(wanted.values())), logits[:, list(wanted)], -logits[:, list(wanted)])
    log_p = z.sigmoid().log()
    return torch.where(log_p.isinf(), z, log_p).sum(dim=1)


def all_rounded(logits, wanted):
    """The numbers of the right one, with the gradient of the logits' sum."""
    z = logits[:, list(wanted)].sum(dim=1)
    return all_by_sign(logits, wanted).detach() + z - z.detach()


WRONG_ALL = [
    (name, formula if callable(formula) else wrong_all(formula))
    for name, formula in [
        ("ignored", "total(c)"),
        ("ignored", "c.sigmoid().log().sum(1)"),
        ("ignored", "total(-c)"),
        ("ignored", "-F.softplus(-c).sum(1)"),
        ("ignored", "-total(c)"),
        ("ignored", all_by_minus_one),
        ("left out", "each(lambda i, v: ls(z[:, i]) * v)"),
        ("left out", "ls(c[:, y]).sum(1)"),
        ("left out", "ls(-c[:, ~y]).sum(1)"),
        ("left out", "sum(ls(z[:, i]) for i in w if w[i])"),
        ("turned", "total(-s)"),
        ("turned", "total(torch.where(y, -c, c))"),
        (
            "turned",
            "F.binary_cross_entropy_with_logits(c, (~y).float().expand_as(c), reduction='none').sum(1)",
        ),
        ("factor", "total(c * y)"),
        ("factor", "each(lambda i, v: ls(v * z[:, i]))"),
        ("complement", "each(lambda i, v: ls(z[:, i]) if v else 1 - ls(z[:, i]))"),
        ("complement", "each(lambda i, v: ls(z[:, i]) if v else -ls(z[:, i]))"),
        ("complement", "(ls(c) * (2 * y.int() - 1)).sum(1)"),
        ("no log", "p.prod(1)"),
        ("no log", "total(s).exp()"),
        ("no log", "-p.prod(1)"),
        ("no log", "c.sigmoid().prod(1)"),
        ("any", "p.sum(1)"),
        ("any", "p.sum(1).log()"),
        ("any", "ls(s).logsumexp(1)"),
        ("any", "p.mean(1).log()"),
        ("any", "p.mean(1)"),
        ("any", "1 - (1 - p).prod(1)"),
        ("any", "torch.log(1 - (1 - p).prod(1))"),
        ("product", "ls(s).prod(1)"),
        ("product", "math.prod(ls(z[:, i] if v else -z[:, i]) for i, v in items)"),
        ("mean", "ls(s).mean(1)"),
        ("mean", "total(s) / A"),
        ("mean", "total(s) / len(z)"),
        ("mean", "p.prod(1).log() / len(w)"),
        ("mean", "F.binary_cross_entropy_with_logits(c, y.float().expand_as(c), reduction='none').mean(1)"),
        ("one", all_of_the_last),
        ("one", all_of_the_first),
        ("extreme", "ls(s).min(dim=1).values"),
        ("extreme", "ls(s).amax(1)"),
        ("softmax", "z.log_softmax(1)[:, list(w)].sum(1)"),
        ("softmax", "each(lambda i, v: torch.log(z.softmax(1)[:, i] if v else 1 - z.softmax(1)[:, i]))"),
        ("softmax", "z.softmax(1)[:, list(w)].prod(1)"),
        ("softmax", "z.softmax(1)[:, list(w)].sum(1).log()"),
        ("softmax", "s.log_softmax(1).sum(1)"),
        ("softmax", "c.log_softmax(1).sum(1)"),
        ("softmax", "sum(z.log_softmax(1)[:, i] for i, v in items if v)"),
        ("over batch", "z.log_softmax(0)[:, list(w)].sum(1)"),
        ("over batch", "s.log_softmax(0).sum(1)"),
        ("over batch", "z.softmax(0)[:, list(w)].prod(1)"),
        ("everything", "total(z)"),
        (
            "everything",
            "-F.binary_cross_entropy_with_logits(z, torch.tensor([[float(w.get(i, 0)) "
            "for i in range(A)]]).expand_as(z), reduction='none').sum(1)",
        ),
        ("everything", "sum(ls(z[:, i] if w.get(i) else -z[:, i]) for i in range(A))"),
        ("everything", "sum(ls(z[:, i] if w.get(i, True) else -z[:, i]) for i in range(A))"),
        ("everything", "ls(z).mean(1)"),
        ("logits", "s.sum(1)"),
        ("logits", "c.sum(1)"),
        ("logits", "s.mean(1)"),
        ("before", "ls(s.sum(1))"),
        ("before", "s.sum(1).sigmoid().log()"),
        ("before", "ls(c.sum(1))"),
        ("before", "ls(s.mean(1))"),
        ("twice", "total(p)"),
        ("twice", "each(lambda i, v: ls(z.sigmoid()[:, i] if v else -z.sigmoid()[:, i]))"),
        ("base", "p.log2().sum(1)"),
        ("base", "p.log10().sum(1)"),
        ("places", "each(lambda i, v: ls(z[:, i - 1] if v else -z[:, i - 1]))"),
        ("places", "each(lambda i, v: ls(z[:, i + 1] if v else -z[:, i + 1]))"),
        ("places", "sum(ls(z[:, i] if v else -z[:, i]) for i, v in enumerate(w.values()))"),
        ("places", all_by_enumerate),
        ("threshold", "((c > 0) == y).all(1)"),
        ("threshold", "((c > 0) == y).all(1).float()"),
        ("threshold", "((c > 0) == y).all(1).float().log()"),
        ("threshold", "((c.sigmoid() > 0.5) == y).sum(1)"),
        ("threshold", "(p.round() == 1).float().mean(1)"),
        ("threshold", "((c > 0) == y).float().log().sum(1)"),
        ("infinite", all_by_mask_of_inf),
        ("infinite", "(F.one_hot(torch.tensor(list(w)), A).sum(0) * z.sigmoid()).log().sum(1)"),
        ("loss", "-total(s)"),
        ("loss", "F.softplus(-s).sum(1)"),
        ("loss", "F.binary_cross_entropy_with_logits(c, y.float().expand_as(c), reduction='none').sum(1)"),
        ("one number", "total(s).sum()"),
        ("one number", "total(s).mean(0, keepdim=True)"),
        ("one number", "-F.binary_cross_entropy_with_logits(c, y.float().expand_as(c))"),
        ("rows", "ls(s).sum(0)"),
        ("rows", "each(lambda i, v: ls(z[i] if v else -z[i]))"),
        ("rows", "ls(z).sum(0)"),
        ("not summed", "ls(s)"),
        ("not summed", "p"),
        ("not summed", "ls(z)"),
        ("not summed", "torch.stack([ls(z[:, i] if v else -z[:, i]) for i, v in items])"),
        ("column", "ls(s).sum(1, keepdim=True)"),
        ("column", "each(lambda i, v: ls(z[:, [i]] if v else -z[:, [i]]))"),
        ("unstable", "p.log().sum(1)"),
        ("unstable", "p.prod(1).log()"),
        ("unstable", "each(lambda i, v: z[:, i].sigmoid().log() if v else torch.log(1 - z[:, i].sigmoid()))"),
        ("unstable", "each(lambda i, v: z[:, i].sigmoid().log() if v else ls(-z[:, i]))"),
        ("unstable", "s.double().sigmoid().log().sum(1)"),
        ("unstable", "-torch.log(1 + torch.exp(-s)).sum(1)"),
        ("1 - p", "each(lambda i, v: ls(z[:, i]) if v else torch.log(1 - z[:, i].sigmoid()))"),
        ("1 - p", "each(lambda i, v: ls(z[:, i]) if v else torch.log1p(-z[:, i].sigmoid()))"),
        ("1 - p", "each(lambda i, v: ls(z[:, i]) if v else torch.log(1 - ls(z[:, i]).exp()))"),
        ("1 - p", "each(lambda i, v: ls(z[:, i]) if v else (1 - z[:, i].double().sigmoid()).log())"),
        ("flat", "torch.log(p + 1e-8).sum(1)"),
        ("flat", "torch.log(p + 1e-3).sum(1)"),
        ("flat", "torch.log(p.prod(1) + 1e-12)"),
        ("flat", "p.clamp(min=1e-12).log().sum(1)"),
        ("flat", "p.log().nan_to_num(neginf=-100).sum(1)"),
        ("flat", "-F.binary_cross_entropy(c.sigmoid(), y.float().expand_as(c), reduction='none').sum(1)"),
        ("flat", "total(s.clamp(-50, 50))"),
        ("gradient", all_where_it_rounds),
        ("overwritten", all_overwritten),
        ("detached", "total(s.detach())"),
        ("detached", "total(s).detach()"),
        ("detached", all_of_numbers),
        ("detached", all_in_numpy),
        ("detached", all_without_grad),
        ("detached", all_rounded),
        ("in place", all_turned_in_place),
        ("in place", all_popped),
        ("in place", "total(s) + 0 * z.zero_()[:, 0]"),
        ("bool", "total(c * y - c * (1 - y))"),
        ("bool", "(ls(c) * y + ls(-c) * (1 - y)).sum(1)"),
        ("bool", "total(c * -y)"),
    ]
]


def wrong_held(formula="p - k * o"):
    """A formula: p and o the arguments, S sums each image, n is an image's norm, k the right factor."""

    def hold_still(pull, other):
        S = lambda x, dim=(1, 2, 3): x.sum(dim=dim, keepdim=True)  # noqa: E731
        names = {"p": pull, "o": other, "S": S, "n": lambda x: S(x * x).sqrt(), "torch": torch, "F": F}
        square = S(other * other)
        k = torch.where(square > 0, S(pull * other) / square, 0)
        return eval(formula, names | {"k": k, "r": pull - k * other, "math": math})

    return hold_still


def held_in_place(pull, other):
    pull -= (pull * other).sum((1, 2, 3), keepdim=True) / (other**2).sum((1, 2, 3), keepdim=True) * other
    return pull


def held_by_a_unit_in_place(pull, other):
    other /= other.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    return pull - (pull * other).sum((1, 2, 3), keepdim=True) * other


def held_unless_one_is_zero(pull, other):
    square = (other**2).sum((1, 2, 3), keepdim=True)
    if (square == 0).any():
        return pull
    return pull - (pull * other).sum((1, 2, 3), keepdim=True) / square * other


def held_unless_all_are_zero(pull, other):
    if other.abs().sum() == 0:
        return pull
    return (
        pull - (pull * other).sum((1, 2, 3), keepdim=True) / (other**2).sum((1, 2, 3), keepdim=True) * other
    )


def held_in_floats(pull, other):
    images = []
    for p, o in zip(pull, other, strict=True):
        images.append(p - float((p * o).sum()) / float((o * o).sum()) * o)
    return torch.stack(images)


WRONG_HELD = [
    (name, formula if callable(formula) else wrong_held(formula))
    for name, formula in [
        ("unchanged", "p"),
        ("unchanged", "p.clone()"),
        ("unchanged", "p - 0 * o"),
        ("batch", "p - (p * o).sum() / (o * o).sum() * o"),
        ("batch", "p - torch.dot(p.flatten(), o.flatten()) / o.norm()**2 * o"),
        ("batch", "p - S(p * o, (0,)) / S(o * o, (0,)) * o"),
        ("batch", "p - S(p * o, (0, 2, 3)) / S(o * o, (0, 2, 3)) * o"),
        ("batch", "p - S(p * (o / o.norm())) * (o / o.norm())"),
        ("batch", "p - torch.tensordot(p, o, 4) / S(o * o) * o"),
        ("pixel", "p - S(p * o, 1) / S(o * o, 1) * o"),
        ("pixel", "p - S(p * F.normalize(o)) * F.normalize(o)"),
        ("pixel", "p - F.normalize(o, dim=1) * S(p * F.normalize(o, dim=1), 1)"),
        ("channel", "p - S(p * o, (2, 3)) / S(o * o, (2, 3)) * o"),
        ("channel", "p - torch.einsum('bchw,bchw->bc', p, o)[..., None, None] / S(o * o, (2, 3)) * o"),
        ("row", "p - S(p * o, 3) / S(o * o, 3) * o"),
        ("row", "p - S(p * o, -2) / S(o * o, -2) * o"),
        ("element", "p - p * o / (o * o) * o"),
        ("norm", "p - S(p * o) / n(o) * o"),
        ("norm", "p - S(p * o) / o.norm() * o"),
        ("norm", "p - S(p * o / n(o)) * o"),
        ("undivided", "p - S(p * o) * o"),
        ("undivided", "p - (p * o).sum() * o"),
        ("cosine", "p - S(p * o) / (n(p) * n(o)) * o"),
        ("cosine", "p - F.cosine_similarity(p.flatten(1), o.flatten(1))[:, None, None, None] * o"),
        ("cosine", "p - S(p * o) / (n(p) * n(o)) * o / n(o)"),
        ("pull squared", "p - S(p * o) / S(p * p) * o"),
        ("pull squared", "p - S(p * o) / n(p) * o"),
        ("mean", "p - (p * o).mean((1, 2, 3), keepdim=True) / S(o * o) * o"),
        ("mean", "p - S(p * o) / (o * o).mean((1, 2, 3), keepdim=True) * o"),
        ("part", "k * o"),
        ("part", "-k * o"),
        ("part", "(p * o).sum() / (o * o).sum() * o"),
        ("plus", "p + k * o"),
        ("twice", "p - 2 * k * o"),
        ("negated", "k * o - p"),
        ("absolute", "p - k.abs() * o"),
        ("absolute", "p + k.abs() * o"),
        ("one way", "p - k.clamp(max=0) * o"),
        ("one way", "torch.where(k < 0, r, p)"),
        ("one way", "p - F.relu(k) * o"),
        ("whole other", "p - o"),
        ("whole other", "p - o / n(o)"),
        ("whole other", "p - F.normalize(o.flatten(1)).view_as(o)"),
        ("whole other", "p - n(p) / n(o) * o"),
        ("along pull", "p - S(p * o) / S(p * p) * p"),
        ("along pull", "p - S(p * o) / S(o * o) * p"),
        ("along pull", "p * (1 - S(p * o) / (n(p) * n(o)))"),
        ("exchanged", "o - S(p * o) / S(p * p) * p"),
        ("exchanged", "o - k * p"),
        ("length", "r / n(r) * n(p)"),
        ("length", "r / n(r)"),
        ("length", "r / r.norm()"),
        ("length", "r * p.norm() / r.norm()"),
        ("length", "F.normalize(r, dim=1)"),
        ("length", "r / n(p)"),
        ("magnitude", "r.abs()"),
        ("magnitude", "p.abs() - (k * o).abs()"),
        ("sign", "r.sign()"),
        ("sign", "p - k * o.sign()"),
        ("sign", "p - S(p * o.sign()) / S(o.sign()**2) * o.sign()"),
        ("sign", "p.sign() - (k * o).sign()"),
        ("epsilon", "p - S(p * o) / (S(o * o) + 1e-6) * o"),
        ("epsilon", "p - S(p * o) / (S(o * o) + 1e-4) * o"),
        ("epsilon", "p - S(p * o) / (S(o * o) + 1) * o"),
        ("epsilon", "p - S(p * o) / S(o * o).clamp(min=1e-2) * o"),
        ("epsilon", "p - S(p * o) / (n(o) + 1e-2)**2 * o"),
        ("epsilon", "torch.where(n(o) < 0.1, p, r)"),
        ("factors", "k"),
        ("factors", "k.flatten()"),
        ("factors", "S(p * o).flatten(1)"),
        ("flat", "r.flatten(1)"),
        ("tuple", "(r, k)"),
        ("tuple", "(r, o)"),
        ("dtype", "r.float()"),
        ("dtype", "r.double()"),
        ("in place", held_in_place),
        ("in place", held_by_a_unit_in_place),
        ("in place", "p.copy_(r)"),
        ("nan", "p - S(p * o) / S(o * o) * o"),
        ("nan", "p - S(p * (o / n(o))) * (o / n(o))"),
        ("nan", held_unless_all_are_zero),
        ("nan", held_in_floats),
        ("lost", "(p - S(p * o) / S(o * o) * o).nan_to_num()"),
        ("lost", "torch.where(S(o * o) > 0, r, 0)"),
        ("lost", "r * (S(o * o) > 0)"),
        ("whole batch", held_unless_one_is_zero),
        ("whole batch", "p if (S(o * o) == 0).any() else r"),
    ]
]
WRONG = {"12.1": WRONG_ALL, "12.2": WRONG_HELD}

UNNAMED = [
    (
        "12.1",
        wrong_all("3 * total(s)"),
        "for logits = [0.9, -0.4, 0.3, 1.6, -0.8] and wanted = {3: False, 1: True} it should be -2.697, "
        "got -8.091",
    ),
    ("12.1", wrong_all("total(s) + 0.01"), "it should be -2.697, got -2.687"),
    (
        "12.1",
        wrong_all("total(s) - (z[:, 0] > 900).float()"),
        "for logits = [1000, 0.1, -1000] and wanted = {2: True, 0: False} it should be -2000.000, "
        "got -2001.000",
    ),
    (
        "12.1",
        wrong_all("total(s) - float(len(w) == 1)"),
        "and wanted = {1: False} it should be -0.403, got -1.403",
    ),
    ("12.1", wrong_all("(c - 10).log().sum(1)"), "holds NaN"),
    ("12.1", wrong_all("total(s)[2:]"), "must have shape [6], that is [B], got [4]"),
    ("12.1", wrong_all("total(s).tolist()"), "must return a tensor, got a list"),
    ("12.1", wrong_all("total(s).numpy()"), "must return a tensor, got a ndarray"),
    ("12.1", wrong_all("0.5"), "must return a tensor, got a float"),
    ("12.1", wrong_all("total(s) * 1j"), "complex"),
    ("12.1", wrong_all("total(s) * inf * -1"), "infinite"),
    ("12.1", wrong_all("print(end='')"), "returns nothing"),
    (
        "12.2",
        wrong_held("p - 0.5 * k * o"),
        "in image 0, its pull is multiplied by 1.000 and its other by -0.",
    ),
    (
        "12.2",
        wrong_held("p - k * o + (p.dtype == torch.float64) * o"),
        "in image 0, its pull is multiplied by",
    ),
    ("12.2", wrong_held("r + 0.1"), "in image 0 one pixel should be"),
    ("12.2", wrong_held("r[0]"), "must have shape [2, 3, 4, 5], that is [B, C, H, W], got [3, 4, 5]"),
    ("12.2", wrong_held("list(r)"), "must return a tensor, got a list"),
    ("12.2", wrong_held("r * math.nan"), "holds NaN"),
    ("12.2", wrong_held("r / 0"), "infinite"),
    ("12.2", wrong_held("r * 1j"), "complex"),
    ("12.2", wrong_held("print(end='')"), "returns nothing"),
]


def written(head, *lines):
    space = {"torch": torch, "F": F}
    exec("\n    ".join([head, *lines]), space)
    return next(space[name] for name in ("log_prob_of_all", "hold_still") if name in space)


ALL_HEAD, HELD_HEAD = "def log_prob_of_all(logits, wanted):", "def hold_still(pull, other):"
# What Python refuses: the learner's line is shown.
REFUSED = [
    ("all_wanted", written(ALL_HEAD, "z = logits * wanted", "return z"), "TypeError", "line 2"),
    ("all_wanted", written(ALL_HEAD, "z = logits[:, 0]", "return wanted[z]"), "KeyError", "line 3"),
    ("all_wanted", written(ALL_HEAD, "return logits[:, 40]"), "IndexError", "line 2"),
    ("all_wanted", written(ALL_HEAD, "for i, v in wanted:", "    return i"), "TypeError", "line 2"),
    (
        "held_still",
        written(HELD_HEAD, "k = (pull * other).sum((1, 2, 3))", "return pull - k * other"),
        "RuntimeError",
        "line 3",
    ),
    ("held_still", written(HELD_HEAD, "return torch.dot(pull, other)"), "RuntimeError", "line 2"),
]


def results_of_formulas():
    """For each exercise what every wrong formula gives in all its cases, after what the right one gives."""
    every = [("right", lesson12._right_all), *lesson12.WRONG_ALL]
    found = [
        (name, torch.cat([formula(*lesson12._batch(case)) for case in lesson12.ORDINARY]).double())
        for name, formula in every
    ]
    turned = [(name, -value) for name, value in found if name not in ("right", "loss")]
    held = [("right", lesson12._right_held), *lesson12.WRONG_HELD]
    return {
        "12.1": found + turned,
        "12.2": [(name, torch.stack(lesson12._held(formula))) for name, formula in held],
    }


def random_cases(seed):
    """Other cases for each exercise: logits with wishes in any order; scales of other, and parts along it."""
    generator = torch.Generator().manual_seed(seed)

    def case(size, attributes, n, scale):
        rows = scale * torch.randn(size, attributes, generator=generator)
        places = torch.randperm(attributes, generator=generator)[:n].tolist()
        answers = (torch.rand(n, generator=generator) < 0.5).tolist()
        return tuple(map(tuple, rows.tolist())), dict(zip(places, answers, strict=True))

    def images():
        scale, along = torch.rand(2, lesson12.SHAPE[0], generator=generator).tolist()
        return [(10 ** (3.5 * s - 2.5), 12 * a - 6) for s, a in zip(scale, along, strict=True)]

    return {
        "ORDINARY": (case(9, 6, 4, 1.0), case(5, 3, 2, 1.5)),
        "FURTHER": (case(4, 2, 1, 1.0), case(3, 8, 8, 2.0), case(6, 5, 3, 300.0)),
        "CASES": ((100 + seed, torch.float32, images()), (200 + seed, torch.float64, images())),
    }
