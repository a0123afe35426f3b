"""The evaluator that judges a data set, what it makes of real images, and how well networks read them."""

import functools
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from lessons_lib import data, weights
from lessons_lib.classifier import NoisyClassifier
from lessons_lib.evaluation import quality
from lessons_lib.evaluation.quality import Accuracy, Measurement, Reference, Share
from lessons_lib.files import atomic_write, check_writable, lock
from lessons_lib.names import refuse
from lessons_lib.pipeline import load_model
from lessons_lib.samplers import SampleNoise
from lessons_lib.schedules import NoiseSchedule, q_sample

SOURCES = {"mnist": "MNIST", "digits": "scikit-learn's digits", "cifar10": "CIFAR-10"}
POINTS = 13  # timesteps from 0 to T - 1 at which a classifier's reading is measured


@dataclass(frozen=True, eq=False)
class Judge:
    """An evaluator, ready to score images of a data set."""

    dataset: str
    name: str
    model: nn.Module
    sha256: str
    device: str

    @classmethod
    def load(cls, dataset: str, name: str | None = None, device: str = "cpu") -> Self:
        """The evaluator by name or path; DATASET-evaluator if not given."""
        name = name or f"{dataset}-evaluator"
        model, _, card = load_model(name, device)
        if not hasattr(model, "features"):
            raise weights.WeightsError(f"The weights {name!r} are no evaluator: they cannot judge.")
        return cls(dataset, name, model, card["sha256"], device)

    @property
    def num_classes(self) -> int:
        return self.model.config.num_classes

    @property
    def named(self) -> str | None:
        """Its name, if it must be named in a command."""
        return None if self.name == f"{self.dataset}-evaluator" else self.name

    @property
    def attributes(self) -> tuple[str, ...]:
        """What an evaluator of faces reads; WeightsError if it reads classes, or its card does not say."""
        if not self.model.config.multi_label:
            raise weights.WeightsError(f"The evaluator {self.name!r} reads classes, not attributes.")
        names = tuple(weights.read_card(self.name).get("class_names") or ())
        if len(names) != self.num_classes:
            card = f"The card of {self.name!r}"
            raise weights.WeightsError(f"{card} does not name all attributes that it reads.")
        return names

    def check_classes(self, name: str, num_classes: int) -> None:
        """Raise ValueError if weights draw other classes than the evaluator knows."""
        ours = self.num_classes
        refuse({f"{name} has {num_classes} classes but {self.name} knows {ours}.": num_classes != ours})
        self.check_size(name)

    def check_size(self, denoiser: str) -> None:
        """Raise ValueError if the evaluator could not read what the denoiser draws."""
        network, model = load_model(denoiser)[0].config, self.model.config
        for field, words in {"image_size": "pixels a side", "in_channels": "channels"}.items():
            drawn, read = getattr(network, field), getattr(model, field)
            refuse({f"{denoiser} draws {drawn} {words} but {self.name} reads {read}.": drawn != read})

    def tell_if_circular(self, classifiers: Iterable[str | Path | None]) -> None:
        """Say so if the evaluator is a classifier that guides: it then reads what it asked for itself."""
        if any(name and weights.read_card(name)["sha256"] == self.sha256 for name in classifiers):
            print(f"{self.name} judges images that it guided: its accuracy is circular.", file=sys.stderr)

    def images(self, split: str) -> data.ImageSet:
        """The training or test images of its data set, faces in its size."""
        if self.dataset == "celeba":
            return data.load("celeba", split, image_size=self.model.config.image_size)
        return data.test_images(self.dataset) if split == "test" else data.load(self.dataset, split)

    def over(self, function: Callable[[nn.Module, Tensor], Tensor], images: data.ImageSet) -> Tensor:
        """function(evaluator, x_0) of all images, of which a batch at a time is in memory."""
        parts = torch.arange(len(images)).split(quality.BATCH)
        return torch.cat([function(self.model, images.batch(part)[0]) for part in parts])

    @property
    def reference_path(self) -> Path:
        """Beside its weights, so that machines without MNIST measure against MNIST too."""
        path = weights.weights_path(self.name)
        return path.with_name(f"{path.stem}-reference.npz")

    @functools.cached_property
    def reference(self) -> Reference:
        """What this evaluator makes of real images: the file beside its weights, or else measured now."""
        stored = Reference.load(self.reference_path) if self.reference_path.exists() else None
        if not stored or stored.extractor != self.sha256:
            return self.measure_reference()
        num_classes = 1 if self.dataset == "celeba" else self.num_classes
        if (len(stored.statistics.mean), len(stored.spread)) != (self.model.config.widths[-1], num_classes):
            raise ValueError(f"The reference statistics {self.reference_path} are of another judge.")
        return stored

    def measure_reference(self) -> Reference:
        """Measure the training images: MNIST, or where that is missing the embedded digits, which is said."""
        images = self.images("train")
        print(f"Measuring {len(images):,} training {pictures(images.source)}.", file=sys.stderr)
        labels, num_classes = images.labels, self.num_classes
        if self.dataset == "celeba":  # faces are one class
            labels, num_classes = torch.zeros(len(images), dtype=torch.int64), 1
        facts = {"extractor": self.sha256, "source": images.source}
        return Reference.of(self.over(quality.features, images), labels, num_classes, **facts)


