"""An autoencoder of faces for the bake-off's "v-latent": 64×64×3 pixels to 16×16×8 latents and back.

    python -m benchmarks.latents --minutes 5

trains it for so many minutes of one core, unless --folder has one already, keeps it there with the latents of
the training faces and their mirror images, and prints what it makes of the test faces: L1 in [0, 1] pixels,
and the power in four octaves over theirs. Good enough is L1 of at most 0.02 and every octave within 10%.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save
from torch import Tensor, nn

from benchmarks import ROOT, prepare
from benchmarks.octaves import octave_power
from lessons_lib import data, training
from lessons_lib.files import atomic_write
from lessons_lib.pipeline import GenerationRequest, in_chunks
from lessons_lib.schedules import NoiseSchedule
from lessons_lib.training import TrainConfig, train
from lessons_lib.unet import Downsample, ResidualBlock, UNetConfig, Upsample, num_groups
from lessons_lib.weights import WeightsError

FOLDER, CARD, WEIGHTS, CODED = "celeba-autoencoder", "card.json", "weights.safetensors", "coded.safetensors"
CHANNELS = 8
SPECTRAL = 6.0  # of 0, 0.5, 1, 2, 6, in runs of a minute or less: more lifts the last octave, L1 hardly
NETWORK = UNetConfig(
    16, CHANNELS, 64, (1, 2, 3), 1, (1, 2), 40, embedding_channels=256, v_schedule="linear", multi_label=True
)


class Autoencoder(nn.Module):
    """Faces to latents, each channel of mean 0 and std 1 over the training faces, and back.

    The best linear code of 4×4 patches, and two convolutional networks for what it misses.
    """

    def __init__(self) -> None:
        super().__init__()
        self.line_in = nn.Sequential(nn.PixelUnshuffle(4), nn.Conv2d(48, CHANNELS, 1))
        self.line_out = nn.Sequential(nn.Conv2d(CHANNELS, 48, 1), nn.PixelShuffle(4))
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(2), nn.Conv2d(12, 64, 3, padding=1), ResidualBlock(64, 64, 0), Downsample(64),
            ResidualBlock(64, 128, 0), ResidualBlock(128, 128, 0),
            nn.GroupNorm(num_groups(128), 128), nn.SiLU(), nn.Conv2d(128, CHANNELS, 3, padding=1),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.Conv2d(CHANNELS, 128, 3, padding=1), ResidualBlock(128, 128, 0), ResidualBlock(128, 128, 0),
            Upsample(128, 64), ResidualBlock(64, 64, 0), nn.GroupNorm(num_groups(64), 64), nn.SiLU(),
            nn.Conv2d(64, 64, 3, padding=1), nn.PixelShuffle(2), nn.SiLU(), nn.Conv2d(16, 3, 3, padding=1),
        )  # fmt: skip
        for parameter in (*self.encoder[-1].parameters(), *self.decoder[-1].parameters()):
            nn.init.zeros_(parameter)
        self.register_buffer("mean", torch.zeros(CHANNELS, 1, 1))
        self.register_buffer("std", torch.ones(CHANNELS, 1, 1))

    @torch.no_grad()
    def start(self, x_0: Tensor) -> None:
        """Begin with the principal components of the patches of faces x_0 [N, 3, 64, 64]."""
        patches = F.pixel_unshuffle(x_0, 4).movedim(1, -1).flatten(0, 2)
        variances, axes = (each[..., -CHANNELS:] for each in torch.linalg.eigh(patches.T.cov()))  # ascending
        middle, size = patches.mean(dim=0), variances.sqrt()
        self.line_in[1].weight.copy_((axes / size).T[:, :, None, None])
        self.line_in[1].bias.copy_(-(middle @ axes) / size)
        self.line_out[0].weight.copy_((axes * size)[:, :, None, None])
        self.line_out[0].bias.copy_(middle)

    def encode(self, x_0: Tensor) -> Tensor:
        """x_0 [B, 3, 64, 64] -> latents [B, 8, 16, 16]."""
        return (self.line_in(x_0) + self.encoder(x_0) - self.mean) / self.std

    def decode(self, latents: Tensor) -> Tensor:
        """latents [B, 8, 16, 16] -> x_0 [B, 3, 64, 64]."""
        z = latents * self.std + self.mean
        return self.line_out(z) + self.decoder(z)

    def forward(self, x_0: Tensor) -> Tensor:
        return self.decode(self.encode(x_0))


def reconstruction_loss(model: nn.Module, x_0: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
    """L1 of the pixels, which alone blurs, and L1 of the Fourier amplitudes."""
    back = model(x_0).float()
    amplitudes = (torch.fft.rfft2(images, norm="ortho").abs() for images in (back, x_0))
    return F.l1_loss(back, x_0) + SPECTRAL * F.l1_loss(*amplitudes)


@dataclasses.dataclass(frozen=True)
class Coded:
    """Training faces and their mirror images as latents, as the trainer asks for them, and their autoencoder.

    latents: [2N, 8, 16, 16] float16; labels: [2N, K] uint8; card: minutes of processor time, and figures.
    """

    autoencoder: Autoencoder
    latents: Tensor
    labels: Tensor
    card: dict
    note: str
    source: str = "celeba"
    class_names: tuple[str, ...] = data.ATTRIBUTES

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """The latents [B, 8, 16, 16] float32 and attributes [B, K] int64 at indices [B]."""
        return self.latents[indices].float(), self.labels[indices].long()

    def draw(self, network: nn.Module, schedule: NoiseSchedule, request: GenerationRequest) -> Tensor:
        """Images [N, 3, 64, 64] of a request: latents, whose estimates are not clipped, decoded."""
        parts = []
        for part in in_chunks(request, 100):
            *_, last = part.plan((network, schedule)).steps(clip_x0=False)
            with torch.no_grad():
                parts.append(self.autoencoder.decode(last.x_t))
        return torch.cat(parts).clamp(-1, 1)


@torch.no_grad()
def encoded(autoencoder: Autoencoder, faces: data.ImageSet) -> Tensor:
    """Latents [2N, 8, 16, 16] float16 of faces, then of their mirrors, to which a new autoencoder is set."""
    found = []
    for mirror in (False, True):
        for chunk in torch.arange(len(faces)).split(100):
            x_0 = data.to_signed(faces.images[chunk])
            with torch.autocast("cpu", torch.bfloat16):
                found.append(autoencoder.encode(x_0.flip(3) if mirror else x_0))
    latents = torch.cat(found)
    std, mean = torch.std_mean(latents, dim=(0, 2, 3), keepdim=True)
    autoencoder.mean, autoencoder.std = mean[0], std[0]
    return ((latents - mean) / std).half().contiguous()  # which a file asks for


@torch.no_grad()
def measured(autoencoder: Autoencoder, x_0: Tensor) -> dict:
    """What comes back of faces x_0 [N, 3, 64, 64]: L1 in [0, 1] pixels, each octave's power over theirs."""
    back = torch.cat([autoencoder(part) for part in x_0.split(100)]).clamp(-1, 1)
    l1 = float((back - x_0).abs().mean()) / 2
    power = octave_power(back) / octave_power(x_0)
    row = {"l1": round(l1, 5)} | {f"octave_{k}": round(float(ratio), 3) for k, ratio in enumerate(power, 1)}
    return row | {"good_enough": l1 <= 0.02 and bool(((power - 1).abs() <= 0.1).all())}


