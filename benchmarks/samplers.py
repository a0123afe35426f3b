"""DDPM, DDIM and DPM-Solver++(2M): quality against network evaluations and milliseconds.

    python -m benchmarks.samplers [--num-samples 2000] [--threads 2] [--repeats 20] [--json]

draws at w = 1 from the same noises and writes assets/results/10_samplers.csv: feature FID, accuracy, the
distance to where the exact curve from the same noise ends (a solution in 200 steps), and milliseconds. It
says whether the FID of DPM-Solver++(2M) at 10 evaluations is no worse than DDIM's at 30. What is measured
lies in runs/samplers and is not measured again; the times, of one digit at a time, are taken in each run:
let the machine do nothing else then.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Hashable, Mapping
from dataclasses import replace

from torch import Tensor

from benchmarks import ROOT, parser, prepare, show
from benchmarks.sampling_steps import write_table
from lessons_lib import weights
from lessons_lib.evaluation.judge import Judge
from lessons_lib.evaluation.quality import accuracy, labels_by_frequency
from lessons_lib.evaluation.task import Classes
from lessons_lib.files import atomic_write
from lessons_lib.pipeline import GenerationRequest, generate_images

RUNS = ROOT / "runs" / "samplers"
NAME, SCALE = "mnist-denoiser", 1.0  # at w = 1 a step is one evaluation of the network
Setting = tuple[str, str, int]  # sampler, spacing, steps
STEPS = {
    ("dpmpp_2m", "trailing"): (5, 10, 15, 20),
    ("ddim", "trailing"): (5, 10, 20, 30, 50),
    ("ddpm", "trailing"): (10, 25, 50),
    ("dpmpp_2m", "logsnr"): (5, 8, 10, 15, 20),
}
SETTINGS: list[Setting] = [(*way, steps) for way, counts in STEPS.items() for steps in counts]
# Of the first the FID is no worse than of the second; the steps of both lie alike.
CLAIM = (("dpmpp_2m", "trailing", 10), ("ddim", "trailing", 30))
EXACT: Setting = ("dpmpp_2m", "logsnr", 200)
NOISES = 50  # for the distance


def quality(
    judge: Judge, request: GenerationRequest, num_samples: int, *others: Judge, ended: bool = False
) -> dict | None:
    """What `evaluate` measures, and in "others" the share that other judges read right.

    From the disk if it was measured with these weights before; None if it was not and the time has ended.
    """
    shas = f"{weights.read_card(request.weights)['sha256'][:8]}-{judge.sha256[:8]}"
    way = f"{request.sampler}-{request.spacing}-{request.steps}-w{request.guidance_scale:g}"
    path = RUNS / f"{way}-{request.precision}-{num_samples}-{len(others)}-{shas}.json"
    if path.exists() or ended:
        return json.loads(path.read_text()) if path.exists() else None
    drawn = []
    task = Classes(
        judge=judge, num_samples=num_samples,
        draw=lambda *asked: drawn.append(Classes.draw(*asked)) or drawn[-1],
    )  # fmt: skip
    result = task.measure(task.plan(request))
    labels = labels_by_frequency(judge.reference.class_counts, num_samples)
    result["others"] = {one.name: accuracy(one.model, drawn[0], labels).overall.as_json() for one in others}
    RUNS.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(result))
    return result


def asked(setting: Setting, labels: tuple[int, ...] = (0,), seed: int = 0) -> GenerationRequest:
    """Of the lessons' network at w = 1; equal seeds get equal noises."""
    sampler, spacing, steps = setting
    return GenerationRequest(
        labels, NAME, guidance_scale=SCALE, sampler=sampler, spacing=spacing, steps=steps, seed=seed
    )


def drawn(setting: Setting, labels: tuple[int, ...], seed: int) -> Tensor:
    """Images [N, C, H, W]."""
    return generate_images(asked(setting, labels, seed))


def distances() -> dict[Setting, float]:
    """Mean absolute distance, in [0, 1] pixels, to where the exact curve ends; DDPM follows no curve."""
    labels = tuple(k % 10 for k in range(NOISES))
    exact = drawn(EXACT, labels, seed=11)
    return {
        setting: float((drawn(setting, labels, seed=11) - exact).abs().mean()) / 2
        for setting in SETTINGS
        if setting[0] != "ddpm"
    }


def milliseconds(requests: Mapping[Hashable, GenerationRequest], repeats: int) -> dict[Hashable, float]:
    """Median milliseconds of drawing each request; they take turns, so a slow moment hits all."""
    times: dict[Hashable, list[float]] = {name: [] for name in requests}
    for k in range(-1, repeats):
        for name, request in requests.items():
            started = time.perf_counter()
            generate_images(replace(request, seed=k + 1))
            if k >= 0:
                times[name].append(1000 * (time.perf_counter() - started))
    return {name: statistics.median(mine) for name, mine in times.items()}


def row_of(setting: Setting, found: dict, distance: float | None, took: float) -> dict:
    """A row of the table."""
    (low, high), fid = found["accuracy"]["interval_95"], found["fid"]
    return {
        "sampler": setting[0], "spacing": setting[1], "steps": setting[2],
        "fid": fid["value"], "fid_floor": fid["floor"], "accuracy": found["accuracy"]["value"],
        "accuracy_low": low, "accuracy_high": high, "diversity": found["diversity"],
        "distance": "" if distance is None else round(distance, 5), "milliseconds": round(took, 1),
    }  # fmt: skip


def main() -> None:
    """Measure every row, write the table and print it."""
    options = parser(__doc__)
    options.add_argument("--num-samples", type=int, default=2000)
    options.add_argument("--repeats", type=int, default=20)
    arguments = options.parse_args()
    machine = prepare(arguments.threads)
    judge = Judge.load("mnist")
    found = {setting: quality(judge, asked(setting), arguments.num_samples) for setting in SETTINGS}
    away = distances()
    took = milliseconds({setting: asked(setting, (3,)) for setting in SETTINGS}, arguments.repeats)
    rows = [row_of(setting, found[setting], away.get(setting), took[setting]) for setting in SETTINGS]
    words = f"--num-samples {arguments.num_samples} --threads {arguments.threads}"
    note = f"w=1, {arguments.num_samples} samples; made by: python -m benchmarks.samplers {words}"
    write_table("10_samplers.csv", f"{note}; {machine['cpu']}, {machine['threads']} threads", rows)
    fast, slow = (found[setting]["fid"]["value"] for setting in CLAIM)
    result = {"rows": rows, "claim_holds": fast <= slow, "machine": machine}
    lines = [
        (
            f"{row['sampler']}, {row['spacing']}, {row['steps']} steps",
            f"FID {row['fid']:.3f}, read right {row['accuracy']:.1%}, distance {row['distance'] or '–'}, "
            f"{row['milliseconds']:.0f} ms a digit",
        )
        for row in rows
    ]
    told = f"FID {fast:.3f} against {slow:.3f}: {'holds' if fast <= slow else 'does not hold'}"
    lines.append(("DPM-Solver++(2M) at 10 no worse than DDIM at 30", told))
    show(result, lines, arguments.json)


if __name__ == "__main__":
    main()
