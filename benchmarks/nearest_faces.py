"""Does the denoiser repeat its training faces? The nearest one of each drawn face, beside that of test faces.

    python -m benchmarks.nearest_faces

Half of the faces are drawn without a wish, half are told the attributes of training faces. A copy would lie
far nearer to its training face than a face that was never trained on does: look at the lowest quantiles.
Distances are mean absolute differences in [0, 1] pixels, to the training faces and their mirror images,
after a 4×4 mean: fine detail never agrees, not even in a copy.
"""

from __future__ import annotations

import argparse
import json

import torch
import torch.nn.functional as F
from torch import Tensor

from lessons_lib import data
from lessons_lib.pipeline import GenerationRequest, generate_images, in_chunks

QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75)


def coarse(images: Tensor) -> Tensor:
    """[N, 3, S, S] in [-1, 1] -> [N, F], the means over 4×4 pixels in [0, 1]."""
    return F.avg_pool2d((images + 1) / 2, 4).flatten(1)


def quantiles(images: Tensor, known: Tensor) -> list[float]:
    """Of the distances from images [N, F] to the nearest of the known [M, F], at QUANTILES."""
    nearest = torch.cat([torch.cdist(part, known, p=1).min(dim=1).values for part in images.split(100)])
    found = (nearest / known.shape[1]).quantile(torch.tensor(QUANTILES))
    return [round(value, 4) for value in found.tolist()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-samples", type=int, default=1000)
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    train, test = (data.load("celeba", split) for split in ("train", "test"))
    half, how = given.num_samples // 2, {"seed": 1, "precision": given.precision}
    # Every k-th training face, so that they are spread over the whole set.
    rows = tuple(map(tuple, train.labels[torch.arange(half) * (len(train) // half)].tolist()))
    asked = {
        "unguided": GenerationRequest((0,) * half, "celeba-denoiser", "none", **how),
        "told": GenerationRequest(rows, "celeba-denoiser", "cfg", guidance_scale=1.0, **how),
    }
    known = [train.batch(part)[0] for part in torch.arange(len(train)).split(500)]
    known = torch.cat([coarse(each) for images in known for each in (images, images.flip(3))])
    sets = {
        name: torch.cat([coarse(generate_images(part)) for part in in_chunks(request, 50)])
        for name, request in asked.items()
    }
    # As many: the smallest of more distances is smaller.
    sets["test"] = coarse(test.batch(torch.arange(min(half, len(test))))[0])
    found = {name: quantiles(images, known) for name, images in sets.items()}
    if given.json:
        return print(json.dumps({"images_each": half, "quantiles": QUANTILES, **found}))
    print(f"The nearest training face of {half} faces each, by quantile:")
    for name, row in {"quantile": QUANTILES, **found}.items():
        print(f"{name:<10}" + "".join(f"{value:>9.3f}" for value in row))


if __name__ == "__main__":
    main()
