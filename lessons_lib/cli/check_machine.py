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
from lessons_lib.cli.options import PROGRAM
from lessons_lib.pipeline import GenerationRequest, generate_images, load_model
from lessons_lib.unet import UNet

NEEDED = ("mnist-denoiser", "mnist-evaluator")


def check_machine() -> int:
    """Say in ten lines what this machine has, and what to do about what is missing."""
    is_known_python = (3, 11) <= sys.version_info[:2] <= (3, 13)
    is_known_torch = tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 11)
    vision, free = importlib.metadata.version("torchvision"), shutil.disk_usage(Path.cwd()).free
    threads = f"{torch.get_num_threads()} threads in use"
    rows = {
        "Python": (platform.python_version(), "" if is_known_python else "install Python 3.11, 3.12 or 3.13"),
        "torch": (
            f"{torch.__version__}, torchvision {vision}", "" if is_known_torch else "run: python lab.py lab"
        ),
        "device": _device(),
        "cores": (f"{os.cpu_count()} cores, {threads}, {platform.machine()}", ""),
        "memory": _memory(),
        "disk": (f"{free / 1e9:.0f} GB free here", "" if free > 1e9 else "free about 1 GB"),
        "data": _data(),
        "weights": _weights(),
        "forward": (_forward(), ""),
        "one digit": (_digit(), ""),
    }  # fmt: skip
    for name, (fact, advice) in rows.items():
        print(f"{name:<10}{fact}{f'  ->  {advice}' if advice else ''}")
    return int(any(rows[name][1] for name in ("Python", "torch", "weights")))


def _device() -> tuple[str, str]:
    if torch.cuda.is_available():
        gigabytes = torch.cuda.get_device_properties(0).total_memory / 1e9
        return f"{torch.cuda.device_count()} × {torch.cuda.get_device_name()}, {gigabytes:.0f} GB", ""
    if torch.backends.mps.is_available():
        return "CPU; an Apple GPU too", "used only with --device mps"
    return "CPU, which is enough for every lesson", ""


def _memory() -> tuple[str, str]:
    try:
        import psutil  # comes with accelerate
    except ImportError:
        return "unknown", ""
    memory = psutil.virtual_memory()
    advice = "" if memory.available > 2e9 else "close other programs: a lesson takes up to 2 GB"
    return f"{memory.total / 1e9:.0f} GB, {memory.available / 1e9:.0f} GB free", advice


def _data() -> tuple[str, str]:
    root = data.find_mnist()
    if root is None:
        advice = "the first training downloads MNIST (12 MB); without a network the embedded digits are used"
        return "no MNIST", advice
    try:
        counts = [len(data.load("mnist", split)) for split in data.SPLITS]
    except data.DataError as error:
        return "MNIST is damaged", str(error)
    project = Path(__file__).resolve().parents[2]
    shown = root.relative_to(project) if root.is_relative_to(project) else root
    return f"MNIST in {shown} ({counts[0]:,} + {sum(counts[1:]):,} images)", ""


def _weights() -> tuple[str, str]:
    usable, problems = [], []
    for name in NEEDED:
        try:
            usable.append(f"{name} ({load_model(name)[2]['parameters'] / 1e6:.1f} million)")
        except weights.WeightsError as error:
            problems.append(str(error))
    advice = f"{' '.join(problems)} Fetch the course again, or run: {PROGRAM} train mnist" if problems else ""
    return ", ".join(usable) or "none", advice


@torch.no_grad()
def _forward() -> str:
    model, times = UNet().eval(), []
    x, t = torch.zeros(1, 1, 28, 28), torch.zeros(1, dtype=torch.int64)
    for _ in range(15):
        started = time.perf_counter()
        model(x, t, t)
        times.append(time.perf_counter() - started)
    return f"{1000 * sorted(times)[len(times) // 2]:.1f} ms for one image through the U-Net on the CPU"


def _digit() -> str:
    try:
        for _ in range(2):  # the first call loads and warms up
            started = time.perf_counter()
            generate_images(GenerationRequest((7,)))
    except weights.WeightsError:
        return "needs the weights"
    return f"{1000 * (time.perf_counter() - started):.0f} ms with the default sampler and steps"
