"""Does a classifier that must read every t read one t worse than a network that was trained for it alone?

    python -m benchmarks.one_timestep [--t 395] [--epochs 10] [--threads 2] [--json]

trains a network of the same size on images noised to that t only (the default is the last t whose
signal-to-noise ratio is at least 1/4), with the settings of `train mnist --model classifier`, and then reads
all test images with both at that t. runs/one_timestep keeps checkpoints: stopped, the same command goes on.
"""

from __future__ import annotations

import dataclasses

import torch

from benchmarks import ROOT, parser, prepare, show
from lessons_lib import data, evaluation
from lessons_lib.evaluation.judge import read_at
from lessons_lib.pipeline import load_model
from lessons_lib.recipes import RECIPES, noisy_classification_loss
from lessons_lib.training import EpochDone, Stopped, train

NAME = "mnist-noisy-classifier"


def trained(t: int, epochs: int, schedule) -> torch.nn.Module:
    """The recipe's network and settings, with this t in place of all; the averaged weights."""
    recipe, folder = RECIPES["mnist", "classifier"], ROOT / "runs" / "one_timestep" / f"t{t}-{epochs}"
    config = dataclasses.replace(recipe.config, epochs=epochs, device="cpu", output_dir=folder)
    torch.manual_seed(config.seed)
    network, loss_fn = recipe.build(), noisy_classification_loss(schedule, [t])
    resume = (folder / "checkpoint.pt").exists()
    for event in train(network, loss_fn, data.load("mnist", "train"), config, resume=resume):
        if isinstance(event, EpochDone):
            print(f"epoch {event.epoch} of {epochs}: loss {event.train_loss:.4f}", flush=True)
        if isinstance(event, Stopped):
            if event.reason != "finished":
                raise KeyboardInterrupt
            return event.ema_model.eval()
    raise RuntimeError("The training ended without a network.")


def main() -> None:
    """Train, read and print."""
    options = parser(__doc__)
    options.add_argument("--t", type=int, help="the one timestep")
    options.add_argument("--epochs", type=int, default=RECIPES["mnist", "classifier"].config.epochs)
    arguments = options.parse_args()
    machine = prepare(arguments.threads)
    shipped, schedule, card = load_model(NAME)
    t = arguments.t
    if t is None:
        t = int((schedule.snr >= 0.25).sum()) - 1
    if data.load("mnist", "test").source != "mnist":
        raise SystemExit("This needs the real MNIST, which is not on this machine.")
    networks = {"this t alone": trained(t, arguments.epochs, schedule), "every t (shipped)": shipped}
    sets = [data.load("mnist", split) for split in ("val", "test")]
    images = data.to_signed(torch.cat([one.images for one in sets]))
    labels = torch.cat([one.labels for one in sets])
    found: dict[str, evaluation.Share] = {
        name: read_at(network, schedule, images, labels, [t])[t] for name, network in networks.items()
    }
    alone, every = (share.value for share in found.values())
    result = {
        "t": t,
        "snr": float(schedule.snr[t]),
        "epochs": arguments.epochs,
        "images_seen": arguments.epochs * 60_000,
        "shipped_images_seen": card["training"]["images_seen"],
        "accuracy": {
            name: {"value": share.value, "interval_95": share.interval} for name, share in found.items()
        },
        "difference": round(alone - every, 5),
        "machine": machine,
    }
    rows = [(f"trained on {name}", f"{share}") for name, share in found.items()]
    rows.append(("difference", f"{100 * (alone - every):.2f} points at t = {t}, SNR {result['snr']:.3f}"))
    show(result, rows, arguments.json)


if __name__ == "__main__":
    main()
