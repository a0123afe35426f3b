"""DDPM, DDIM and DPM-Solver++(2M): feature FID and accuracy against network evaluations and milliseconds.

    python -m benchmarks.samplers [--num-samples 2000] [--threads 2] [--repeats 20] [--json]

draws at w = 1 from the same noises, writes assets/results/10_samplers.csv, and says whether DPM-Solver++(2M)
at 10 evaluations is as good as DDIM at 30. What is measured lies in runs/samplers and is not measured again;
the times, of one digit at a time, are taken in each run: let the machine do nothing else then.
"""

from __future__ import annotations

import json
import statistics
import time

from benchmarks import ROOT, parser, prepare, show
from benchmarks.sampling_steps import write_table
from lessons_lib import weights
from lessons_lib.cli import evaluating
from lessons_lib.files import atomic_write
from lessons_lib.generation import GenerationRequest, generate_images

RUNS = ROOT / "runs" / "samplers"
NAME, SCALE = "mnist-denoiser", 1.0  # at w = 1 a step is one evaluation of the network
STEPS = {"dpmpp_2m": (5, 8, 10, 15, 20), "ddim": (5, 10, 20, 30, 50), "ddpm": (10, 25, 50, 100)}
CLAIM = (("dpmpp_2m", 10), ("ddim", 30))  # the first is no worse than the second


def quality(judge: evaluating.Judge, sampler: str, steps: int, num_samples: int) -> dict:
    """What `evaluate` measures; from the disk if it was measured with these weights before."""
    shas = f"{weights.read_card(NAME)['sha256'][:8]}-{judge.sha256[:8]}"
    path = RUNS / f"{sampler}-{steps}-{num_samples}-{shas}.json"
    if path.exists():
        return json.loads(path.read_text())
    wanted = {"guidance_scale": SCALE, "sampler": sampler, "steps": steps}
    result = evaluating.measure(judge, judge.reference(), NAME, wanted, num_samples, batch_size=100)
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(result))
    return result


def milliseconds(repeats: int) -> dict[tuple[str, int], float]:
    """Median milliseconds of one digit for every setting; they take turns, so a slow moment hits all."""
    settings = [(sampler, steps) for sampler, counts in STEPS.items() for steps in counts]
    times: dict[tuple[str, int], list[float]] = {setting: [] for setting in settings}
    for k in range(-1, repeats):
        for sampler, steps in settings:
            request = GenerationRequest(
                (k % 10,), NAME, guidance_scale=SCALE, sampler=sampler, steps=steps, seed=k + 1
            )
            started = time.perf_counter()
            generate_images(request)
            if k >= 0:
                times[sampler, steps].append(1000 * (time.perf_counter() - started))
    return {setting: statistics.median(mine) for setting, mine in times.items()}


def main() -> None:
    """Measure every row, write the table and print it."""
    options = parser(__doc__)
    options.add_argument("--num-samples", type=int, default=2000)
    options.add_argument("--repeats", type=int, default=20)
    arguments = options.parse_args()
    machine = prepare(arguments.threads)
    judge = evaluating.Judge.load("mnist", None, "cpu")
    RUNS.mkdir(parents=True, exist_ok=True)
    rows = []
    for sampler, counts in STEPS.items():
        for steps in counts:
            found = quality(judge, sampler, steps, arguments.num_samples)
            (low, high), fid = found["accuracy"]["interval_95"], found["fid"]
            rows.append({
                "sampler": sampler, "steps": steps, "fid": fid["value"], "fid_floor": fid["floor"],
                "accuracy": found["accuracy"]["value"], "accuracy_low": low, "accuracy_high": high,
                "diversity": found["diversity"],
            })  # fmt: skip
    took = milliseconds(arguments.repeats)
    for row in rows:
        row["milliseconds"] = round(took[row["sampler"], row["steps"]], 1)
    words = f"--num-samples {arguments.num_samples} --threads {arguments.threads}"
    note = f"w=1, {arguments.num_samples} samples; made by: python -m benchmarks.samplers {words}"
    write_table("10_samplers.csv", f"{note}; {machine['cpu']}, {machine['threads']} threads", rows)
    fids = {(row["sampler"], row["steps"]): row["fid"] for row in rows}
    fast, slow = (fids[setting] for setting in CLAIM)
    result = {"rows": rows, "claim_holds": fast <= slow, "machine": machine}
    lines = [
        (
            f"{row['sampler']}, {row['steps']} steps",
            f"FID {row['fid']:.3f}, read right {row['accuracy']:.1%}, {row['milliseconds']:.0f} ms a digit",
        )
        for row in rows
    ]
    told = f"FID {fast:.3f} against {slow:.3f}: {'holds' if fast <= slow else 'does not hold'}"
    lines.append(("DPM-Solver++(2M) at 10 no worse than DDIM at 30", told))
    show(result, lines, arguments.json)


if __name__ == "__main__":
    main()
