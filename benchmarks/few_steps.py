"""One call or many? Quality and milliseconds over 1 … 25 steps of the flow map and of its teacher's samplers.

    python -m benchmarks.few_steps [--num-samples 2000] [--precision bf16] [--minutes 60] [--repeats 20]
    python -m benchmarks.few_steps --times-only [--repeats 20] [--threads 2] [--json]
    python -m benchmarks.few_steps --counterfactuals 50 [--threads 1] [--json]

writes assets/results/13_steps.csv, a row a way, scale and number of steps. What was measured lies in
runs/samplers and is not measured again; a row that there was no time for is left out. --times-only measures
the milliseconds of the table's rows anew and nothing else: let the machine do nothing else then. With
--repeats 0 they are left empty. A step of the teacher at w = 2 asks its network twice, a step of the map
once: the table has steps and evaluations. --counterfactuals decodes inverted test digits to the ten targets,
by the teacher and by the map.
"""

from __future__ import annotations

import statistics
import time

import torch

from benchmarks import parser, prepare, show
from benchmarks.samplers import milliseconds, quality
from benchmarks.sampling_steps import RESULTS, write_table
from classroom.figures.curves import read_table
from lessons_lib import data
from lessons_lib.evaluation.judge import Judge
from lessons_lib.evaluation.quality import Share, predictions
from lessons_lib.flow_map import sample_flow_map
from lessons_lib.pipeline import CounterfactualRequest, GenerationRequest, load_model
from lessons_lib.schedules import spaced_timesteps

TABLE, MAP, TEACHER = "13_steps.csv", "mnist-flow-map", "mnist-denoiser-v"
Setting = tuple[str, float, int]  # the map's name or a sampler, w, steps
SCALES = (2.0, 1.0)
# What tells most comes first, since the rest may be left out: (way, steps), each at both scales.
ORDER = (
    *((MAP, n) for n in (1, 2, 4)), ("ddim", 10), *(("ddim", n) for n in (1, 2, 4)),
    *((sampler, n) for n in (1, 2, 4, 10) for sampler in ("dpmpp_2m", "ddpm")), (MAP, 10),
    ("ddim", 32), *((way, 25) for way in ("ddim", "dpmpp_2m", "ddpm", MAP)),
)  # fmt: skip
SETTINGS: list[Setting] = [(way, scale, steps) for way, steps in ORDER for scale in SCALES]


def asked(setting: Setting, labels: tuple[int, ...] = (0,), precision: str = "float32") -> GenerationRequest:
    """The same labels and seed give the same noises every way; the timesteps are even in t."""
    way, scale, steps = setting
    if way == MAP:
        return GenerationRequest(labels, MAP, guidance_scale=scale, steps=steps)
    fields = {"sampler": way, "spacing": "trailing", "precision": precision}
    return GenerationRequest(labels, TEACHER, guidance_scale=scale, steps=steps, **fields)


def row_of(setting: Setting, found: dict) -> dict:
    """A row of the table, without its times."""
    way, scale, steps = setting
    (low, high), fid, (second,) = found["accuracy"]["interval_95"], found["fid"], found["others"].values()
    return {
        "way": way, "guidance_scale": scale, "steps": steps,
        "evaluations": steps * (1 if way == MAP or scale == 1 else 2),
        "fid": fid["value"], "fid_floor": fid["floor"], "accuracy": found["accuracy"]["value"],
        "accuracy_low": low, "accuracy_high": high, "second_judge": second["value"],
        "diversity": found["diversity"],
    }  # fmt: skip


def measured(num_samples: int, precision: str, minutes: float) -> list[dict]:
    """The rows that there was time for, by way, scale and steps."""
    judge, second = Judge.load("mnist"), Judge.load("mnist", "mnist-second-judge")
    ends, rows = time.monotonic() + 60 * minutes, []
    for setting in SETTINGS:
        request = asked(setting, precision=precision)
        if found := quality(judge, request, num_samples, second, ended=time.monotonic() > ends):
            rows.append(row_of(setting, found))
    return sorted(rows, key=lambda row: (row["way"], row["guidance_scale"], row["steps"]))


