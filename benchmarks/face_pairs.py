"""Eight counterfactual pairs for the README and the card: drawn faces, and what becomes of each.

    python -m benchmarks.face_pairs --out assets/figures/12_pairs.png

The faces are the network's own: pictures of real people are not ours to publish. They are the first ones of
the seed whose attribute the evaluator reads clearly, and each is sent to the other answer; none is picked by
its result.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from lessons_lib import evaluation, weights
from lessons_lib.counterfactuals import in_8_bits
from lessons_lib.evaluation.task import face_defaults
from lessons_lib.images import save_png, to_grid
from lessons_lib.names import place_of
from lessons_lib.pipeline import (
    CounterfactualRequest,
    GenerationRequest,
    counterfactual_images,
    generate_images,
    load_model,
)

CLEAR = 0.15  # from 0 or 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="FILE.png")
    parser.add_argument("--attribute", default="Smiling")
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--precision", default="bf16")
    given = parser.parse_args()
    judge, _, card = load_model("celeba-evaluator")
    place = place_of(given.attribute, card["class_names"], "attribute")
    drawn = GenerationRequest(
        (0,) * 4 * given.count, "celeba-denoiser", "none", seed=given.seed, precision=given.precision
    )
    faces = in_8_bits(generate_images(drawn))
    read = evaluation.read_attributes(judge, faces)[:, place]
    chosen = ((read < CLEAR) | (read > 1 - CLEAR)).nonzero().flatten()[: given.count]
    targets = (read[chosen] < 0.5).long()
    request = CounterfactualRequest(
        tuple((1 - targets).tolist()), tuple(targets.tolist()), "celeba-denoiser", guidance="classifier",
        attribute=given.attribute, precision=given.precision,
    )  # fmt: skip
    images = counterfactual_images(face_defaults(request), faces[chosen])
    rows = torch.cat([faces[chosen], images])
    save_png(given.out, to_grid(rows, columns=len(chosen), scale=2))
    after = evaluation.read_attributes(judge, in_8_bits(images))[:, place]
    flipped = evaluation.Share(int(((after >= 0.5) == (targets == 1)).sum()), len(chosen))
    sha = weights.read_card("celeba-denoiser")["sha256"][:12]
    print(f"{given.attribute}: {flipped.successes} of {flipped.total} flipped; denoiser {sha}…; {given.out}")


if __name__ == "__main__":
    main()
