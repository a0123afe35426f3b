"""How long does one digit take, is it the right digit, and what does each way of guidance cost?

    python -m benchmarks.latency [--repeats 50] [--num-samples 500] [--threads 2] [--json]

draws one digit at a time with the card's own sampler and steps.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from benchmarks import ROOT, parser, prepare, show, summary

WEIGHTS = "mnist-denoiser"
FRESH = f"""
import time
started = time.perf_counter()
from lessons_lib.pipeline import load_model
load_model({WEIGHTS!r})
print(time.perf_counter() - started)
"""


def seconds_to_ready(repeats: int) -> float:
    """Median seconds of a fresh process from the import of the library to loaded weights."""
    runs = [
        subprocess.run([sys.executable, "-c", FRESH], cwd=ROOT, capture_output=True, text=True, check=True)
        for _ in range(repeats)
    ]
    return statistics.median(float(run.stdout) for run in runs)


def seconds_a_digit(repeats: int) -> list[float]:
    """Seconds of each of `repeats` digits, the classes in turn, after three to warm up."""
    from lessons_lib.pipeline import GenerationRequest, generate_images

    times = []
    for k in range(-3, repeats):
        started = time.perf_counter()
        generate_images(GenerationRequest((k % 10,), weights=WEIGHTS, seed=k + 3))
        if k >= 0:
            times.append(time.perf_counter() - started)
    return times


def seconds_a_live_digit(repeats: int) -> list[float]:
    """The same for the flow map in its panel: the digit drawn, read and put into the page's bytes."""
    from classroom.panels import DigitGenerator
    from classroom.panels.drawing import finished

    panel, times = DigitGenerator("mnist-flow-map", simple=True), []
    panel.wait()
    for k in range(-3, repeats):
        started = time.perf_counter()
        finished(panel.draw(digit=k % 10, guidance_scale=(k + 3) % 9)).ended().encoded()
        if k >= 0:
            times.append(time.perf_counter() - started)
    return times


# Each way of guidance, as fields of a request; the first is what the others are held against.
WAYS = {
    "unguided": {"guidance": "none"},
    "classifier-free guidance": {"guidance": "cfg"},
    "classifier guidance": {"guidance": "classifier"},
    "guidance by the estimate": {"guidance": "classifier-x0", "classifier": "mnist-clean-classifier"},
}


def cost_of_guidance(repeats: int) -> dict[str, dict]:
    """Median milliseconds of a digit each way, and how many times an unguided one's that is.

    The ways take turns, so a slow moment of the machine hits all of them.
    """
    from lessons_lib.pipeline import GenerationRequest, generate_images

    times: dict[str, list[float]] = {way: [] for way in WAYS}
    for k in range(-2, repeats):
        for way, fields in WAYS.items():
            started = time.perf_counter()
            generate_images(GenerationRequest((k % 10,), weights=WEIGHTS, seed=k + 2, **fields))
            if k >= 0:
                times[way].append(time.perf_counter() - started)
    found = {way: summary(mine) for way, mine in times.items()}
    base = found["unguided"]["median_ms"]
    return {way: mine | {"times_unguided": round(mine["median_ms"] / base, 2)} for way, mine in found.items()}


def read_right(num_samples: int):
    """The share of images, drawn with the same settings, that the evaluator reads as asked."""
    import torch

    from lessons_lib import evaluation
    from lessons_lib.pipeline import GenerationRequest, generate_images, in_chunks, load_model

    labels = [k % 10 for k in range(num_samples)]
    request = GenerationRequest(labels, weights=WEIGHTS, seed=1)
    images = torch.cat([generate_images(part) for part in in_chunks(request, 100)])
    return evaluation.accuracy(load_model("mnist-evaluator")[0], images, torch.tensor(labels)).overall


def main() -> None:
    """Measure and print."""
    options = parser(__doc__)
    options.add_argument("--repeats", type=int, default=50)
    options.add_argument("--num-samples", type=int, default=500)
    arguments = options.parse_args()
    machine = prepare(arguments.threads)
    ready = seconds_to_ready(5)

    from lessons_lib.pipeline import GenerationRequest

    used = GenerationRequest((0,), weights=WEIGHTS).plan().request
    digit, share = summary(seconds_a_digit(arguments.repeats)), read_right(arguments.num_samples)
    live = summary(seconds_a_live_digit(arguments.repeats))
    costs = cost_of_guidance(arguments.repeats)
    settings = f"cfg, w={used.guidance_scale:g}, {used.sampler}, {used.steps} steps"
    result = {
        "settings": settings,
        "repeats": arguments.repeats,
        "digit": digit,
        "live_digit": live,
        "accuracy": {"value": share.value, "interval_95": share.interval, "num_samples": share.total},
        "guidance": costs,
        "import_and_load_seconds": round(ready, 2),
        "machine": machine,
    }
    rows = [
        (
            f"one digit ({settings})",
            f"{digit['median_ms']:.0f} ms, 80% within {digit['low_ms']:.0f} to {digit['high_ms']:.0f}",
        ),
        ("one digit of the flow map, drawn, read and encoded", f"{live['median_ms']:.1f} ms"),
        *(
            (f"one digit, {way}", f"{cost['median_ms']:.0f} ms, {cost['times_unguided']:.2f} × unguided")
            for way, cost in costs.items()
        ),
        ("read right", f"{share}, {share.total} samples"),
        ("import of the library and load of the weights", f"{ready:.1f} s"),
    ]
    show(result, rows, arguments.json)


if __name__ == "__main__":
    main()