def pictures(source: str) -> str:
    """What the images of a data set are called."""
    return "faces" if source == "celeba" else f"images of {SOURCES[source]}"


def command(words: str, options: dict) -> str:
    """The command line of a measurement; an option that is None is left out."""
    texts = [f"python -m lessons_lib {words}"]
    for name, value in options.items():
        if value is not None:
            text = ",".join(map(str, value)) if isinstance(value, tuple) else value
            texts.append(f"--{name.replace('_', '-')} {f'{value:g}' if isinstance(value, float) else text}")
    return " ".join(texts)


def check_card(name: str, dataset: str, source: str) -> None:
    """Refuse before the long work a card that cannot be written, or that would quote the wrong data."""
    check_writable(weights.weights_path(name).with_suffix(".json"))
    if source != dataset:
        raise data.DataError(f"A card needs the real {SOURCES[dataset]}, which is not on this machine.")


def write_metrics(name: str, **metrics) -> None:
    """Put what was measured into the card of the weights; what else it says stays."""
    with lock(weights.weights_path(name), weights.PATIENCE):
        card = weights.read_card(name)
        weights.write_card(name, card | {"metrics": card.get("metrics", {}) | metrics})


def measure_judge(judge: Judge, write: bool = False) -> dict:
    """The evaluator on all test images, for JSON; with `write`, into its card, the reference beside it."""
    names = judge.attributes if judge.dataset == "celeba" else ()
    tested = judge.images("test")
    if write:
        check_card(judge.name, judge.dataset, tested.source)
    result = {
        "command": command(f"evaluate evaluator {judge.dataset}", {"evaluator_weights": judge.named}),
        "images": f"{len(tested):,} test {pictures(tested.source)}",
    }
    if names:
        labels = tested.labels[:, [data.ATTRIBUTES.index(name) for name in names]] == 1
        result |= _attributes_right(names, judge.over(quality.read_attributes, tested) >= 0.5, labels)
    else:
        accuracy = Accuracy.of(judge.over(quality.predictions, tested), tested.labels)
        result["accuracy"] = accuracy.as_json(tested.class_names)
    if write:
        with atomic_write(judge.reference_path) as temporary, open(temporary, "wb") as file:
            judge.measure_reference().save(file)
        write_metrics(judge.name, test=result)
    return result


