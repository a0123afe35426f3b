"""Linear, cosine or sigmoid? The same small network on CIFAR-10 under each schedule, at the same budget.

    python -m benchmarks.schedule_study [--epochs 1] [--num-samples 1000]

trains three networks from the same weights on the same images in the same order and with the same noise, and
writes assets/results/11_schedules.csv: the loss on test images at each schedule's own timesteps; the loss at
noise levels that all three share; and what the samples are worth. Samples of each from the same noise
are in assets/figures/11_schedules.png. A network is trained once; runs/schedules keeps what is done. It needs
CIFAR-10 and the weights cifar10-evaluator.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import ROOT, prepare
from benchmarks.sampling_steps import write_table
from lessons_lib import data, evaluation
from lessons_lib.evaluation.judge import Judge
from lessons_lib.files import atomic_write
from lessons_lib.guidance import conditional, in_bfloat16
from lessons_lib.images import save_png, to_grid
from lessons_lib.pipeline import GenerationRequest, generate_with, in_chunks
from lessons_lib.recipes.losses import random_flip
from lessons_lib.samplers import SampleNoise
from lessons_lib.schedules import NoiseSchedule, q_sample
from lessons_lib.training import EpochDone, Stopped, TrainConfig, denoising_loss, train
from lessons_lib.unet import UNet, UNetConfig

RUNS = ROOT / "runs" / "schedules"
SCHEDULES = ("linear", "cosine", "sigmoid")
# Smaller than the shipped network, so that three trainings take less than an hour.
NETWORK = UNetConfig(
    image_size=32, in_channels=3, base_channels=32, channel_mults=(1, 2, 2), attention_levels=()
)
LOG_SNR = torch.linspace(-6, 6, 25).double()  # every schedule passes through all of these
DRAWING = {"guidance_scale": 1.0, "sampler": "ddpm", "steps": 50, "precision": "bf16"}


def trained(name: str, epochs: int) -> tuple[nn.Module, NoiseSchedule]:
    """The averaged weights, and their schedule."""
    schedule, path = NoiseSchedule.by_name(name, 1000), RUNS / f"{name}-{epochs}.pt"
    if path.exists():
        network = UNet(NETWORK)
        network.load_state_dict(torch.load(path, weights_only=True)["weights"])
        return network.eval().requires_grad_(False), schedule
    torch.manual_seed(0)
    network = UNet(NETWORK).to(memory_format=torch.channels_last)
    config = TrainConfig(
        epochs=epochs, batch_size=64, lr=1e-3, warmup_steps=300, ema_decay=0.998, precision="bf16"
    )
    loss_fn = denoising_loss(schedule, num_classes=10)
    for event in train(network, loss_fn, data.load("cifar10", "train"), config, augment=random_flip):
        if isinstance(event, EpochDone):
            print(f"{name}: epoch {event.epoch} of {epochs}, loss {event.train_loss:.4f}", flush=True)
        if isinstance(event, Stopped):
            if event.reason != "finished":
                raise KeyboardInterrupt
            network = event.ema_model.eval()
    with atomic_write(path) as temporary:
        torch.save({"weights": network.state_dict()}, temporary)
    return network, schedule


def levels(schedule: NoiseSchedule) -> Tensor:
    """The timesteps [25] int64 whose log-SNR is nearest to LOG_SNR."""
    abar = schedule.alphas_cumprod
    log_snr = abar.log() - (1 - abar).log()
    return (log_snr[None] - LOG_SNR[:, None]).abs().argmin(dim=1)


@torch.no_grad()
def test_loss(network: nn.Module, schedule: NoiseSchedule, timesteps: Tensor, count: int = 1000) -> float:
    """The mean squared error of the noise on test images, at each of the timesteps equally often."""
    x_0, y = data.load("cifar10", "test").batch(torch.arange(count))
    eps = SampleNoise([(7, k) for k in range(count)])(x_0)
    t = timesteps[torch.arange(count) % len(timesteps)]
    total = 0.0
    for part in torch.arange(count).split(250):
        eps_fn = in_bfloat16(conditional(network, y[part]))
        x_t = q_sample(schedule, x_0[part], t[part], eps[part])
        total += float(F.mse_loss(eps_fn(x_t, t[part]), eps[part], reduction="sum"))
    return total / eps.numel()


def drawn(
    network: nn.Module, schedule: NoiseSchedule, labels: tuple[int, ...], seed: int
) -> Iterator[Tensor]:
    """Images of the labels, a batch at a time."""
    for part in in_chunks(GenerationRequest(labels, seed=seed, **DRAWING), 100):
        *_, last = generate_with(network, schedule, part)
        yield last.x_t.clamp(-1, 1)


def measured(name: str, epochs: int, num_samples: int, judge: Judge) -> tuple[dict, Tensor]:
    """A row of the table, and a row of the picture [10, 3, 32, 32]."""
    network, schedule = trained(name, epochs)
    labels = tuple(k % 10 for k in range(num_samples))
    samples = torch.cat(list(drawn(network, schedule, labels, 2024)))
    right = evaluation.accuracy(judge.model, samples, torch.tensor(labels)).overall
    reference = judge.reference
    row = {
        "schedule": name, "loss": round(test_loss(network, schedule, torch.arange(1000)), 5),
        "loss_at_common_levels": round(test_loss(network, schedule, levels(schedule)), 5),
        "accuracy": right.value, "accuracy_low": round(right.interval[0], 4),
        "accuracy_high": round(right.interval[1], 4),
        "fid": round(evaluation.feature_fid(judge.model, reference.statistics, samples), 4),
        "fid_floor": round(reference.floor, 4), "num_samples": num_samples, "epochs": epochs,
        "parameters": sum(p.numel() for p in network.parameters()),
    }  # fmt: skip
    return row, next(drawn(network, schedule, tuple(range(10)), 0))


def main() -> None:
    """Train and measure under every schedule; write the table and the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=1, help="passes over the 45,000 training images")
    parser.add_argument("--num-samples", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only-train", action="store_true", help="train what is missing and measure nothing")
    arguments = parser.parse_args()
    prepare(arguments.threads)
    RUNS.mkdir(parents=True, exist_ok=True)
    if arguments.only_train:
        for name in SCHEDULES:
            trained(name, arguments.epochs)
        return
    judge = Judge.load("cifar10", None, "cpu")
    rows, pictures = [], []
    for name in SCHEDULES:
        row, images = measured(name, arguments.epochs, arguments.num_samples, judge)
        rows.append(row)
        pictures.append(images)
        print(json.dumps(row), flush=True)
    words = f"--epochs {arguments.epochs} --num-samples {arguments.num_samples}"
    note = f"w=1, DDPM, 50 steps; made by: python -m benchmarks.schedule_study {words}"
    write_table("11_schedules.csv", note, rows)
    path = ROOT / "assets" / "figures" / "11_schedules.png"
    save_png(path, to_grid(torch.cat(pictures), columns=10, scale=2))


if __name__ == "__main__":
    main()
