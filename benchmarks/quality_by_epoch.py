"""How a training went: losses and the share read right after each epoch; lesson 03 shows the table.

    python -m lessons_lib train mnist --model denoiser --keep-epochs
    python -m benchmarks.quality_by_epoch runs/mnist-denoiser [--num-samples 500]

writes assets/results/03_epochs.csv from losses.json and the epoch_NNN.safetensors of the run's folder.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from benchmarks.sampling_steps import accuracy, write_table


def main() -> None:
    """Measure every epoch and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--num-samples", type=int, default=500)
    parser.add_argument("--precision", default="bf16")
    arguments = parser.parse_args()
    losses = json.loads((arguments.run / "losses.json").read_text())
    options = {
        "guidance_scale": 1.0,
        "sampler": "ddim",
        "steps": 25,
        "seed": 2024,
        "precision": arguments.precision,
    }
    rows = []
    for i, epoch in enumerate(losses["epochs"]):
        path = arguments.run / f"epoch_{epoch:03d}.safetensors"
        share = accuracy(arguments.num_samples, weights=path, **options)
        row = {name: round(losses[name][i], 5) for name in ("train_loss", "val_loss", "test_loss")}
        rows.append({"epoch": epoch, **row, "accuracy": share})
        print(f"epoch {epoch:3}: val loss {row['val_loss']:.4f}, {100 * share:.1f}%", flush=True)
    made_by = f"python -m benchmarks.quality_by_epoch RUN --num-samples {arguments.num_samples}"
    note = f"{arguments.num_samples} images a row, w=1, DDIM, 25 steps; made by: {made_by}"
    write_table("03_epochs.csv", note, rows)


if __name__ == "__main__":
    main()