def _attributes_right(names: tuple[str, ...], read: Tensor, labels: Tensor) -> dict:
    """read and labels: [N, A] bool. The commonest answer is what always saying yes, or no, would reach."""
    commonest = torch.maximum(labels.sum(dim=0), (~labels).sum(dim=0)).double() / len(labels)
    columns = zip(names, (read == labels).unbind(dim=1), commonest.tolist(), strict=True)
    return {
        "mean_accuracy": round(Share.of((read == labels).flatten()).value, 5),
        "mean_of_commonest_answer": round(float(commonest.mean()), 5),
        "by_attribute": {
            name: Measurement(Share.of(right).as_json(), commonest_answer=round(share, 5))
            for name, right, share in columns
        },
    }


def accuracy_lines(document: dict) -> str:
    """An accuracy overall and by class, for people."""
    if document["accuracy"] is None:
        return "read right   – (no labels were asked for)"
    by_class = document["accuracy"]["by_class"].items()
    shares = {"read right": document["accuracy"], **{f"  as {name}": share for name, share in by_class}}
    width = max(12, *map(len, shares))
    return "\n".join(f"{name:{width}} {share}, {share['total']:,} images" for name, share in shares.items())


def measure_reading(dataset: str, name: str, device: str, write: bool = False) -> dict:
    """A classifier of noisy images on all test images at several t, for JSON; with `write`, into its card."""
    model, schedule, _ = load_model(name, device)
    if not isinstance(model, NoisyClassifier):
        raise weights.WeightsError(f"The weights {name!r} are no classifier of noisy images.")
    tested = data.test_images(dataset)
    if write:
        check_card(name, dataset, tested.source)
    # Evenly spaced from 0 to T - 1, and the last t whose signal-to-noise ratio is at least 1/4.
    even = {round(k * (schedule.num_timesteps - 1) / (POINTS - 1)) for k in range(POINTS)}
    at = sorted(even | {max(0, int((schedule.snr >= 0.25).sum()) - 1)})
    shares = read_at(model, schedule, *tested.batch(torch.arange(len(tested))), at)
    options = {"classifier": None if name == f"{dataset}-noisy-classifier" else name}
    result = {
        "command": command(f"evaluate timesteps {dataset}", options),
        "images": f"{len(tested):,} test {pictures(tested.source)}",
        "by_timestep": [
            {"t": t, "snr": float(f"{float(schedule.snr[t]):.4g}"), "accuracy": share.as_json()}
            for t, share in shares.items()
        ],
    }
    if write:
        write_metrics(name, reading=result)
    return result


def report(name: str, document: dict) -> str:
    """What `measure_judge` or `measure_reading` gives, for people."""
    first, line = f"{name} on {document['images']}", "  t = {t:4}, SNR {snr:<9.3g} {accuracy}"
    if "accuracy" in document:
        return f"{first}\n{accuracy_lines(document)}"
    if "by_timestep" in document:
        return "\n".join([f"{first}, read right:", *map(line.format_map, document["by_timestep"])])
    right, commonest = document["mean_accuracy"], document["mean_of_commonest_answer"]
    always = f"({commonest:.1%} by always giving the commonest)"
    lines = [
        f"  {attribute:20} {share:.1%} (commonest answer {share['commonest_answer']:.1%})"
        for attribute, share in document["by_attribute"].items()
    ]
    return "\n".join([f"{first}: {right:.1%} of all answers right {always}", *lines])


@torch.no_grad()
def read_at(
    model: NoisyClassifier, schedule: NoiseSchedule, images: Tensor, labels: Tensor, at: list[int]
) -> dict[int, Share]:
    """The share of images [N, C, H, W] read as their label at each t; image k's noise is that of (0, k)."""
    right = dict.fromkeys(at, 0)
    for places in torch.arange(len(images)).split(quality.BATCH):
        x_0, y = images[places], labels[places]
        eps = SampleNoise([(0, k) for k in places.tolist()])(x_0)
        for t in right:
            t_all = torch.full((len(y),), t)
            x_t = quality.like(model, q_sample(schedule, x_0, t_all, eps))
            right[t] += int((model(x_t, t_all.to(x_t.device)).argmax(1).cpu() == y).sum())
    return {t: Share(count, len(images)) for t, count in right.items()}
