"""Which recipe draws best for the same processor time? Each candidate is trained anew, drawn from and judged.

    python -m benchmarks.recipe_bakeoff --dataset cifar10 --minutes 10

trains every candidate for the same seconds of one core, on the same images in the same order, then draws
1,000 images at each scale and sampler (25 steps), and writes assets/results/bakeoff_DATASET.csv: feature FID
and its floor (as many test images), KID, the share read right, and the power in four octaves over that of
test pictures. Faces are drawn without a wish (w = 0), and told the attributes of test faces (w = 1). What is
trained and measured is kept in --folder and not done again; 0 images only trains. Needs the data and the
evaluator's weights; the faces' v-latent an autoencoder, whose minutes count as its own: python -m
benchmarks.latents. On a GPU the time says little of a network: --epochs shows each the same images instead.
--weights NAME,NAME judges trained weights in place of candidates.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import ROOT, latents, prepare
from benchmarks.octaves import octave_power
from benchmarks.sampling_steps import write_table
from lessons_lib import data, evaluation, recipes, training
from lessons_lib.evaluation.judge import Judge
from lessons_lib.files import atomic_write
from lessons_lib.images import save_png, to_grid
from lessons_lib.pipeline import GenerationRequest, generate_with, in_chunks
from lessons_lib.recipes import Recipe
from lessons_lib.training import Stopped
from lessons_lib.unet import UNetConfig
from lessons_lib.weights import WeightsError, load_pretrained

SCALES, SAMPLERS = {"cifar10": "1,2.5", "celeba": "0,1"}, "ddim,ddpm"
EPOCHS = 10_000  # more than there is time for
# At the FLOPs of the shipped networks, but with nothing wide at full resolution: patches of pixels.
PATCHED = {
    "cifar10": UNetConfig(
        32, 3, 64, (1, 2, 3), 1, (1,), embedding_channels=256, patch=2, refine_channels=16,
        v_schedule="cosine",
    ),
    "celeba": UNetConfig(
        64, 3, 64, (1, 2, 3), 1, (1,), 40, embedding_channels=256, patch=4, refine_channels=16,
        v_schedule="linear", multi_label=True,
    ),
}  # fmt: skip


def candidates(dataset: str) -> dict[str, Recipe]:
    """The recipes to compare, by name."""
    chosen = recipes.RECIPES[dataset, "denoiser"]
    # Smaller than the chosen one, so that a comparison costs less.
    v = dataclasses.replace(chosen, network=dataclasses.replace(chosen.network, base_channels=32))
    found = {
        "v": dataclasses.replace(v, options=dataclasses.replace(v.options, t_density="uniform")),
        "v-logit-normal": v,
        "v-patched": dataclasses.replace(v, network=PATCHED[dataset]),
    }
    if dataset == "celeba":  # without random_flip: the mirror images are encoded, latents are not mirrored
        found["v-latent"] = dataclasses.replace(v, network=latents.NETWORK, augment=None)
    return found


def train(recipe: Recipe, images: data.ImageSet | latents.Coded, folder: Path, **how) -> Path:
    """Train as `how`, a TrainConfig's fields, says; returns the weights' path."""
    path = folder / f"{recipe.name}.safetensors"
    if path.exists():
        return path
    config = dataclasses.replace(
        recipe.config, precision="bf16", output_dir=folder, checkpoint_every=5000, **how
    )
    options = dataclasses.replace(recipe.options, sample_every=0)
    sets = {"train": images, "val": None, "test": None}  # no time for losses on other images
    if config.max_seconds:  # of the processor
        training.clock = time.process_time
    for event in recipes.run_recipe(recipe, lambda: sets, config, options):
        if isinstance(event, Stopped) and event.reason == "interrupted":
            raise KeyboardInterrupt
    return path


@dataclasses.dataclass
class Ruler:
    """What drawn images are measured against."""

    judge: Judge
    reference: evaluation.Reference
    test: data.ImageSet
    real_features: Tensor
    real_power: Tensor

    @classmethod
    def of(cls, dataset: str, count: int, device: str) -> Ruler:
        """From `count` test images."""
        judge = Judge.load(dataset, device=device)
        test = data.load(dataset, "test").subset(torch.arange(count))
        images = data.to_signed(test.images[:])
        features = evaluation.features(judge.model, images)
        return cls(judge, judge.reference, test, features, octave_power(images))

    def labels(self, network: nn.Module, count: int) -> tuple:
        """What to ask for: classes equally often; attributes as the test faces have them."""
        if not network.config.multi_label:
            return tuple(k % max(network.config.num_classes, 1) for k in range(count))
        return tuple(tuple(row) for row in self.test.labels[torch.arange(count) % len(self.test)].tolist())

    def measured(self, images: Tensor, labels: tuple) -> dict:
        """The figures of one setting."""
        found = evaluation.features(self.judge.model, images)
        kid, spread = evaluation.feature_kid(self.real_features, found)
        row = {
            "fid": round(evaluation.fid_of_features(self.reference.statistics, found), 4),
            "fid_floor": round(evaluation.fid_of_features(self.reference.statistics, self.real_features), 4),
            "kid": round(kid, 5), "kid_std": round(spread, 5), "num_samples": len(images),
        }  # fmt: skip
        if labels and not isinstance(labels[0], tuple) and self.judge.num_classes == 10:
            row["read_right"] = evaluation.accuracy(
                self.judge.model, images, torch.tensor(labels)
            ).overall.value
        octaves = (octave_power(images) / self.real_power).tolist()
        return row | {f"octave_{k}": round(ratio, 3) for k, ratio in enumerate(octaves, 1)}


def draw(network: nn.Module, schedule, request: GenerationRequest) -> Tensor:
    """Images [N, C, H, W] of a request, a batch at a time."""
    parts = [[*generate_with(network, schedule, part)][-1].x_t.cpu() for part in in_chunks(request, 250)]
    return torch.cat(parts).clamp(-1, 1)


def judged(
    name: str, path: Path | str, ruler: Ruler, count: int, arguments: argparse.Namespace, coder=None
) -> list[dict]:
    """A row for each scale and sampler; the pictures are kept, beside a candidate's weights."""
    network, schedule, card = load_pretrained(path, ruler.judge.device)
    rows, parameters = [], card["parameters"] + (coder.card["parameters"] if coder else 0)
    folder = path.parent if isinstance(path, Path) else arguments.folder / card["sha256"][:8]
    folder.mkdir(parents=True, exist_ok=True)
    scales = [float(scale) for scale in (arguments.scales or SCALES[arguments.dataset]).split(",")]
    scales, steps = scales if network.config.num_classes else [0.0], arguments.steps
    for scale, sampler in itertools.product(scales, arguments.samplers.split(",")):
        told = network.config.num_classes > 0 and scale > 0
        labels = ruler.labels(network, count) if told else (0,) * count
        kept = folder / f"drawn_{sampler}_{steps}_{scale:g}_{count}_{arguments.draw_seed}.npy"
        if not kept.exists():  # the pictures are kept, not their figures: a better judge may come
            request = GenerationRequest(
                labels, weights=path, guidance="cfg" if told else "none", guidance_scale=scale,
                sampler=sampler, steps=steps, seed=arguments.draw_seed, precision="bf16",
                device=ruler.judge.device,
            )  # fmt: skip
            images = coder.draw(network, schedule, request) if coder else draw(network, schedule, request)
            save_png(kept.with_suffix(".png"), to_grid(images[:40], columns=10, scale=2))
            with atomic_write(kept) as temporary, open(temporary, "wb") as file:
                np.save(file, (127.5 * (images + 1)).round().to(torch.uint8).numpy())
        images = data.to_signed(torch.from_numpy(np.load(kept)))
        trained = {k: card["training"][k] for k in ("images_seen", "seed")}
        row = {"candidate": name, "w": scale if told else 0, "sampler": sampler, "steps": steps}
        row |= ruler.measured(images, labels if told else ())
        row |= trained | {"parameters": parameters}
        rows.append(row)
        print(json.dumps(row), flush=True)
    return rows


