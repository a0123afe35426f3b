"""Does a change of the code change a number? Hashes of what every way of drawing gives.

    python -m benchmarks.fingerprints [--write]

compares with assets/results/fingerprints.json, or writes it: each sampler, spacing, guidance, inversion and
data set, a few steps of each training, and the figures of fixed images. Equal only on the same machine, with
the same torch and one thread: write it before a change, compare after it.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import itertools
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

os.environ["LESSONS_OFFLINE"] = "1"
os.environ["LESSONS_DATA"] = os.devnull + "/none"  # the embedded digits: the same on every machine

import torch
from torch import Tensor

from benchmarks import ROOT, prepare
from benchmarks.octaves import octave_power
from lessons_lib import evaluation, recipes
from lessons_lib.counterfactuals import METHODS
from lessons_lib.flow_map import FlowMap
from lessons_lib.pipeline import CounterfactualRequest, GenerationRequest, counterfactuals, generate
from lessons_lib.samplers import SAMPLERS, SPACINGS
from lessons_lib.weights import load_pretrained

KEPT = ROOT / "assets" / "results" / "fingerprints.json"
GUIDANCES = (
    {"guidance": "none"},
    {"guidance": "cfg", "guidance_scale": 1.0},
    {"guidance": "cfg", "guidance_scale": 2.5},
    {"guidance": "cfg", "guidance_scale": 2.0, "interval": (200, 800)},
    {"guidance": "classifier", "guidance_scale": 3.0},
    {"guidance": "classifier-x0", "guidance_scale": 2.0, "classifier": "mnist-evaluator"},
)


def digest(*tensors: Tensor) -> str:
    """The first 16 digits of the SHA-256 of the numbers."""
    total = hashlib.sha256()
    for tensor in tensors:
        total.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()[:16]


def steps_of(steps: Iterator) -> str:
    """Of all states and estimates on the way."""
    return digest(*itertools.chain.from_iterable((step.x_t, step.x_0) for step in steps))


def drawn() -> Iterator[tuple[str, str]]:
    """Every sampler with every guidance, spacing, precision and data set."""
    for sampler, options in itertools.product(SAMPLERS, GUIDANCES):
        yield _drawn((3, 7), sampler=sampler, steps=4, **options)
    for sampler, spacing in itertools.product(SAMPLERS, SPACINGS):
        yield _drawn((1, 2), sampler=sampler, spacing=spacing, steps=5)
    yield _drawn((1, 2), sampler="ddim", eta=0.7, steps=4, seed=5)
    yield _drawn((4, 5), sample_indices=(9, 9), steps=3)
    yield _drawn((4, 5), precision="bf16", steps=3)
    for sampler, scale in itertools.product(("ddim", "ddpm"), (1.0, 3.0)):
        yield _drawn((3, 8), weights="cifar10-denoiser", sampler=sampler, steps=3, guidance_scale=scale)
    yield _drawn((0, 0), weights="celeba-denoiser", guidance="none", steps=3)
    for value in (0, 1):
        yield _drawn((value,), weights="celeba-denoiser", guidance="classifier", attribute="Smiling", steps=3)
    yield _drawn((0,))  # the defaults of the card


def _drawn(labels: tuple, **options) -> tuple[str, str]:
    name = " ".join(f"{key}={value}" for key, value in options.items())
    return f"draw {labels} {name}", steps_of(generate(GenerationRequest(labels, **options)))


def intervened() -> Iterator[tuple[str, str]]:
    """Every abduction with both guidances; to a depth; and faces."""
    images = next(_images("mnist-denoiser", 2))
    for method, guidance in itertools.product(METHODS, ("cfg", "classifier")):
        request = CounterfactualRequest((7, 1), (2, 3, 8, 0), method=method, guidance=guidance, steps=4)
        yield f"counterfactual {method} {guidance}", steps_of(counterfactuals(request, images))
    for method in ("ddim", "sdedit"):
        request = CounterfactualRequest((7, 1), (2, 3), method=method, depth=500, steps=8, guidance_scale=2.0)
        yield f"counterfactual {method} depth=500", steps_of(counterfactuals(request, images))
    face = CounterfactualRequest(
        (0,), (1,), weights="celeba-denoiser", guidance="classifier", attribute="Smiling", method="ddpm",
        steps=3,
    )  # fmt: skip
    found = counterfactuals(face, next(_images("celeba-denoiser", 1)))
    yield "counterfactual face", steps_of(found)


def _images(name: str, count: int) -> Iterator[Tensor]:
    config = load_pretrained(name)[0].config
    shape = (count, config.in_channels, config.image_size, config.image_size)
    yield torch.randn(shape, generator=torch.Generator().manual_seed(1)).mul(0.5).clamp(-1, 1)


def read() -> Iterator[tuple[str, str]]:
    """What classifiers and evaluators answer, and the figures made of it."""
    for path in sorted((ROOT / "assets" / "weights").glob("*.safetensors")):
        network, _, _ = load_pretrained(path)
        images = next(_images(path, 3))
        with torch.no_grad():
            timed = not hasattr(network, "features")
            told = (torch.tensor([0, 400, 999]),) if timed else ()
            if isinstance(network, FlowMap):  # to the image, three labels, w = 2
                told += torch.full((3,), -1), torch.arange(3), torch.full((3,), 2.0)
            yield f"answer {path.stem}", digest(network(images, *told))
    for name in ("mnist-evaluator", "cifar10-evaluator", "celeba-evaluator"):
        network, _, _ = load_pretrained(name)
        features = [evaluation.features(network, next(_images(name, count))) for count in (40, 30)]
        kid = torch.tensor(evaluation.feature_kid(*features))
        yield f"features {name}", digest(*features)
        yield f"kid {name}", digest(kid)
    yield "octaves", digest(octave_power(next(_images("cifar10-evaluator", 5))))


def trained() -> Iterator[tuple[str, str]]:
    """Three steps of each training of digits."""
    for model in ("denoiser", "denoiser-v", "classifier", "clean-classifier", "evaluator"):
        recipe = recipes.RECIPES["mnist", model]
        with tempfile.TemporaryDirectory() as folder:
            config = dataclasses.replace(
                recipe.config, epochs=1, batch_size=8, precision="float32", device="cpu",
                output_dir=Path(folder),
            )  # fmt: skip
            options = dataclasses.replace(recipe.options, sample_every=0)
            sets = recipes.load_splits("mnist", config)
            small = {split: images.subset(torch.arange(24)) for split, images in sets.items()}
            for _ in recipes.run_recipe(recipe, lambda small=small: small, config, options):
                pass
            network = load_pretrained(Path(folder) / f"{recipe.name}.safetensors")[0]
        yield f"train {model}", digest(*network.state_dict().values())


def main() -> None:
    """Write the list, or compare with it; the exit status is 1 if a number changed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    prepare(1)
    found = dict(itertools.chain(drawn(), intervened(), read(), trained()))
    if arguments.write:
        KEPT.write_text(json.dumps(found, indent=1) + "\n")
    kept = json.loads(KEPT.read_text())
    wrong = [name for name in kept.keys() | found.keys() if kept.get(name) != found.get(name)]
    print(
        *(f"changed: {name}" for name in sorted(wrong)), f"{len(found)} hashes, {len(wrong)} differ", sep="\n"
    )
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