def timed(rows: list[dict], repeats: int) -> list[dict]:
    """The rows with the milliseconds of a digit, alone and in a batch of 100; empty with no repeats."""
    if not repeats:
        return [row | {"milliseconds": "", "milliseconds_of_100": ""} for row in rows]
    settings = [(row["way"], float(row["guidance_scale"]), int(row["steps"])) for row in rows]
    alone = milliseconds({one: asked(one, (3,)) for one in settings}, repeats)
    many = tuple(k % 10 for k in range(100))
    batch = milliseconds({one: asked(one, many) for one in settings}, max(1, repeats // 10))
    return [
        row | {"milliseconds": round(alone[one], 1), "milliseconds_of_100": round(batch[one] / 100, 2)}
        for one, row in zip(settings, rows, strict=True)
    ]


def counterfactuals(count: int) -> dict[str, dict]:
    """Inverted test digits decoded to all ten targets at w = 3: by 25 steps of DDIM, and by the map.

    Shares and L1, in [0, 1] pixels, are of the nine other digits. Seconds are the processor's, of all threads
    together, for one row of ten.
    """
    judge, (flow_map, _, _) = Judge.load("mnist"), load_model(MAP)
    images, labels = data.load("mnist", "test").batch(torch.arange(count))
    targets, found = torch.arange(10), {}
    for x_0, y in zip(images, labels.tolist(), strict=True):
        request = CounterfactualRequest((y,), targets.tolist(), TEACHER, guidance_scale=3.0, steps=25)
        started, plan = time.process_time(), request.plan()
        abducted = plan.abduct(x_0[None])
        found.setdefault("inversion", []).append((time.process_time() - started,))
        state = abducted.x.expand(10, -1, -1, -1)
        ways = {"DDIM, 25 steps": plan.predict(abducted)}
        for n in (1, 2, 4):
            times = spaced_timesteps(flow_map.schedule.num_timesteps, n)
            ways[f"map, {n} calls"] = sample_flow_map(flow_map, state, targets, 3.0, times)
        for name, steps in ways.items():
            started = time.process_time()
            *_, last = steps
            seconds, drawn = time.process_time() - started, last.x_t.clamp(-1, 1)
            right = (predictions(judge.model, drawn) == targets)[targets != y]
            away = (drawn - x_0).abs().mean(dim=(1, 2, 3))[targets != y] / 2
            found.setdefault(name, []).append((seconds, right, away))
    return {name: _summary(*zip(*rows, strict=True)) for name, rows in found.items()}


def _summary(seconds: tuple, right: tuple = (), away: tuple = ()) -> dict:
    measured = {"read as the target": str(Share.of(torch.cat(right)))} if right else {}
    measured |= {"L1": round(float(torch.cat(away).mean()), 4)} if away else {}
    return measured | {"seconds": round(statistics.median(seconds), 3)}


def main() -> None:
    """Measure what was asked for and print it."""
    options = parser(__doc__)
    options.add_argument("--num-samples", type=int, default=2000)
    options.add_argument(
        "--precision", default="float32", help="of the teacher's quality, never of the times"
    )
    options.add_argument("--minutes", type=float, default=60, help="of drawing")
    options.add_argument("--repeats", type=int, default=20)
    options.add_argument("--times-only", action="store_true")
    options.add_argument("--counterfactuals", type=int, default=0, metavar="COUNT")
    arguments = options.parse_args()
    machine = prepare(arguments.threads)
    if count := arguments.counterfactuals:
        found = counterfactuals(count)
        lines = [
            (name, ", ".join(f"{what} {one}" for what, one in row.items())) for name, row in found.items()
        ]
        show({"rows": found, "machine": machine}, lines, arguments.json)
        return
    if arguments.times_only:
        whole = ("steps", "evaluations")
        rows = [row | {name: int(row[name]) for name in whole} for row in read_table(RESULTS / TABLE)]
        note = (RESULTS / TABLE).read_text(encoding="utf-8").splitlines()[0][2:].split("; times:")[0]
    else:
        rows = measured(arguments.num_samples, arguments.precision, arguments.minutes)
        words = f"--num-samples {arguments.num_samples} --precision {arguments.precision}"
        note = f"teacher {TEACHER}, steps even in t; made by: python -m benchmarks.few_steps {words}"
    rows = timed(rows, arguments.repeats)
    if arguments.repeats:
        note += f"; times: float32, {machine['cpu']}, {machine['threads']} threads"
    write_table(TABLE, note, rows)
    told = (
        "FID {fid:.3f}, read right {accuracy:.1%} and {second_judge:.1%}, diversity {diversity:.2f}, "
        "{milliseconds} ms, {milliseconds_of_100} in a batch"
    )
    lines = [
        ("{way}, w={guidance_scale:g}, {steps:g} steps".format_map(row), told.format_map(row)) for row in rows
    ]
    show({"rows": rows, "machine": machine}, lines, arguments.json)


if __name__ == "__main__":
    main()
