"""How many steps does sampling need? Accuracy by sampler, guidance scale and steps, for lesson 04.

    python -m benchmarks.sampling_steps [--num-samples 1000] [--precision bf16]

writes assets/results/04_steps.csv: the share of images that the evaluator reads as the digit asked for.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import torch

from lessons_lib.files import atomic_write
from lessons_lib.pipeline import GenerationRequest, generate_images, load_model

RESULTS = Path(__file__).resolve().parent.parent / "assets" / "results"
STEPS = (2, 3, 5, 10, 25, 50)
CURVES = (("ddim", 1.0), ("ddim", 2.0), ("ddpm", 2.0))


def accuracy(num_samples: int, chunk: int = 250, **options) -> float:
    """The share of num_samples images, the classes in turn, that the evaluator reads as asked."""
    evaluator, _, _ = load_model("mnist-evaluator")
    right = 0
    for start in range(0, num_samples, chunk):
        indices = tuple(range(start, min(start + chunk, num_samples)))
        labels = tuple(k % 10 for k in indices)
        images = generate_images(GenerationRequest(labels, sample_indices=indices, **options))
        right += int((evaluator.probabilities(images).argmax(1) == torch.tensor(labels)).sum())
    return right / num_samples


def write_table(name: str, note: str, rows: list[dict]) -> None:
    """Write rows as a CSV file with a first line that says how it was made."""
    with atomic_write(RESULTS / name) as path, open(path, "w", newline="", encoding="utf-8") as file:
        file.write(f"# {note}\n")
        writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    """Measure every point and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-samples", type=int, default=1000)
    parser.add_argument("--precision", default="bf16")
    arguments = parser.parse_args()
    rows = []
    for sampler, scale in CURVES:
        for steps in STEPS:
            options = {"guidance_scale": scale, "sampler": sampler, "steps": steps, "seed": 2024}
            share = accuracy(arguments.num_samples, precision=arguments.precision, **options)
            rows.append({"sampler": sampler, "guidance_scale": scale, "steps": steps, "accuracy": share})
            print(f"{sampler} w={scale:g} {steps:3} steps: {100 * share:.1f}%", flush=True)
    options = f"--num-samples {arguments.num_samples} --precision {arguments.precision}"
    command = f"python -m benchmarks.sampling_steps {options}"
    write_table("04_steps.csv", f"{arguments.num_samples} images a row; made by: {command}", rows)


if __name__ == "__main__":
    main()
