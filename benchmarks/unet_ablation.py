"""What do skips, attention and the time embedding contribute? Train without each, at the same budget.

    python -m benchmarks.unet_ablation [--images 38400] [--seeds 3] [--num-samples 500]

trains the digit network whole and with one part left out, from each seed, on the same images in the same
order, and writes assets/results/02_parts.csv: the loss on test images and the share read right. A network is
measured once; runs/ablation keeps what is done, so the program can be stopped and started again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import ROOT, prepare
from benchmarks.sampling_steps import write_table
from classroom.ablation import without
from lessons_lib import data, evaluation
from lessons_lib.files import atomic_write
from lessons_lib.guidance import conditional, in_bfloat16
from lessons_lib.pipeline import GenerationRequest, generate_with, in_chunks, load_model
from lessons_lib.samplers import SampleNoise
from lessons_lib.schedules import NoiseSchedule, q_sample
from lessons_lib.training import Stopped, TrainConfig, denoising_loss, train
from lessons_lib.unet import UNet, UNetConfig

RUNS = ROOT / "runs" / "ablation"
TIMESTEPS = (20, 100, 300, 600, 900)  # where the loss is told apart
BATCH = 64


VARIANTS: dict[str, str | None] = {
    "whole network": None,
    "without attention": "attention",
    "without skips": "skips",
    "without time": "time",
}


def trained(variant: str, seed: int, images: int, schedule: NoiseSchedule) -> nn.Module:
    """The averaged weights after that many images; their order and noise depend on the seed only."""
    torch.manual_seed(seed)
    whole = UNet(UNetConfig())  # drawn first: a part left out changes no other weight
    network = without(whole, VARIANTS[variant]) if VARIANTS[variant] else whole
    config = TrainConfig(epochs=1, batch_size=BATCH, lr=1e-3, warmup_steps=100, ema_decay=0.99, seed=seed)
    train_data = data.load("mnist", "train")
    order = torch.randperm(len(train_data), generator=torch.Generator().manual_seed(seed))[:images]
    loss_fn = denoising_loss(schedule, num_classes=10)
    for event in train(network, loss_fn, train_data.subset(order), config):
        if isinstance(event, Stopped):
            if event.reason != "finished":
                raise KeyboardInterrupt
            return event.ema_model.eval()
    raise RuntimeError("The training ended without a network.")


@torch.no_grad()
def losses(network: nn.Module, schedule: NoiseSchedule, count: int = 2000) -> dict[str, float]:
    """The mean loss over t on test images, and the loss at single timesteps on the first 500 of them."""
    x_0, y = data.load("mnist", "test").batch(torch.arange(count))
    eps = SampleNoise([(7, k) for k in range(count)])(x_0)
    # Every timestep equally often, the same for every network.
    spread = torch.arange(count) % 1000

    def loss(t: Tensor) -> float:
        total = 0.0
        for i in range(0, len(t), 250):
            part = slice(i, i + 250)
            eps_fn = in_bfloat16(conditional(network, y[: len(t)][part]))
            x_t = q_sample(schedule, x_0[: len(t)][part], t[part], eps[: len(t)][part])
            total += float(F.mse_loss(eps_fn(x_t, t[part]), eps[: len(t)][part], reduction="sum"))
        return total / eps[: len(t)].numel()

    single = {f"loss_t{t}": loss(torch.full((500,), t)) for t in TIMESTEPS}
    return {"loss": loss(spread)} | single


def read_right(network: nn.Module, schedule: NoiseSchedule, num_samples: int) -> float:
    """The share that the evaluator reads as asked, at w = 1 with 25 DDIM steps."""
    evaluator, _, _ = load_model("mnist-evaluator")
    labels = tuple(k % 10 for k in range(num_samples))
    options = {"guidance_scale": 1.0, "sampler": "ddim", "steps": 25, "seed": 2024, "precision": "bf16"}
    images = []
    for part in in_chunks(GenerationRequest(labels, **options), 100):
        *_, last = generate_with(network, schedule, part)
        images.append(last.x_t.clamp(-1, 1))
    return evaluation.accuracy(evaluator, torch.cat(images), torch.tensor(labels)).overall.value


def measured(variant: str, seed: int, images: int, num_samples: int) -> dict:
    """One row of the table; from the disk where it has been measured before."""
    path = RUNS / f"{variant.replace(' ', '-')}-{seed}-{images}-{num_samples}.json"
    if path.exists():
        return json.loads(path.read_text())
    schedule = NoiseSchedule.linear()
    network = trained(variant, seed, images, schedule)
    row = {"variant": variant, "seed": seed, "parameters": sum(p.numel() for p in network.parameters())}
    row |= {name: round(value, 5) for name, value in losses(network, schedule).items()}
    row["accuracy"] = read_right(network, schedule, num_samples)
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(row))
    torch.save(network.state_dict(), path.with_suffix(".pt"))
    return row


def main() -> None:
    """Train and measure every variant from every seed, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=38_400, help="images seen by each network")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--num-samples", type=int, default=500)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    prepare(arguments.threads)
    Path(RUNS).mkdir(parents=True, exist_ok=True)
    rows = []
    for seed in range(arguments.seeds):
        for variant in VARIANTS:
            row = measured(variant, seed, arguments.images, arguments.num_samples)
            rows.append(row)
            print(f"{variant:<18} seed {seed}: loss {row['loss']:.4f}, {row['accuracy']:.1%}", flush=True)
    words = f"--images {arguments.images} --seeds {arguments.seeds} --num-samples {arguments.num_samples}"
    note = (
        f"{arguments.images} images seen; {arguments.num_samples} samples, w=1, DDIM, 25 steps; "
        f"made by: python -m benchmarks.unet_ablation {words}"
    )
    write_table("02_parts.csv", note, rows)


if __name__ == "__main__":
    main()
