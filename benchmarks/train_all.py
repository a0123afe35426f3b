"""Start, or go on with, the long trainings of denoisers and second judges: one command, stopped at will.

    python -m benchmarks.train_all [--minutes 170] [--only NAME,NAME] [--jobs 2] [--status] [--export]

So many at a time run as processes of one thread and the lowest priority, in the order of TRAININGS, until
all are finished or the minutes are over; a kill loses what came after the last checkpoint, minutes. Code and
checkpoints live in --folder, beside the checkout, where moving files does not disturb them: the code is
copied there once. A GPU is found by each training: take --jobs 1. --status says how far each is. --export
writes the raw and averaged weights so far, in half precision, to assets/weights/training/; where there is no
checkpoint, a training starts from those.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import torch

from benchmarks import ROOT

KEPT = ROOT / "assets" / "weights" / "training"
# Data set, model, and what else is said.
TRAININGS = {
    "mnist-denoiser-v": ("mnist", "denoiser-v", "--keep-epochs"),
    "mnist-second-judge": ("mnist", "second-judge"),
    "cifar10-second-judge": ("cifar10", "second-judge"),
    "celeba-second-judge": ("celeba", "second-judge"),
    "cifar10-denoiser-v": ("cifar10", "denoiser-v"),
    "celeba-denoiser-v": ("celeba", "denoiser-v"),
}


def command(name: str, folder: Path) -> list[str]:
    """What starts the training, or goes on with it."""
    dataset, model, *more = TRAININGS[name]
    words = [sys.executable, "-m", "lessons_lib", "train", dataset, "--model", model, *more]
    words += ["--output-dir", str(folder / name)]
    begun, kept = folder / name / "checkpoint.pt", KEPT / f"{name}-averaged.safetensors"
    return words + (["--resume"] if begun.exists() else ["--start", str(kept)] if kept.exists() else [])


def card(name: str, folder: Path) -> dict:
    """What the last session's end wrote of the training; empty before the first."""
    path = folder / name / f"{name}.json"
    return json.loads(path.read_text())["training"] if path.exists() else {}


def start(name: str, folder: Path) -> subprocess.Popen:
    """The training as a process; what it says goes to NAME.log."""
    code, partial = folder / "code", folder / "code.partial"
    if not code.exists():
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(ROOT / "lessons_lib", partial / "lessons_lib")
        partial.rename(code)
    environment = {"LESSONS_DATA": str(ROOT / "data")} | os.environ | {"OMP_NUM_THREADS": "1"}
    nice = [] if sys.platform == "win32" else ["nice", "-n", "19"]
    with open(folder / f"{name}.log", "a", encoding="utf-8") as log:
        # A session of its own: Ctrl-C reaches it once, from `run`, and it writes what it has.
        process = subprocess.Popen(
            [*nice, *command(name, folder)], cwd=code, env=environment, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
    (folder / f"{name}.pid").write_text(str(process.pid))
    return process


def is_running(name: str, folder: Path) -> bool:
    """Whether an earlier command's process trains it still."""
    path = folder / f"{name}.pid"
    try:
        return name in " ".join(psutil.Process(int(path.read_text())).cmdline())
    except (OSError, ValueError, psutil.Error):
        return False


def run(names: list[str], folder: Path, jobs: int, minutes: float) -> None:
    """Train what is not finished, `jobs` at a time, until all are or the time is over."""
    waiting = [name for name in names if card(name, folder).get("ended") != "finished"]
    for name in [name for name in waiting if is_running(name, folder)]:
        print(f"{name}: is being trained already", flush=True)
        waiting.remove(name)
    end, running = time.monotonic() + 60 * minutes, {}
    try:
        while (waiting or running) and time.monotonic() < end:
            for name in [name for name, process in running.items() if process.poll() is not None]:
                print(f"{name}: ended with status {running.pop(name).returncode}", flush=True)
            while waiting and len(running) < jobs:
                running[waiting[0]] = start(waiting[0], folder)
                print(f"{waiting.pop(0)}: started", flush=True)
            time.sleep(1)
    finally:
        for process in running.values():  # each writes its checkpoint and its weights
            process.send_signal(signal.SIGTERM if sys.platform == "win32" else signal.SIGINT)
        for name, process in running.items():
            print(f"{name}: stopped with status {process.wait()}", flush=True)


def status(name: str, folder: Path) -> str:
    """How far the last checkpoint is."""
    path = folder / name / "checkpoint.pt"
    if not path.exists():
        return "–"
    state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["state"]
    images = state["step"] * state["settings"]["batch_size"]
    now = "running" if is_running(name, folder) else card(name, folder).get("ended", "stopped")
    return f"{images:,} images in {state['seconds'] / 3600:.1f} h, {now}"


def export(name: str, folder: Path) -> None:
    """Raw and averaged weights so far, in half precision, with the card."""
    from lessons_lib.weights import load_pretrained, save_pretrained

    model, schedule, facts = load_pretrained(folder / name / f"{name}.safetensors")
    # Folders of this machine are nobody else's.
    facts["training"]["command"] = facts["training"].get("command", "").split(" --output-dir")[0]
    save_pretrained(KEPT / f"{name}-averaged.safetensors", model, schedule, facts)
    content = torch.load(folder / name / "checkpoint.pt", map_location="cpu", weights_only=True)
    model.load_state_dict(content["model"])
    save_pretrained(KEPT / f"{name}-raw.safetensors", model, schedule, facts)
    print(f"{name}: exported to {KEPT}")


def main() -> None:
    """Train, tell or export."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=ROOT.parent / "training")
    parser.add_argument("--only", default=",".join(TRAININGS), help="names, comma-separated")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time")
    parser.add_argument("--minutes", type=float, default=7 * 24 * 60, help="stop all after so long")
    parser.add_argument("--status", action="store_true", help="say how far each training is, and end")
    parser.add_argument("--export", action="store_true", help="write the weights so far, and end")
    arguments = parser.parse_args()
    names, folder = arguments.only.split(","), arguments.folder.resolve()
    if unknown := [name for name in names if name not in TRAININGS]:
        parser.error(f"there is no training {unknown[0]}: choose from {', '.join(TRAININGS)}")
    folder.mkdir(parents=True, exist_ok=True)
    if arguments.status or arguments.export:
        for name in names:
            print(f"{name}: {status(name, folder)}", flush=True)
            if arguments.export and card(name, folder).get("ended", "finished") != "finished":
                export(name, folder)
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that it ends what it started
    run(names, folder, arguments.jobs, arguments.minutes)


if __name__ == "__main__":
    main()
