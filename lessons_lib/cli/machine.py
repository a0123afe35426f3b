"""python -m lessons_lib check-machine: what this machine has, and what to do about what is missing."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
import time
from pathlib import Path

import torch

from lessons_lib import data, weights
from lessons_lib.cli import PROGRAM
from lessons_lib.pipeline import GenerationRequest, generate_images, load_model
from lessons_lib.unet import UNet

NEEDED = ("mnist-denoiser", "mnist-evaluator")


def run() -> int:
    """Print ten lines; returns 1 if something must be done before the lessons work, else 0."""
    rows = [
        _python(),
        _torch(),
        _device(),
        _cores(),
        _memory(),
        _disk(),
        _data(),
        _weights(),
        _forward(),
        _digit(),
    ]
    for name, found, advice in rows:
        print(f"{name:<10}{found}{f'  ->  {advice}' if advice else ''}")
    return int(any(advice and name in ("Python", "torch", "weights") for name, _, advice in rows))


Row = tuple[str, str, str]  # what it is, what was found, what to do


def _python() -> Row:
    fits = (3, 11) <= sys.version_info[:2] <= (3, 13)
    return "Python", platform.python_version(), "" if fits else "install Python 3.11, 3.12 or 3.13"


def _torch() -> Row:
    major, minor = (int(part) for part in torch.__version__.split(".")[:2])
    vision = importlib.metadata.version("torchvision")
    advice = "" if (major, minor) >= (2, 11) else "run: python lab.py lab"
    return "torch", f"{torch.__version__}, torchvision {vision}", advice


def _device() -> Row:
    if torch.cuda.is_available():
        gigabytes = torch.cuda.get_device_properties(0).total_memory / 1e9
        return (
            "device",
            f"{torch.cuda.device_count()} × {torch.cuda.get_device_name()}, {gigabytes:.0f} GB",
            "",
        )
    if torch.backends.mps.is_available():
        return "device", "CPU; an Apple GPU too", "used only with --device mps"
    return "device", "CPU, which is enough for every lesson", ""


def _cores() -> Row:
    return (
        "cores",
        f"{os.cpu_count()} cores, {torch.get_num_threads()} threads in use, {platform.machine()}",
        "",
    )


def _memory() -> Row:
    try:
        import psutil  # comes with accelerate
    except ImportError:
        return "memory", "unknown", ""
    memory = psutil.virtual_memory()
    advice = "" if memory.available > 2e9 else "close other programs: a lesson takes up to 2 GB"
    return "memory", f"{memory.total / 1e9:.0f} GB, {memory.available / 1e9:.0f} GB free", advice


def _disk() -> Row:
    free = shutil.disk_usage(Path.cwd()).free
    return "disk", f"{free / 1e9:.0f} GB free here", "" if free > 1e9 else "free about 1 GB"


def _data() -> Row:
    root = data.find_mnist()
    if root is None:
        advice = "the first training downloads MNIST (12 MB); without a network the embedded digits are used"
        return "data", "no MNIST", advice
    try:
        counts = [len(data.load("mnist", split)) for split in data.SPLITS]
    except data.DataError as error:
        return "data", "MNIST is damaged", str(error)
    project = Path(__file__).resolve().parents[2]
    shown = root.relative_to(project) if root.is_relative_to(project) else root
    return "data", f"MNIST in {shown} ({counts[0]:,} + {sum(counts[1:]):,} images)", ""


def _weights() -> Row:
    found, problems = [], []
    for name in NEEDED:
        try:
            _, _, card = load_model(name)
            found.append(f"{name} ({card['parameters'] / 1e6:.1f} million)")
        except weights.WeightsError as error:
            problems.append(str(error))
    advice = f"{' '.join(problems)} Fetch the course again, or run: {PROGRAM} train mnist" if problems else ""
    return "weights", ", ".join(found) or "none", advice


def _forward() -> Row:
    model = UNet().eval()
    x, t = torch.zeros(1, 1, 28, 28), torch.zeros(1, dtype=torch.int64)
    times = []
    with torch.no_grad():
        for _ in range(15):
            started = time.perf_counter()
            model(x, t, t)
            times.append(time.perf_counter() - started)
    return (
        "forward",
        f"{1000 * sorted(times)[len(times) // 2]:.1f} ms for one image through the U-Net on the CPU",
        "",
    )


def _digit() -> Row:
    try:
        generate_images(GenerationRequest((7,)))  # the first call loads and warms up
        started = time.perf_counter()
        generate_images(GenerationRequest((7,)))
        return (
            "one digit",
            f"{1000 * (time.perf_counter() - started):.0f} ms with the default sampler and steps",
            "",
        )
    except weights.WeightsError:
        return "one digit", "needs the weights", ""
