"""What the tests of the commands and of the panels share: networks that answer, what a user reads."""

import csv
import json

import torch
from numeric import SEED

from lessons_lib.classifier import Evaluator, EvaluatorConfig, NoisyClassifier, NoisyClassifierConfig
from lessons_lib.data import ATTRIBUTES
from lessons_lib.flow_map import FlowMap, FlowMapConfig
from lessons_lib.unet import UNet, UNetConfig
from lessons_lib.weights import save_pretrained


class Images:
    """Random images in memory, of three labels; they note which were asked for."""

    def __init__(self, count=24, size=8, dtype=torch.float32):
        self.x = torch.randn(count, 1, size, size, generator=torch.Generator().manual_seed(9)).to(dtype)
        self.y = torch.arange(count) % 3
        self.asked = []

    def __len__(self):
        return len(self.y)

    def batch(self, indices):
        self.asked.append(indices.tolist())
        return self.x[indices], self.y[indices]


class Judge(torch.nn.Module):
    """A judge whose features and answers are known functions of the images."""

    def __init__(self, features, answers):
        super().__init__()
        self.anchor = torch.nn.Parameter(torch.zeros(1))
        self.features, self.forward, self.probabilities = features, answers, answers


def awake(network, std=0.05, every=False):
    """A fresh network ends in zeros, and would answer 0 whatever it is asked."""
    for parameter in network.parameters():
        if every or not parameter.any():
            torch.nn.init.normal_(parameter, std=std)
    return network.eval()


def tiny_unet(**shape):
    """An awake U-Net for images of 8×8 pixels."""
    torch.manual_seed(SEED)
    usual = {"image_size": 8, "base_channels": 32, "channel_mults": (1, 2), "embedding_channels": 16}
    return awake(UNet(UNetConfig(**usual | shape)))


def tiny_flow_map(**shape):
    """An awake flow map of ten classes, T = 40."""
    torch.manual_seed(SEED + 2)
    usual = {"channel_mults": (1, 1, 1), "embedding_channels": 16, "v_timesteps": 40}
    return awake(FlowMap(FlowMapConfig(**usual | shape)))


def tiny_reader(noisy=True, **shape):
    """An awake classifier of noisy images, or an evaluator, for 8×8 pixels and three classes."""
    torch.manual_seed(SEED + 1)
    shape = {"image_size": 8, "widths": (32, 32), "num_classes": 3} | shape
    if noisy:
        return awake(NoisyClassifier(NoisyClassifierConfig(**shape, embedding_channels=16)))
    return awake(Evaluator(EvaluatorConfig(**shape)))


def save(path, network, schedule=None, names=(), **defaults):
    """Write weights whose card has these class names and defaults; returns the path."""
    card = {"defaults": defaults} | ({"class_names": list(names)} if names else {})
    save_pretrained(path, network, schedule, card)
    return path


def write_celeba_lists(folder, answers, parts, names=ATTRIBUTES, suffix=".txt"):
    """CelebA's two lists, as its authors or (.csv) Kaggle write them; a row of 40 answers a picture."""
    gap, head = (",", ["image_id"]) if suffix == ".csv" else (" ", [])
    lines = [gap.join([*head, *names])] if head else [str(len(answers)), " ".join(names) + " "]
    splits, order = ["image_id,partition"] if head else [], [ATTRIBUTES.index(name) for name in names]
    for k, (mine, part) in enumerate(zip(answers, parts, strict=True)):
        lines.append(gap.join([f"{k:06d}.jpg", *(str(mine[place]) for place in order)]))
        splits.append(f"{k:06d}.jpg{gap}{part}")
    (folder / f"list_attr_celeba{suffix}").write_text("\n".join(lines) + "\n")
    (folder / f"list_eval_partition{suffix}").write_text("\n".join(splits) + "\n")


def copy_weights(source, target):
    """Copy weights and card: paths without their endings."""
    for suffix in (".safetensors", ".json"):
        target.with_suffix(suffix).write_bytes(source.with_suffix(suffix).read_bytes())


def everything(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def sentence(err):
    """What a user reads last; a progress bar may stand before it on its line."""
    return err.strip().split("\n")[-1].split("\r")[-1].strip()


def good(result):
    """What a command has printed; result: its exit status, stdout and stderr."""
    status, out, err = result
    assert status == 0, err
    return out


def noted(monkeypatch, owner, name, note):
    """What note makes of each call of a function, which does its work all the same."""
    notes, work = [], getattr(owner, name)

    def noting(*given):
        notes.append(note(*given))
        return work(*given)

    monkeypatch.setattr(owner, name, noting)
    return notes


def report_of(result):
    """The JSON that a command has printed, all of it numbers."""

    def refuse(text):
        raise AssertionError(f"{text} is no JSON")

    return json.loads(good(result), parse_constant=refuse)


def refused(result, words):
    """The command has said one sentence with these words, and nothing else."""
    status, out, err = result
    lines = [line for line in err.strip().split("\n") if "MNIST is not here" not in line]
    assert status == 2 and out == "" and len(lines) == 1 and words in sentence(err), result


def without_time(report):
    """A report, but for what differs when it is measured again."""
    return {name: value for name, value in report.items() if not name.startswith("seconds")}


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