def main() -> None:
    """Train and measure what is asked for and not there yet; write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", choices=("cifar10", "celeba"), default="cifar10")
    parser.add_argument("--minutes", type=float, default=10, help="processor time of each training")
    parser.add_argument("--epochs", type=int, help="of each training, in place of its minutes")
    parser.add_argument("--batch-size", type=int, help="of all; with --lr, if not the recipes' own")
    parser.add_argument("--lr", type=float, help="peak learning rate of all")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--candidates", default="", help="comma-separated; all if not given")
    parser.add_argument("--seed", type=int, default=0, help="of the trainings")
    parser.add_argument("--weights", help="trained weights to judge in place of candidates")
    parser.add_argument("--scales", help="guidance scales, comma-separated; 0 asks for nothing")
    parser.add_argument("--samplers", default=SAMPLERS, help="comma-separated")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--draw-seed", type=int, default=0, help="of the drawn images")
    parser.add_argument("--num-samples", type=int, default=1000)
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "bakeoff")
    arguments = parser.parse_args()
    prepare(1)
    known = candidates(arguments.dataset)
    names = [name for name in arguments.candidates.split(",") if name] or list(known)
    names = [] if arguments.weights else names
    if unknown := [name for name in names if name not in known]:
        parser.error(f"there is no candidate {unknown[0]}: choose from {', '.join(known)}")
    try:
        home = arguments.folder / latents.FOLDER
        trained = latents.load(home, arguments.minutes) if "v-latent" in names else None
    except WeightsError as error:
        parser.error(str(error))
    how = {name: getattr(arguments, name) for name in ("epochs", "batch_size", "lr", "device", "seed")}
    how = {name: value for name, value in how.items() if value is not None}
    length = f"{arguments.epochs}epochs" if arguments.epochs else f"{arguments.minutes:g}min"
    paths, rows = {name: name for name in (arguments.weights or "").split(",") if name}, []
    for name in names:
        coder = trained if name == "v-latent" else None
        if not arguments.epochs:
            minutes = arguments.minutes - (coder.card["minutes"] if coder else 0)
            how |= {"epochs": EPOCHS, "max_seconds": 60 * minutes}
        folder = arguments.folder / f"{arguments.dataset}-{name}-{length}-seed{arguments.seed}"
        paths[name] = train(known[name], coder or data.load(arguments.dataset, "train"), folder, **how)
    if not (count := arguments.num_samples):
        return
    ruler = Ruler.of(arguments.dataset, count, arguments.device)
    for name, path in paths.items():
        rows += judged(name, path, ruler, count, arguments, trained if name == "v-latent" else None)
    if arguments.weights:
        return
    note = f"made by: python -m benchmarks.recipe_bakeoff {' '.join(sys.argv[1:])}"
    write_table(f"bakeoff_{arguments.dataset}.csv", note, _squared(rows))


def _squared(rows: list[dict]) -> list[dict]:
    """Every row with the columns of all."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    return [{column: row.get(column, "") for column in columns} for row in rows]


if __name__ == "__main__":
    main()
