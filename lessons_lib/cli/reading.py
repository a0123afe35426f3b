"""python -m lessons_lib evaluate --by-timestep: how well a classifier reads under noise, for each t."""

from __future__ import annotations

import json

import torch

from lessons_lib import data, evaluation, weights
from lessons_lib.classifier import NoisyClassifier
from lessons_lib.cli.common import check_dataset, check_writable, resolve_device
from lessons_lib.cli.evaluating import SOURCES, share_json
from lessons_lib.cli.options import PROGRAM
from lessons_lib.pipeline import load_model
from lessons_lib.samplers import SampleNoise
from lessons_lib.schedules import NoiseSchedule, q_sample

POINTS = 13  # timesteps from 0 to T - 1
BATCH = 500


def run(dataset: str, name: str | None, device: str, write: bool, as_json: bool) -> None:
    """Measure a classifier of noisy images on all test images; with `write`, into its card.

    Raises:
        WeightsError: if there are no such weights, or they are not such a classifier's.
        DataError: for a card without the real data.
    """
    check_dataset(dataset)
    name, device = name or f"{dataset}-noisy-classifier", resolve_device(device)
    model, schedule, card = load_model(name, device)
    if not isinstance(model, NoisyClassifier):
        raise weights.WeightsError(f"The weights {name!r} are no classifier of noisy images.")
    if write:
        check_writable(weights.weights_path(name).with_suffix(".json"))
    tested = data.test_images(dataset)
    source = tested.source
    if write and source != dataset:
        raise data.DataError(f"A card needs the real {SOURCES[dataset]}, which is not on this machine.")
    images, labels = data.to_signed(tested.images), tested.labels
    found = read_at(model, schedule, images, labels, timesteps(schedule), device)
    named = "" if name == f"{dataset}-noisy-classifier" else f" --classifier {name}"
    result = {
        "command": f"{PROGRAM} evaluate {dataset} --by-timestep{named}",
        "images": f"{len(images):,} test images of {SOURCES[source]}",
        "by_timestep": [
            {"t": t, "snr": float(f"{float(schedule.snr[t]):.4g}"), "accuracy": share_json(share)}
            for t, share in found.items()
        ],
    }
    if write:
        weights.write_card(name, card | {"metrics": card.get("metrics", {}) | {"reading": result}})
    print(json.dumps(result) if as_json else report(name, result))


def timesteps(schedule: NoiseSchedule) -> list[int]:
    """Evenly spaced from 0 to T - 1, and the last one whose signal-to-noise ratio is at least 1/4."""
    last = schedule.num_timesteps - 1
    even = {round(k * last / (POINTS - 1)) for k in range(POINTS)}
    return sorted(even | {max(0, int((schedule.snr >= 0.25).sum()) - 1)})


@torch.no_grad()
def read_at(
    model: NoisyClassifier,
    schedule: NoiseSchedule,
    images: torch.Tensor,
    labels: torch.Tensor,
    at: list[int],
    device: str = "cpu",
) -> dict[int, evaluation.Share]:
    """The share of images [N, C, H, W] read as their label at each t; image k's noise is that of (0, k)."""
    right = dict.fromkeys(at, 0)
    for start in range(0, len(images), BATCH):
        x_0, y = images[start : start + BATCH], labels[start : start + BATCH]
        eps = SampleNoise([(0, start + k) for k in range(len(y))])(x_0)
        for t in right:
            t_all = torch.full((len(y),), t)
            x_t = q_sample(schedule, x_0, t_all, eps).to(device)
            right[t] += int((model(x_t, t_all.to(device)).argmax(1).cpu() == y).sum())
    return {t: evaluation.Share(count, len(images)) for t, count in right.items()}


def report(name: str, result: dict) -> str:
    """The result for people."""
    lines = [f"{name} on {result['images']}, read right:"]
    for row in result["by_timestep"]:
        share = evaluation.Share(row["accuracy"]["right"], row["accuracy"]["total"])
        lines.append(f"  t = {row['t']:4}, SNR {row['snr']:<9.3g} {share}")
    return "\n".join(lines)
