"""Images drawn a second, and trained on a second, with one and with two processes of one thread each.

    python -m benchmarks.processes [--processes 1,2] [--num-samples 2000] [--train]

Two are started by `accelerate launch`. Starting up, and what `evaluate` measures after it has drawn, are left
out of the time. On a machine with fewer idle cores than processes the figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import ROOT, parser, prepare, show

LAUNCH = (
    "-m accelerate.commands.launch --multi_gpu --num_machines 1 --mixed_precision no --dynamo_backend no "
    "--main_process_port 0 --num_processes"
)


def run(count: int, words: str, threads: int) -> str:
    """What a command prints in so many processes."""
    launch = [*LAUNCH.split(), str(count)] if count > 1 else []
    mine = {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *launch, "-m", "lessons_lib", *words.split()]
    done = subprocess.run(command, env=os.environ | mine, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"With {count} processes the command ended with status {done.returncode}: see above.")
    return done.stdout


def drawn(count: int, options: argparse.Namespace) -> float:
    """Images drawn a second by `evaluate`, over all processes."""
    words = (
        f"evaluate {options.dataset} --json --num-samples {options.num_samples} "
        f"--batch-size {options.batch_size} --device {options.device}"
    )
    return 1 / json.loads(run(count, words, options.threads))["seconds_per_image"]


def trained(count: int, options: argparse.Namespace) -> float:
    """Images a second of the training loop, from its checkpoint's own clock."""
    import torch

    with tempfile.TemporaryDirectory() as folder:
        run(
            count,
            f"train {options.dataset} --model denoiser --sample-every 0 --max-seconds {options.seconds} "
            f"--batch-size {options.train_batch_size} --output-dir {folder} --device {options.device}",
            options.threads,
        )
        state = torch.load(Path(folder) / "checkpoint.pt", weights_only=True)["state"]
    return options.train_batch_size * state["step"] / state["seconds"]


def _options() -> argparse.Namespace:
    options = parser(__doc__, threads=1)
    options.add_argument("--processes", default="1,2", help="numbers of processes, the first to compare with")
    options.add_argument("--dataset", default="mnist")
    options.add_argument("--device", default="cpu")
    options.add_argument("--num-samples", type=int, default=2000)
    options.add_argument("--batch-size", type=int, default=100, help="images drawn at once by a process")
    options.add_argument("--train", action="store_true", help="measure the training, too")
    options.add_argument("--train-batch-size", type=int, default=64, help="of all processes together")
    options.add_argument("--seconds", type=int, default=120, help="of each training")
    return options.parse_args()


def main() -> None:
    """Measure each number of processes and print the figures with their ratio."""
    options = _options()
    counts = [int(part) for part in options.processes.split(",")]
    what = {"drawn": drawn} | ({"trained on": trained} if options.train else {})
    result = {"machine": prepare(options.threads), "num_samples": options.num_samples}
    rows = []
    for name, measure in what.items():
        found = {count: measure(count, options) for count in counts}
        result[f"images_{name}_per_second".replace(" ", "_")] = {k: round(v, 2) for k, v in found.items()}
        for count, rate in found.items():
            ratio = rate / found[counts[0]]
            label = f"images {name} a second, {count} process{'es' if count > 1 else ''}"
            rows.append((label, f"{rate:.2f} ({ratio:.2f} times)"))
    show(result, rows, options.json)


if __name__ == "__main__":
    main()
