"""python -m lessons_lib counterfactual: one image, had its label been another one."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lessons_lib import data
from lessons_lib.cli.common import check_dataset, progress_bar, resolve_device
from lessons_lib.cli.sampling import MAX_FRAMES, SUFFIXES, parse_labels
from lessons_lib.counterfactuals import in_8_bits
from lessons_lib.data import to_unit
from lessons_lib.evaluation.judge import Judge
from lessons_lib.files import atomic_write, check_writable
from lessons_lib.images import changes_grid, save_gif, save_png, to_grid
from lessons_lib.pipeline import (
    CounterfactualRequest,
    check_counterfactual,
    counterfactual_defaults,
    counterfactuals,
)

NAME = "counterfactual"  # of the files in --output-dir
MEASURES = "measures.json"


@dataclass(frozen=True)
class Picture:
    """Where the image comes from, as the user said it."""

    dataset: str
    file: Path | None
    index: int | None
    source_class: str | None

    def load(self) -> tuple[Tensor, int | None]:
        """The image [1, C, H, W] in [-1, 1], in 8-bit values, and its label if one is known.

        Raises:
            ValueError: if there are two images or none, or no such test image.
            DataError, ValueError: for a file that is no picture of a digit.
        """
        if (self.file is None) == (self.index is None):
            raise ValueError("Name one image: a picture with --image FILE, or a test image with --index N.")
        if self.file is not None:
            from lessons_lib import pictures

            return in_8_bits(pictures.load_digit(self.file)), None
        images = data.load(self.dataset, "test")
        if not 0 <= self.index < len(images):
            raise ValueError(f"--index must be between 0 and {len(images) - 1}, got {self.index}.")
        image, label = images[self.index]
        return image[None], label

    def named(self) -> dict:
        """For JSON."""
        return {"image": str(self.file)} if self.file is not None else {"index": self.index}


@dataclass(frozen=True)
class Outputs:
    """Where the results go, as the user said it."""

    out: Path | None
    folder: Path | None
    as_json: bool

    def check(self) -> None:
        """Refuse what cannot be written, and that nothing is asked for."""
        if self.out is None and self.folder is None and not self.as_json:
            raise ValueError("Say where the result goes: --out FILE.png, .gif or .npz, or --output-dir DIR.")
        if self.out is not None:
            if self.out.suffix.lower() not in SUFFIXES:
                raise ValueError(f"The output must end in .png, .gif or .npz, got {str(self.out)!r}.")
            check_writable(self.out)
        if self.folder is not None:
            check_writable(self.folder, is_folder=True)

    def files(self) -> list[Path]:
        """The images' files."""
        mine = [] if self.out is None else [self.out]
        return mine + [self.folder / f"{NAME}{suffix}" for suffix in SUFFIXES] if self.folder else mine


def run(
    picture: Picture, targets: str, wanted: dict, outputs: Outputs, judge_name: str | None, device: str
) -> None:
    """Draw, write and measure. Everything that can be refused is refused before the first step.

    Args:
        targets: "3", "3,8" or "all".
        wanted: fields of CounterfactualRequest.
    """
    check_dataset(picture.dataset, ("mnist", "celeba"))
    outputs.check()
    name = wanted["weights"] or f"{picture.dataset}-denoiser"
    wanted = wanted | {"weights": name, "device": resolve_device(device)}
    num_classes = check_counterfactual(CounterfactualRequest((0,), (0,), **wanted))
    asked = parse_labels(targets, num_classes)
    told = None if picture.source_class is None else _source_class(picture.source_class, num_classes)
    judge = Judge.load(picture.dataset, judge_name, wanted["device"])
    judge.check_classes(name, num_classes)
    source, label = picture.load()
    read = _read(judge, source)[0]
    label = next(k for k in (told, label, read["read_as"]) if k is not None)
    request = counterfactual_defaults(CounterfactualRequest((label,), asked, **wanted))
    judge.tell_if_circular([request.classifier])
    started = time.perf_counter()
    images, states = draw(request, source)
    found = {"seconds": round(time.perf_counter() - started, 3), "source_read": read}
    result = measures(request, picture, found, judge, source, images)
    for file in outputs.files():
        write(file, source, images, states, asked)
    if outputs.folder:
        with atomic_write(outputs.folder / MEASURES) as temporary:
            temporary.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result) if outputs.as_json else report(result, outputs))


