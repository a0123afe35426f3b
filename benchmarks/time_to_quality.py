"""How good is a denoiser after so many minutes of training from scratch on this machine's CPU?

    python -m benchmarks.time_to_quality [--minutes 10] [--num-samples 1000] [--threads 2] [--json]

The clock starts before the library is imported and covers all that `train mnist --model denoiser` does,
except the grids of samples; then the evaluator reads samples at w = 2.
"""

from __future__ import annotations

import dataclasses
import functools
import tempfile
import time
from pathlib import Path

from benchmarks import parser, prepare, show

STARTED = time.monotonic()
SCALE, SAMPLER, STEPS = 2.0, "ddim", 25


def train(minutes: float, folder: Path):
    """Run the recipe until the clock says stop; returns the weights' path and the seconds since the start."""
    import accelerate  # noqa: F401  what takes seconds comes before the rest of the time is counted

    from lessons_lib import data, recipes

    for split in data.SPLITS:
        data.load("mnist", split)
    left = 60 * minutes - (time.monotonic() - STARTED)
    recipe = recipes.RECIPES["mnist", "denoiser"]
    config = dataclasses.replace(recipe.config, max_seconds=left, device="cpu", output_dir=folder)
    options = recipes.DiffusionOptions(sample_every=0)
    sets = functools.partial(recipes.load_splits, "mnist", config)
    for event in recipes.run_recipe(recipe, sets, config, options):
        if isinstance(event, recipes.WeightsSaved):
            return event.path, time.monotonic() - STARTED
    raise RuntimeError("The recipe ended without weights.")


def read_right(path: Path, num_samples: int):
    """The share of samples, the classes in turn, that the evaluator reads as asked."""
    import torch

    from lessons_lib import evaluation
    from lessons_lib.pipeline import GenerationRequest, generate_images, in_chunks, load_model

    labels = [k % 10 for k in range(num_samples)]
    request = GenerationRequest(labels, weights=path, guidance_scale=SCALE, sampler=SAMPLER, steps=STEPS)
    images = torch.cat([generate_images(part) for part in in_chunks(request, 100)])
    return evaluation.accuracy(load_model("mnist-evaluator")[0], images, torch.tensor(labels)).overall


def main() -> None:
    """Train, measure and print."""
    options = parser(__doc__)
    options.add_argument("--minutes", type=float, default=10)
    options.add_argument("--num-samples", type=int, default=1000)
    arguments = options.parse_args()
    machine = prepare(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        from lessons_lib import weights

        path, seconds = train(arguments.minutes, Path(folder))
        card, share = weights.read_card(path), read_right(path, arguments.num_samples)
    training = card["training"]
    result = {
        "minutes": round(seconds / 60, 2),
        "images_seen": training["images_seen"],
        "data": training["data"],
        "ended": training["ended"],
        "precision": training["settings"]["precision"],
        "settings": f"cfg, w={SCALE:g}, {SAMPLER}, {STEPS} steps",
        "accuracy": {"value": share.value, "interval_95": share.interval, "num_samples": share.total},
        "machine": machine,
    }
    rows = [
        ("training", f"{seconds / 60:.1f} minutes from scratch, {training['images_seen']:,} images seen"),
        ("data", training["data"]),
        (f"read right at {result['settings']}", f"{share}, {share.total} samples"),
    ]
    show(result, rows, arguments.json)


if __name__ == "__main__":
    main()
