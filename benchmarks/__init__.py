"""The programs behind every figure of speed and quality that the project quotes; see README.md."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def parser(doc: str, threads: int = 2) -> argparse.ArgumentParser:
    """A parser with what every benchmark offers."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--threads", type=int, default=threads, help="threads of torch")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    return parser


def prepare(threads: int) -> dict:
    """Set the number of threads, keep freed memory as the command line does, and say what machine this is."""
    import torch

    from lessons_lib.memory import keep_freed_memory

    keep_freed_memory()
    torch.set_num_threads(threads)
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def summary(seconds: list[float]) -> dict:
    """Median, and the range of the middle 80%, in milliseconds."""
    ordered = sorted(1000 * s for s in seconds)
    tenth = len(ordered) // 10
    low, high = ordered[tenth], ordered[-1 - tenth]
    return {
        "median_ms": round(statistics.median(ordered), 2),
        "low_ms": round(low, 2),
        "high_ms": round(high, 2),
    }


def show(result: dict, rows: list[tuple[str, str]], as_json: bool) -> None:
    """Print the whole result as JSON, or the rows for people with the machine below."""
    if as_json:
        print(json.dumps(result))
        return
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")
    machine = result["machine"]
    print(
        f"{machine['threads']} threads, torch {machine['torch']}, {machine['cores']} cores, {machine['cpu']}"
    )
