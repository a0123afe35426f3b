"""The options of the commands and what --help says of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a number.") from None


def _timesteps(text: str) -> tuple[int, int]:
    try:
        low, high = (int(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not two timesteps such as 200,800.") from None
    return low, high


GUIDANCE_HELP = (
    "cfg (classifier-free), classifier (of noisy images), classifier-x0 (of clean images, reads the "
    "estimate), or none: the unconditional model, which ignores labels."
)
SCALE_HELP = (
    "w of cfg: 0 unconditional, 1 conditional, above 1 amplified; or s of a classifier: 0 unconditional, 1 "
    "Bayes' rule. [default: the card's; 3 for cfg of evaluate counterfactuals]"
)
CLASSIFIER_HELP = (
    "What steers with --guidance classifier or classifier-x0: name or path. [default: the denoiser's card's, "
    "or else mnist-noisy-classifier]"
)
SPACING_HELP = (
    "Of the timesteps: trailing, leading, linspace or logsnr. [default: trailing; logsnr for dpmpp_2m]"
)
INTERVAL_HELP = (
    "The scale holds at these timesteps only, both included; outside them w is 1, or s is 0. [default: all]"
)
WEIGHTS_HELP = (
    "Name of shipped weights, or path of a .safetensors. [default: DATASET-denoiser; of folder:PATH, "
    "runs/NAME-denoiser/NAME-denoiser.safetensors with the folder's own name]"
)
OUT_HELP = "FILE.png (a row a label), .gif (the denoising) or .npz (images in [0, 1], labels)."
PRECISION_HELP = "auto (bf16 where the hardware multiplies it), float32, bf16, fp16."
OUTPUT_HELP = "With --model both or all, the folder of their folders. [default: runs/DATASET-MODEL]"

# -- every command --
Dataset = Annotated[str, Argument(help="The data set: mnist or celeba.", metavar="DATASET")]
Source = Annotated[
    str,
    Argument(
        help="The data set: mnist, cifar10 or celeba; or folder:PATH, your own pictures, with a folder for "
        "each class in PATH, or all in PATH without classes.",
        metavar="DATASET|folder:PATH",
    ),
]
Device = Annotated[str, Option(help="auto (CUDA if there is one, else cpu), cpu, cuda, mps.")]
Seed = Annotated[int, Option(help="Decides all random numbers.")]

# -- train --
Model = Annotated[
    str,
    Option(
        help="denoiser, denoiser-v (answers v; of celeba told attributes), classifier, clean-classifier, "
        "evaluator, second-judge, both (denoiser and classifier) or all (but -v and second-judge)."
    ),
]
Epochs = Annotated[int | None, Option(help="Passes over the images. [default: the recipe's]")]
TrainBatchSize = Annotated[int | None, Option(help="Images a step, all processes together.")]
AccumulationSteps = Annotated[
    int | None, Option(help="Micro-batches that a step is cut into, to save memory. [default: 1]")
]
LearningRate = Annotated[float | None, Option(help="Peak learning rate.", parser=_number, metavar="LR")]
Timesteps = Annotated[int, Option(help="T of the noise schedule.")]
Schedule = Annotated[
    str | None,
    Option(help="linear, cosine or sigmoid. [default: linear for mnist and celeba, else cosine]"),
]
Loss = Annotated[
    str | None,
    Option(help="mse, l1, v-mse, min-snr or held-snr. [default: the recipe's]"),
]
TDensity = Annotated[
    str | None, Option(help="Of t in training: uniform or logit-normal. [default: the recipe's]")
]
LossWeight = Annotated[
    str | None, Option(help="none, or learned for each noise level. [default: the recipe's]")
]
Dropout = Annotated[
    float | None, Option(help="Inside the denoiser's blocks, in training.", parser=_number, metavar="P")
]
ToldAugment = Annotated[
    bool, Option("--told-augment", help="Of a denoiser: distort the images and tell the network how.")
]
LrDecay = Annotated[
    float | None,
    Option(
        help="Last share of the training, over which the learning rate falls to 0. [default: the recipe's]",
        parser=_number,
        metavar="SHARE",
    ),
]
EmaSigmaRel = Annotated[
    float | None,
    Option(
        help="Length of a power law average of the weights, as a share of the training, in place of "
        "--ema-decay. [default: the recipe's]",
        parser=_number,
        metavar="SHARE",
    ),
]
Extend = Annotated[
    bool,
    Option("--extend", help="Prolong the training in the output folder to --epochs, from its constant rate."),
]
PUncond = Annotated[
    float | None,
    Option(
        help="Share of labels dropped, for guidance. [default: 0.2 for denoiser-v, else 0.1]",
        parser=_number,
        metavar="P",
    ),
]
TrainSeed = Annotated[int | None, Option(help="Decides all random numbers. [default: the recipe's]")]
TrainPrecision = Annotated[str, Option(help=PRECISION_HELP)]
EmaDecay = Annotated[float | None, Option(help="Of the weights' average.", parser=_number, metavar="DECAY")]
SampleEvery = Annotated[
    int | None,
    Option(
        help="Epochs between grids of samples; 0 never. [default: 1; 5 for celeba; of your own pictures, 20 "
        "grids]"
    ),
]
KeepEpochs = Annotated[bool, Option("--keep-epochs", help="Keep the weights of every epoch.")]
OutputDir = Annotated[Path | None, Option(help=OUTPUT_HELP)]
Start = Annotated[
    str | None,
    Option(help="Train on from these weights, a name or path; of the same network.", metavar="WEIGHTS"),
]
Resume = Annotated[bool, Option("--resume", help="Go on from the checkpoint in the output folder.")]
ImageSize = Annotated[
    int | None,
    Option(
        help="Of celeba: pixels a side, a multiple of 16. [default: 64] Of your own pictures: a multiple of "
        "4. [default: the median of their shorter sides, at most 64]",
        metavar="N",
    ),
]
Channels = Annotated[
    int | None,
    Option(
        help="Of your own pictures: 1 (grey) or 3 (colour). [default: 1 if all are grey, else 3]",
        metavar="1|3",
    ),
]
Strict = Annotated[
    bool,
    Option("--strict", help="Stop at a picture of yours that cannot be read, instead of skipping it."),
]
Flip = Annotated[
    bool | None,
    Option(
        help="Show your own pictures mirrored, too: right for faces and most things, wrong for digits and "
        "letters. [default: no-flip]"
    ),
]
MaxSeconds = Annotated[
    float | None, Option(help="Stop by the clock; for each model.", parser=_number, metavar="SECONDS")
]

Attribute = Annotated[
    str | None,
    Option(
        help="Of celeba: the attributes that the classifier and the evaluator read, such as "
        "Smiling,Eyeglasses. [default: all 40]",
        metavar="NAME[,NAME]",
    ),
]
OneAttribute = Annotated[
    str | None, Option(help="Of celeba: what is asked for, such as Smiling. [default: Smiling of evaluate]")
]
Target = Annotated[
    str | None,
    Option(
        help="Of celeba: 1 (yes), 0 (no), or of sample none. [default: 1; of counterfactual what is not read]"
    ),
]
NumFaces = Annotated[int | None, Option(help="Of celeba: how many faces to draw. [default: 16]")]
Fraction = Annotated[
    float | None,
    Option(help="Of celeba: the share of the faces to use. [default: 1]", parser=_number, metavar="SHARE"),
]

# -- sample and evaluate --
Guidance = Annotated[str, Option(help=GUIDANCE_HELP)]
Scale = Annotated[float | None, Option(help=SCALE_HELP, parser=_number, metavar="W")]
Classifier = Annotated[str | None, Option(help=CLASSIFIER_HELP)]
Interval = Annotated[str | None, Option(help=INTERVAL_HELP, parser=_timesteps, metavar="LOW,HIGH")]
Sampler = Annotated[str | None, Option(help="ddim, ddpm or dpmpp_2m. [default: the card's]")]
Spacing = Annotated[str | None, Option(help=SPACING_HELP)]
Steps = Annotated[
    int | None,
    Option(
        help="Network evaluations an image, 1 to T. [default: the card's; of evaluate counterfactuals "
        "25, of evaluate celeba 50]"
    ),
]
Weights = Annotated[str | None, Option(help=WEIGHTS_HELP)]
BatchSize = Annotated[int, Option(help="Images drawn at once; changes speed and memory, not the noise.")]
NetworkPrecision = Annotated[str, Option(help="Of the network: float32 or bf16.")]

# -- sample --
Out = Annotated[Path, Option(help=OUT_HELP)]
Labels = Annotated[str, Option(help="Labels with commas between, such as 0,1,2 or cat,dog,3; or all.")]
NumPerLabel = Annotated[int, Option(help="Images of each label.")]
Individual = Annotated[Path | None, Option(help="A folder that gets one PNG an image too.")]

# -- evaluate --
EvaluatorWeights = Annotated[str | None, Option(help="The judge: name or path. [default: DATASET-evaluator]")]
Json = Annotated[bool, Option("--json", help="Print one JSON object and nothing else.")]

# -- counterfactual --
Image = Annotated[
    Path | None,
    Option(help="A picture of a digit, of any size and colour; or an aligned face.", metavar="FILE"),
]
Index = Annotated[int | None, Option(help="The N-th test image instead, from 0.", metavar="N")]
SourceClass = Annotated[
    str | None,
    Option(help="What the image is. [default: the test image's label, or what is read in --image]"),
]
TargetClass = Annotated[str, Option(help="What it should have been: labels such as 3 or 3,8; or all.")]
Method = Annotated[
    str,
    Option(
        help="ddim (inversion), ddpm (edit-friendly inversion), sdedit or same-noise (ignores the image)."
    ),
]
DecodingGuidance = Annotated[
    str, Option(help="cfg (classifier-free), or classifier (of noisy images, on the unconditional model).")
]
Depth = Annotated[
    int | None, Option(help="The timestep that the image is taken back to. [default: T-1]", metavar="T0")
]
DecodingSteps = Annotated[
    int | None,
    Option(help="Of the whole way from T-1; those up to --depth are taken. [default: 25; of celeba 50]"),
]
Row = Annotated[
    Path | None,
    Option(
        help="FILE.png (source, counterfactuals, what changed), .gif (the way) or .npz (images in [0, 1], "
        "labels: the targets; source).",
        metavar="FILE",
    ),
]
Folder = Annotated[
    Path | None, Option(help="A folder that gets all three, and the measures as JSON.", metavar="DIR")
]
