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


CFG_OR_NONE = "cfg (classifier-free guidance), or none: the unconditional model, which ignores labels."
W_HELP = "w of the guidance: 0 unconditional, 1 conditional, above 1 amplified. [default: the card's]"
WEIGHTS_HELP = "Name of shipped weights, or path of a .safetensors. [default: DATASET-denoiser]"
OUT_HELP = "FILE.png (a row a label), .gif (the denoising) or .npz (images in [0, 1], labels)."
PRECISION_HELP = "auto (bf16 where the hardware multiplies it), float32, bf16, fp16."
OUTPUT_HELP = "With --model all, the folder of both folders. [default: runs/DATASET-MODEL]"

# -- every command --
Dataset = Annotated[str, Argument(help="The data set: mnist.", metavar="DATASET")]
Device = Annotated[str, Option(help="auto (CUDA if there is one, else cpu), cpu, cuda, mps.")]
Seed = Annotated[int, Option(help="Decides all random numbers.")]

# -- train --
Model = Annotated[str, Option(help="denoiser, evaluator or all.")]
Epochs = Annotated[int | None, Option(help="Passes over the images. [default: the recipe's]")]
TrainBatchSize = Annotated[int | None, Option(help="Images a step, all processes together.")]
LearningRate = Annotated[float | None, Option(help="Peak learning rate.", parser=_number, metavar="LR")]
Timesteps = Annotated[int, Option(help="T of the noise schedule.")]
Schedule = Annotated[str, Option(help="linear, cosine or sigmoid.")]
Loss = Annotated[str, Option(help="mse or l1.")]
PUncond = Annotated[float, Option(help="Share of labels dropped, for guidance.", parser=_number, metavar="P")]
TrainPrecision = Annotated[str, Option(help=PRECISION_HELP)]
EmaDecay = Annotated[float | None, Option(help="Of the weights' average.", parser=_number, metavar="DECAY")]
SampleEvery = Annotated[int, Option(help="Epochs between grids of samples; 0 never.")]
KeepEpochs = Annotated[bool, Option("--keep-epochs", help="Keep the weights of every epoch.")]
OutputDir = Annotated[Path | None, Option(help=OUTPUT_HELP)]
Resume = Annotated[bool, Option("--resume", help="Go on from the checkpoint in the output folder.")]
MaxSeconds = Annotated[
    float | None, Option(help="Stop by the clock; for each model.", parser=_number, metavar="SECONDS")
]

# -- sample and evaluate --
Guidance = Annotated[str, Option(help=CFG_OR_NONE)]
Scale = Annotated[float | None, Option(help=W_HELP, parser=_number, metavar="W")]
Sampler = Annotated[str | None, Option(help="ddim or ddpm. [default: the card's]")]
Steps = Annotated[int | None, Option(help="Network evaluations an image, 1 to T. [default: the card's]")]
Weights = Annotated[str | None, Option(help=WEIGHTS_HELP)]
BatchSize = Annotated[int, Option(help="Images drawn at once; changes speed and memory, not the noise.")]
NetworkPrecision = Annotated[str, Option(help="Of the network: float32 or bf16.")]

# -- sample --
Out = Annotated[Path, Option(help=OUT_HELP)]
Labels = Annotated[str, Option(help="Labels with commas between, such as 0,1,2; or all.")]
NumPerLabel = Annotated[int, Option(help="Images of each label.")]
Individual = Annotated[Path | None, Option(help="A folder that gets one PNG an image too.")]

# -- evaluate --
NumSamples = Annotated[int, Option(help="Images drawn, in the training set's class frequencies.")]
EvaluatorWeights = Annotated[str | None, Option(help="The judge: name or path. [default: DATASET-evaluator]")]
Evaluator = Annotated[bool, Option("--evaluator", help="Measure the judge itself, on the test images.")]
Card = Annotated[
    bool, Option("--card", help="Run the standard evaluations and write them into the weights' card.")
]
Json = Annotated[bool, Option("--json", help="Print one JSON object and nothing else.")]

# -- check --
Notebooks = Annotated[
    list[Path],
    Argument(help="A learner's notebook, in any folder; several are checked in turn.", metavar="NOTEBOOK"),
]