def make(minutes: float, folder: Path) -> None:
    """Train the autoencoder, encode the training faces, and write both with the card."""
    faces, started = data.load("celeba", "train"), time.process_time()
    training.clock = time.process_time
    config = TrainConfig(
        epochs=10_000, batch_size=16, lr=2e-3, warmup_steps=50, ema_decay=0.99, precision="bf16",
        device="cpu", max_seconds=60 * minutes,
    )  # fmt: skip
    torch.manual_seed(config.seed)
    autoencoder = Autoencoder().to(memory_format=torch.channels_last)
    autoencoder.start(faces.batch(torch.arange(min(500, len(faces))))[0])
    *_, end = train(autoencoder, reconstruction_loss, faces, config)
    if end.reason != "time":
        raise KeyboardInterrupt
    best, seen = end.ema_model, end.step * config.batch_size
    coded = {"latents": encoded(best, faces), "labels": faces.labels.repeat(2, 1).to(torch.uint8)}
    card = {"minutes": round((time.process_time() - started) / 60, 3), "images_seen": seen}
    card |= {"images_a_second": round(seen / end.seconds, 1), "note": faces.note}
    card |= {"parameters": sum(p.numel() for p in best.parameters())}
    card |= measured(best, data.to_signed(data.load("celeba", "test").images[:]))
    state = {name: tensor.contiguous() for name, tensor in best.state_dict().items()}
    for name, content in ((WEIGHTS, save(state)), (CODED, save(coded)), (CARD, json.dumps(card).encode())):
        with atomic_write(folder / name) as path:  # the card last: where it is, the others are
            path.write_bytes(content)


def load(folder: Path, minutes: float) -> Coded:
    """What `make` left; WeightsError if that is nothing, or it took all of a candidate's minutes."""
    if not (folder / CARD).exists():
        raise WeightsError(f"{folder} has no autoencoder: train it first: python -m benchmarks.latents")
    card = json.loads((folder / CARD).read_text())
    if card["minutes"] >= minutes:
        raise WeightsError(f"The autoencoder took {card['minutes']} of {minutes:g} minutes: nothing is left.")
    autoencoder = Autoencoder().eval()
    autoencoder.load_state_dict(load_file(folder / WEIGHTS))
    return Coded(autoencoder, **load_file(folder / CODED), card=card, note=card["note"])


def main() -> None:
    """Make it, if it is not there yet, and print its card."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=5, help="processor time of the training")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "bakeoff")
    arguments = parser.parse_args()
    prepare(1)
    folder = arguments.folder / FOLDER
    if not (folder / CARD).exists():
        make(arguments.minutes, folder)
    print((folder / CARD).read_text())


if __name__ == "__main__":
    main()
