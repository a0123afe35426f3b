"""python -m lessons_lib check-machine: what this machine has, and what to do about what is missing."""

import importlib.metadata
import os
import platform
import shutil
import statistics
import sys
import timeit
from pathlib import Path

import psutil
import torch

from lessons_lib import data, weights
from lessons_lib.cli.options import PROGRAM
from lessons_lib.pipeline import GenerationRequest, generate_images, load_model
from lessons_lib.unet import UNet

NEEDED = ("mnist-denoiser", "mnist-evaluator")


def check_machine() -> int:
    """Say in ten lines what this machine has, and what to do about what is missing."""
    is_known_python = (3, 11) <= sys.version_info[:2] <= (3, 13)
    is_known_torch = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 11)
    vision, free = importlib.metadata.version("torchvision"), shutil.disk_usage(Path.cwd()).free
    memory, threads = psutil.virtual_memory(), f"{torch.get_num_threads()} threads in use"
    rows = [  # name, fact, whether it is good, what to do if not
        ("Python", platform.python_version(), is_known_python, "install Python 3.11, 3.12 or 3.13"),
        ("torch", f"{torch.__version__}, torchvision {vision}", is_known_torch, "run: python lab.py lab"),
        ("device", _device()),
        ("cores", f"{os.cpu_count()} cores, {threads}, {platform.machine()}"),
        ("memory", f"{memory.total / 1e9:.0f} GB, {memory.available / 1e9:.0f} GB free",
         memory.available > 2e9, "close other programs: a lesson takes up to 2 GB"),
        ("disk", f"{free / 1e9:.0f} GB free here", free > 1e9, "free about 1 GB"),
        ("data", *_data()),
        ("weights", *_weights()),
        ("forward", _forward()),
        ("one digit", _digit()),
    ]  # fmt: skip
    is_good = {}
    for name, fact, *advice in rows:
        is_good[name] = not advice or advice[0]
        print(f"{name:<10}{fact}{'' if is_good[name] else f'  ->  {advice[1]}'}")
    return int(not (is_good["Python"] and is_good["torch"] and is_good["weights"]))


def _device() -> str:
    if torch.cuda.is_available():
        gigabytes = torch.cuda.get_device_properties(0).total_memory / 1e9
        return f"{torch.cuda.device_count()} × {torch.cuda.get_device_name()}, {gigabytes:.0f} GB"
    if torch.backends.mps.is_available():
        return "CPU; an Apple GPU too, used only with --device mps"
    return "CPU, which is enough for every lesson"


def _data() -> tuple[str, bool, str]:
    root = data.find_mnist()
    if root is None:
        advice = "the first training downloads MNIST (12 MB); without a network the embedded digits are used"
        return "no MNIST", False, advice
    try:
        counts = [len(data.load("mnist", split)) for split in data.SPLITS]
    except data.DataError as error:
        return "MNIST is damaged", False, str(error)
    project = Path(__file__).resolve().parents[2]
    shown = root.relative_to(project) if root.is_relative_to(project) else root
    return f"MNIST in {shown} ({counts[0]:,} + {sum(counts[1:]):,} images)", True, ""


def _weights() -> tuple[str, bool, str]:
    try:
        sizes = {name: load_model(name)[2]["parameters"] / 1e6 for name in NEEDED}
    except weights.WeightsError as error:
        return "not all", False, f"{error} Fetch the course again, or run: {PROGRAM} train mnist"
    return ", ".join(f"{name} ({size:.1f} million)" for name, size in sizes.items()), True, ""


@torch.no_grad()
def _forward() -> str:
    model, x, t = UNet().eval(), torch.zeros(1, 1, 28, 28), torch.zeros(1, dtype=torch.int64)
    seconds = statistics.median(timeit.repeat(lambda: model(x, t, t), number=1, repeat=15))
    return f"{1000 * seconds:.1f} ms for one image through the U-Net on the CPU"


def _digit() -> str:
    request = GenerationRequest((7,))
    try:  # the first call loads and warms up
        _, seconds = timeit.repeat(lambda: generate_images(request), number=1, repeat=2)
    except weights.WeightsError:
        return "needs the weights"
    return f"{1000 * seconds:.0f} ms with the default sampler and steps"
