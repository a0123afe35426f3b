"""How good do lesson 14's solutions become in 1, 3 and 10 minutes of training on a laptop's CPU?

    nice python -m benchmarks.blank_page SEED … [--steps 3600] [--num-samples 500] [--rate]

Trains the solutions' own functions (they are read out of the notebook) for a number of steps, not of seconds,
so that a busy machine gives the same numbers: `--rate` says how many steps this one makes in a second.
For each seed it writes runs/blank_page/SEED.json, and of all seeds there assets/results/14_blank_page.csv.
"""

from __future__ import annotations

import json
import statistics
import time

import torch

from benchmarks import ROOT, parser, prepare
from benchmarks.sampling_steps import write_table
from lessons_lib import data
from lessons_lib.pipeline import load_model
from lessons_lib.unet import UNet, UNetConfig

RUNS, MADE_BY = ROOT / "runs" / "blank_page", "python -m benchmarks.blank_page 0 1 2"
CONFIG = UNetConfig(patch=2, channel_mults=(1, 2), v_schedule="linear")  # as the lesson recommends
MINUTES = (1, 3, 10)  # a tenth, three tenths and all of the steps
CLASSIFIER_STEPS, SCALES = 3000, {"cfg": 3, "classifier": 8}
TIMES = tuple(range(999, -1, -40))  # 25 steps


def solutions() -> dict:
    """The functions of the solutions' notebook, by name."""
    path = ROOT / "notebooks" / "solutions" / "14_from_a_blank_page.ipynb"
    space: dict = {}
    exec("import torch\nimport torch.nn.functional as F\nfrom torch import nn", space)
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if "solution" in cell["metadata"].get("tags", ()):
            exec("".join(cell["source"]).partition("\nresult = checks.")[0], space)
    return space


def trained(mine: dict, network, loss: str, steps: int, stops=()):
    """Trains the network by the solutions' loop; yields the steps made at the stops and at the end."""
    images = data.load("mnist", "train")
    x_0, y, abar = images.batch(torch.arange(len(images)))[0], images.labels, mine["make_schedule"](1000)
    losses = mine["train"](network.train(), lambda *given: mine[loss](*given, abar), x_0, y, steps)
    for step, _ in enumerate(losses, 1):
        if step in (*stops, steps):
            yield step


def read_right(mine: dict, eps_of, judge, count: int) -> float:
    """The share of drawings, in turn of the ten digits, that the judge reads as asked; eps_of(y) guides."""
    right, y = 0, torch.arange(count) % 10
    noises = torch.randn(count, 1, 28, 28, generator=torch.Generator().manual_seed(77))
    for labels, x_T in zip(y.split(100), noises.split(100), strict=True):
        images = mine["sample"](eps_of(labels), mine["make_schedule"](1000), x_T, TIMES)[-1].clamp(-1, 1)
        right += int((judge.probabilities(images).argmax(1) == labels).sum())
    return right / count


def measured(seed: int, steps: int, count: int) -> dict:
    """One seed's training, its shares read right by minutes, guidance and scale."""
    mine, found = solutions(), {}
    abar, judge = mine["make_schedule"](1000), load_model("mnist-evaluator")[0]
    torch.manual_seed(seed)
    guide, network = mine["make_classifier"](10), UNet(CONFIG)
    list(trained(mine, guide, "class_loss", CLASSIFIER_STEPS))
    guide.eval()
    untold = lambda x_t, t: network(x_t, t, None)  # noqa: E731
    ways = {
        "cfg": lambda y: mine["with_cfg"](network, y, SCALES["cfg"]),
        "classifier": lambda y: mine["with_classifier"](untold, guide, y, SCALES["classifier"], abar),
    }
    stops = {steps * minutes // MINUTES[-1]: minutes for minutes in MINUTES}
    for step in trained(mine, network, "denoising_loss", steps, stops):
        for method, eps_of in ways.items():
            found[f"{stops[step]},{method},{SCALES[method]}"] = read_right(mine, eps_of, judge, count)
        RUNS.mkdir(parents=True, exist_ok=True)
        (RUNS / f"{seed}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(seed, step, found, flush=True)
    return found


def rate(seconds: float = 20.0) -> float:
    """Steps of the denoiser's training in a second of the processor: a busy machine says much the same."""
    mine, began, count = solutions(), 0.0, 0
    losses = trained(mine, UNet(CONFIG), "denoising_loss", 10**6, range(10**6))
    while not began or time.process_time() < began + seconds:
        count = next(losses)
        began = began or (time.process_time() if count == 5 else 0.0)
    return (count - 5) / (time.process_time() - began)


def main() -> None:
    options = parser(__doc__, threads=1)
    options.add_argument("seeds", nargs="*", type=int)
    options.add_argument("--steps", type=int, default=3600)
    options.add_argument("--num-samples", type=int, default=500)
    options.add_argument("--rate", action="store_true")
    given = options.parse_args()
    prepare(given.threads)
    if given.rate:
        return print(f"{rate():.1f} steps a second of the processor, {given.threads} threads")
    for seed in given.seeds:
        measured(seed, given.steps, given.num_samples)
    runs = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(RUNS.glob("*.json"))]
    rows = [
        dict(zip(("minutes", "guidance", "scale"), key.split(","), strict=True))
        | {"accuracy": round(statistics.median(run[key] for run in runs), 3), "seeds": len(runs)}
        for key in runs[0]
        if all(key in run for run in runs)
    ]
    note = f"median of the seeds, {given.num_samples} drawings each, DDIM, 25 steps; made by: {MADE_BY}"
    write_table("14_blank_page.csv", note, rows)


if __name__ == "__main__":
    main()
