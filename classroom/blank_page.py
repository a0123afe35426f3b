"""What lesson 14 hands out: data, the U-Net's class, a judge, a world; other imports it withholds."""

import ast
import builtins
import linecache
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import CodeType

import torch
from torch import Tensor

from classroom import figures
from classroom.checks.lesson14 import states_of as states_of
from classroom.checks.running import code_of
from classroom.panels.film import Film, Row
from classroom.panels.world import MovingWorld
from lessons_lib import data, pipeline
from lessons_lib.images import save_gif
from lessons_lib.schedules import NoiseSchedule
from lessons_lib.toy import seven_and_three
from lessons_lib.unet import UNet, UNetConfig

BLOCKED = "A blank page: the library is closed here. Use torch, Python, and what the set-up handed you."


def begin() -> tuple[Tensor, Tensor, type[UNet], type[UNetConfig], Callable[[Tensor], Tensor]]:
    """Images [N, 1, 28, 28] in [-1, 1], labels [N], the U-Net, its config, and the judge. Shuts the library.

    The judge reads images [B, 1, 28, 28] and answers digits [B]. It guides nothing.
    """
    evaluator, digits = pipeline.load_model("mnist-evaluator")[0], data.load("mnist", "train")
    images, labels = digits.batch(torch.arange(len(digits)))
    print(f"{len(images):,} images ({digits.source})")
    _close()
    return images, labels, UNet, UNetConfig, lambda x_0: evaluator.probabilities(x_0.clamp(-1, 1)).argmax(1)


def _close() -> None:
    """Refuse imports of the library that stand in a notebook's cell; those in files go on."""
    unguarded = getattr(builtins.__import__, "unguarded", builtins.__import__)

    def guarded(name, globals=None, locals=None, fromlist=(), level=0):
        if name.split(".")[0] == "lessons_lib" and (globals or {}).get("__name__") == "__main__":
            raise ImportError(BLOCKED)
        return unguarded(name, globals, locals, fromlist, level)

    guarded.unguarded = unguarded
    builtins.__import__ = guarded


class World:
    """The moving world with the face of a network, world(x_t, t, y=None) -> eps; all that it says is exact.

    x_t [B, 2], t [B]; y [B]: 0 is the 7, 1 the 3, and 2, the null label, is not told.
    """

    null_label = 2

    def __init__(self) -> None:
        self.mixture, self.schedule = seven_and_three(), NoiseSchedule.linear(1000)
        self.alphas_cumprod = self.schedule.alphas_cumprod.float()

    def __call__(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        y = torch.full_like(t, self.null_label) if y is None else y
        return self.mixture.teacher(self.schedule)(x_t, t, y)

    def classifier(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Logits [B, 2]."""
        return self.mixture.log_likelihoods(self.schedule, x_t, t)

    def moved(self, sample: Callable, eps_fns: Mapping[str, Callable], dots: int = 500) -> MovingWorld:
        """What a learner's sampler does with each eps_fn, from the same noise."""
        x_T = torch.randn(dots, 2, generator=torch.Generator().manual_seed(0))
        times = torch.arange(999, -1, -20)
        found = [sample(eps_fn, self.alphas_cumprod, x_T, times) for eps_fn in eps_fns.values()]
        # A state that needs a gradient, or none can have, is shown like any other.
        states = [torch.stack([x_T, *states_of(one, x_T)[-len(times) :]]).clone().detach() for one in found]
        if any(len(one) <= len(times) for one in states):
            raise ValueError(
                f"To show the way, return or yield all states, one for each of {len(times)} timesteps."
            )
        return MovingWorld("yours", ways=dict(zip(eps_fns, states, strict=True)), times=[*times.tolist(), -1])


def _code_of(part: Callable) -> CodeType:
    """Of a function, or of a class by one of its own methods."""
    methods = vars(part).values() if isinstance(part, type) else ()
    return next((one.__code__ for one in methods if hasattr(one, "__code__")), None) or code_of(part)


def lines_of(*functions: Callable) -> int:
    """The lines of the functions and classes in these functions' cells, without blanks and docstrings."""
    cells = {_code_of(function).co_filename for function in functions}
    found = [node for cell in cells for node in ast.parse("".join(linecache.getlines(cell))).body]
    for node in (inner for one in found for inner in ast.walk(one)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node):
            node.body = node.body[1:] or [ast.Pass()]
    mine = [ast.unparse(node) for node in found if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    return sum(len(text.splitlines()) for text in mine)


def show_judged(drawings: Mapping[str, Tensor], y: Tensor, judge: Callable[[Tensor], Tensor]) -> None:
    """Ten of each of the drawings [B, 1, 28, 28], and how many of all are read as y [B]."""
    right = {name: judge(images) == y for name, images in drawings.items()}
    rows = {f"{name}\n{int(right[name].sum())} of {len(y)}": x_0[:10] for name, x_0 in drawings.items()}
    figures.show_figure(
        figures.image_row(rows, y[:10].tolist(), misread=~torch.stack(list(right.values()))[:, :10]),
        alt=f"Ten digits a row that the learner's own denoiser drew: {'; '.join(rows)}.".replace("\n", ", "),
        caption="The same noises, pushed in two ways. Left: how many are read right. Crosses: misread.",
    )


def keep_gif(rows: Sequence[tuple[float, Tensor]], words: str, folder: Path) -> Path:
    """Write my_work/my_diffusion.gif below the folder: of each scale the ten digits [10, 1, 28, 28].

    It takes the place of the one before.
    """
    digits, path = [str(digit) for digit in range(10)], folder / "my_work" / "my_diffusion.gif"
    films = [Film([Row.of(row, heads=digits, side=64)], "", f"w = {w:.1f}: {words}") for w, row in rows]
    save_gif(path, [film.page(0) for film in films])
    return path