def _source_class(text: str, num_classes: int) -> int:
    known = {str(k): k for k in range(num_classes)}
    if text.strip() not in known:
        raise ValueError(f"Unknown source class {text!r}: choose from 0 to {num_classes - 1}.")
    return known[text.strip()]


def draw(request: CounterfactualRequest, source: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The counterfactuals [K, C, H, W] in [-1, 1] and every state on the way down to them."""
    states = []
    with progress_bar(request.steps, "drawing") as bar:  # with a depth it jumps to its end
        for step in counterfactuals(request, source):
            states.append(step.x_t.cpu())
            bar.update()
    return states[-1].clamp(-1, 1), states


# -- writing ---------------------------------------------------------------------------------------


def write(out: Path, source: Tensor, images: Tensor, states: list[Tensor], targets: list[int]) -> None:
    """Write the row, the way or the archive, whole or not at all."""
    suffix = out.suffix.lower()
    if suffix == ".png":
        save_png(out, changes_grid(source, images[None]))
    elif suffix == ".gif":
        save_gif(out, list(_frames(source, images, states)))
    else:
        arrays = {
            "images": to_unit(images).float().numpy(),
            "labels": np.array(targets, dtype=np.int64),
            "source": to_unit(source[0]).float().numpy(),
        }
        with atomic_write(out) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, **arrays)


def _frames(source: Tensor, images: Tensor, states: list[Tensor]) -> Iterator[np.ndarray]:
    """The source beside each state, from the noise to the counterfactuals."""
    count = min(len(states), MAX_FRAMES)
    kept = np.linspace(0, len(states) - 1, count).round().astype(int)
    for state in [*(states[k] for k in kept[:-1]), images]:
        yield to_grid(torch.cat([source, state]), len(images) + 1, scale=2)


# -- measuring and telling -------------------------------------------------------------------------


@torch.no_grad()
def _read(judge: Judge, images: Tensor) -> list[dict]:
    """What the evaluator reads in each image, and how sure it is."""
    best = judge.model(images.to(judge.device)).float().softmax(dim=1).max(dim=1)
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return [{"read_as": label, "confidence": round(value, 4)} for label, value in pairs]


def measures(
    request: CounterfactualRequest,
    picture: Picture,
    found: dict,
    judge: Judge,
    source: Tensor,
    images: Tensor,
) -> dict:
    """Everything that is known of the result, for JSON; distances in [0, 1] pixels.

    effectiveness and l1 leave the source's own label out; they are null if nothing else was asked for.
    """
    l1 = (to_unit(images) - to_unit(source)).abs().mean(dim=(1, 2, 3)).tolist()
    rows = [
        {"target": target, **read, "l1": round(distance, 5)}
        for target, read, distance in zip(request.targets, _read(judge, images), l1, strict=True)
    ]
    others = [row for row in rows if row["target"] != request.sources[0]]
    right = sum(row["read_as"] == row["target"] for row in others)
    settings = {
        field: getattr(request, field)
        for field in (
            "method",
            "guidance",
            "guidance_scale",
            "classifier",
            "depth",
            "steps",
            "seed",
            "precision",
        )
    }
    return {
        **picture.named(),
        "source_class": request.sources[0],
        **found,
        **settings,
        "weights": str(request.weights),
        "evaluator": judge.name,
        "evaluator_sha256": judge.sha256,
        "counterfactuals": rows,
        "effectiveness": round(right / len(others), 5) if others else None,
        "l1": round(sum(row["l1"] for row in others) / len(others), 5) if others else None,
    }


def report(result: dict, outputs: Outputs) -> str:
    """The measures for people."""
    scale = f"{'w' if result['guidance'] == 'cfg' else 's'}={result['guidance_scale']:g}"
    depth = "" if result["depth"] is None else f", depth {result['depth']}"
    read = result["source_read"]
    lines = [
        f"source {result['source_class']}, read as {read['read_as']} ({read['confidence']:.0%}); "
        f"{result['method']}, {result['guidance']}, {scale}{depth}, {result['steps']} steps, "
        f"seed {result['seed']}; {result['seconds']:.2f} s"
    ]
    lines += [
        f"  to {row['target']}: read as {row['read_as']} ({row['confidence']:.0%}), L1 {row['l1']:.3f}"
        for row in result["counterfactuals"]
    ]
    if result["l1"] is not None:
        lines.append(
            f"{result['effectiveness']:.0%} of the other labels read as asked, mean L1 {result['l1']:.3f}"
        )
    return "\n".join([*lines, *(f"in {file}" for file in outputs.files())])
