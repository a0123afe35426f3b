"""Does a GPU draw what the CPU draws, and how fast? Run it where there is one.

    python -m benchmarks.gpu [--device cuda] [--seconds 5]

compares one answer and a drawing of ten DDIM steps of each denoiser whose weights are here, in float32, and
trains digits for some seconds, is stopped, and resumes.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from pathlib import Path

import torch

from benchmarks import prepare
from lessons_lib import recipes
from lessons_lib.pipeline import GenerationRequest, generate_images, load_model
from lessons_lib.training import StepDone, Stopped
from lessons_lib.weights import WeightsError, read_card

DENOISERS = ("mnist-denoiser", "mnist-denoiser-v", "cifar10-denoiser", "celeba-denoiser")
TOLERANCE = 1e-3  # of images in [-1, 1] after ten steps


def compare(name: str, device: str, count: int = 20) -> dict:
    """The largest differences to the CPU, and images drawn a second at 100 a batch."""
    network, schedule, _ = load_model(name)
    labels = tuple(k % 10 if network.config.num_classes else 0 for k in range(count))
    guidance = "cfg" if network.config.num_classes else "none"
    request = GenerationRequest(labels, weights=name, guidance=guidance, sampler="ddim", steps=10)
    drawn = {place: generate_images(dataclasses.replace(request, device=place)) for place in ("cpu", device)}
    x_t, t = request.plan().x_T, torch.full((count,), schedule.num_timesteps // 2)
    with torch.no_grad():
        there = load_model(name, device)[0](x_t.to(device), t.to(device)).cpu()
        answers = float((there - network(x_t, t)).abs().max())
    many = dataclasses.replace(request, labels=labels * 5, device=device, precision="bf16")
    started = time.perf_counter()
    generate_images(many).cpu()
    speed = 5 * count / (time.perf_counter() - started)
    return {
        "answer": answers,
        "drawing": float((drawn["cpu"] - drawn[device].cpu()).abs().max()),
        "images_a_second": round(speed, 1),
    }


def train_and_resume(device: str, seconds: float) -> dict:
    """Images a second of a digit training that is stopped by the clock and goes on."""
    recipe = recipes.RECIPES["mnist", "denoiser-v"]
    with tempfile.TemporaryDirectory() as folder:
        config = dataclasses.replace(
            recipe.config, device=device, output_dir=Path(folder), max_seconds=seconds, batch_size=256
        )
        splits = recipes.load_splits("mnist", config)
        options = dataclasses.replace(recipe.options, sample_every=0)
        rows = []
        for resume in (False, True):
            config = dataclasses.replace(config, max_seconds=seconds * (2 if resume else 1))
            events = recipes.run_recipe(recipe, lambda: splits, config, options, resume=resume)
            steps = [event for event in events if isinstance(event, StepDone | Stopped)]
            first, last, end = steps[0], steps[-2], steps[-1]
            rows.append(
                {
                    "from": first.step,
                    "to": last.step,
                    "loss": last.loss,
                    "reason": end.reason,
                    "precision": end.precision,
                    "images_a_second": round(last.images_per_second),
                }
            )
    return {"first": rows[0], "resumed": rows[1]}


def main() -> None:
    """Compare and train; exit status 1 if a difference is above the tolerance."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=5, help="of each of two trainings")
    arguments = parser.parse_args()
    print(prepare(1))
    # Convolutions in TF32, PyTorch's default, keep ten bits: enough to draw with, too few to compare.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    worst = 0.0
    for name in DENOISERS:
        try:
            read_card(name)
        except WeightsError:
            continue
        row = compare(name, arguments.device)
        worst = max(worst, row["drawing"])
        print(name, row, flush=True)
    print(train_and_resume(arguments.device, arguments.seconds), flush=True)
    raise SystemExit(worst > TOLERANCE)


if __name__ == "__main__":
    main()
