"""Does the denoiser repeat its training faces? The nearest one of each drawn face, beside that of test faces.

    python -m benchmarks.nearest_faces

A copy would lie far nearer to its training face than a face that was never trained on. Distances are mean
absolute differences in [0, 1] pixels, to the training faces and their mirror images, after a 4×4 mean: fine
detail never agrees, not even in a copy.
"""

from __future__ import annotations

import argparse
import json

import torch
import torch.nn.functional as F
from torch import Tensor

from lessons_lib import data
from lessons_lib.pipeline import GenerationRequest, generate_images, in_chunks


def coarse(images: Tensor) -> Tensor:
    """[N, 3, S, S] in [-1, 1] -> [N, F], the means over 4×4 pixels in [0, 1]."""
    return F.avg_pool2d((images + 1) / 2, 4).flatten(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-samples", type=int, default=200)
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    train, test = (data.load("celeba", split) for split in ("train", "test"))
    known = [train.batch(part)[0] for part in torch.arange(len(train)).split(500)]
    known = torch.cat([coarse(each) for images in known for each in (images, images.flip(3))])
    asked = GenerationRequest((0,) * given.num_samples, "celeba-denoiser", "none", precision=given.precision)
    drawn = torch.cat([generate_images(part) for part in in_chunks(asked, 50)])
    result = {"num_samples": given.num_samples, "training_faces": len(train)}
    for name, images in {"drawn": drawn, "test": test.batch(torch.arange(given.num_samples))[0]}.items():
        nearest = (torch.cdist(coarse(images), known, p=1) / known.shape[1]).min(dim=1).values
        result[name] = {
            "nearest": round(float(nearest.min()), 4),
            "median": round(float(nearest.median()), 4),
        }
    if given.json:
        return print(json.dumps(result))
    for name in ("drawn", "test"):
        found = result[name]
        words = f"the nearest training face at {found['nearest']:.3f}, median {found['median']:.3f}"
        print(f"{name:<6} faces: {words}")


if __name__ == "__main__":
    main()
