"""Our MNIST U-Net against diffusers' UNet2DModel as the Hugging Face course configures it for MNIST.

    python -m benchmarks.vs_diffusers [--repeats 200] [--train-repeats 15] [--batch-size 64] [--json]

The same batch, precision and threads, in one process, the two in turn, so that what else the machine
does hits both.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from benchmarks import parser, prepare, show, summary

OURS, THEIRS = "ours", "diffusers"


def networks() -> dict:
    """Both networks, untrained: what they compute does not change how long it takes."""
    import torch
    from diffusers import UNet2DModel

    from lessons_lib.unet import UNet, UNetConfig

    torch.manual_seed(0)
    theirs = UNet2DModel(
        sample_size=28,
        in_channels=1,
        out_channels=1,
        layers_per_block=2,
        block_out_channels=(32, 64, 64),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    )
    return {OURS: UNet(UNetConfig()), THEIRS: theirs}


def predict(name: str, model, x, t, y):
    """eps from either network; ours also reads labels."""
    return model(x, t, y) if name == OURS else model(x, t).sample


def in_turn(actions: dict[str, Callable[[], None]], repeats: int, warm_up: int) -> dict[str, list[float]]:
    """Seconds of each action, one of each after the other."""
    times = {name: [] for name in actions}
    for k in range(repeats + warm_up):
        for name, action in actions.items():
            started = time.perf_counter()
            action()
            if k >= warm_up:
                times[name].append(time.perf_counter() - started)
    return times


def forward(models: dict, repeats: int) -> dict[str, list[float]]:
    """One image through each network, float32, without gradients."""
    import torch

    x, t, y = torch.randn(1, 1, 28, 28), torch.tensor([500]), torch.tensor([7])

    def action(name, model):
        def run():
            with torch.no_grad():
                predict(name, model.eval(), x, t, y)

        return run

    return in_turn({name: action(name, model) for name, model in models.items()}, repeats, warm_up=10)


def training_step(models: dict, repeats: int, batch_size: int, bfloat16: bool) -> dict[str, list[float]]:
    """Forward, backward and AdamW on one batch."""
    import torch

    x, eps = torch.randn(2, batch_size, 1, 28, 28)
    t, y = torch.randint(1000, (batch_size,)), torch.randint(11, (batch_size,))

    def action(name, model):
        optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-3)

        def run():
            with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                prediction = predict(name, model, x, t, y)
            torch.nn.functional.mse_loss(prediction.float(), eps).backward()
            optimizer.step()
            optimizer.zero_grad()

        return run

    return in_turn({name: action(name, model) for name, model in models.items()}, repeats, warm_up=2)


def main() -> None:
    """Measure and print."""
    options = parser(__doc__)
    options.add_argument("--repeats", type=int, default=200, help="of the forward pass")
    options.add_argument("--train-repeats", type=int, default=15)
    options.add_argument("--batch-size", type=int, default=64, help="of the training step")
    arguments = options.parse_args()
    machine = prepare(arguments.threads)
    models = networks()
    batch = arguments.batch_size
    measured = {
        "forward, batch 1, float32": forward(models, arguments.repeats),
        f"training step, batch {batch}, float32": training_step(
            models, arguments.train_repeats, batch, False
        ),
        f"training step, batch {batch}, bfloat16": training_step(
            models, arguments.train_repeats, batch, True
        ),
    }
    result = {"parameters": {name: sum(p.numel() for p in m.parameters()) for name, m in models.items()}}
    result |= {"measured": {}, "machine": machine}
    parameters = ", ".join(f"{name} {n / 1e6:.2f} million" for name, n in result["parameters"].items())
    rows = [("parameters", parameters)]
    for what, times in measured.items():
        both = {name: summary(seconds) for name, seconds in times.items()}
        ratio = both[THEIRS]["median_ms"] / both[OURS]["median_ms"]
        result["measured"][what] = both | {"times_as_fast": round(ratio, 2)}
        told = ", ".join(f"{name} {both[name]['median_ms']:.1f} ms" for name in both)
        rows.append((what, f"{told}: {ratio:.2f} times as fast"))
    show(result, rows, arguments.json)


if __name__ == "__main__":
    main()
