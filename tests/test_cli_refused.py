"""What the commands of digits refuse: one sentence, before any work, and nothing is written.

What the requests behind them refuse stands with the pipeline; here is one of each kind.
"""

import pytest
from command_tools import everything, refused

WEIGHTS = "--weights {tiny}/denoiser.safetensors"
JUDGED = WEIGHTS + " --evaluator-weights {tiny}/judge.safetensors"
FEW = JUDGED + " --num-samples 6 --steps 3"
SWEPT = JUDGED + " --num-samples 12 --classifier {tiny}/guide.safetensors"
# Of each command, which may say an option twice: the later one wins.
REFUSED = {
    "": {
        "evaluate cats": "No such command 'cats'.",
        "sample cats --out x.png": "Unknown data set 'cats': choose mnist, cifar10 or celeba.",
        "sample": "Missing",
        "smaple": "smaple",
        "train cifar10 --model classifier": "choose one of denoiser, evaluator, second-judge",
        "evaluate evaluator cifar10 --evaluator-weights {tiny}/judge.safetensors": "CIFAR-10 is not here",
        "evaluate mnist --evaluator-weights {tiny}/denoiser.safetensors": "no evaluator",
        "evaluate timesteps mnist --classifier {tiny}/judge.safetensors": "no classifier of noisy images",
        "evaluate timesteps mnist --classifier {tiny}/none.safetensors": "There are no weights",
        "evaluate timesteps mnist --card --classifier {tiny}/guide.safetensors": "needs the real MNIST",
    },
    f"sample mnist {WEIGHTS} --out out.png": {
        "--labels 3,x": "Unknown label 'x': choose from 0 to 9, or all.",
        "--guidance-scale abc": "'abc' is not a number",
        "--guidance maybe": "Unknown guidance 'maybe': choose one of none, cfg, classifier, classifier-x0.",
        "--guidance classifier --classifier {tiny}/other-T.safetensors": "another schedule (linear, T=50;",
        "--steps 41": "between 1 and 40 (T), got 41",
        "--steps 2.5": "--steps",
        "--num-per-label 0": "at least 1, got 0",
        "--batch-size 0": "at least 1, got 0",
        "--device quantum": "Unknown device 'quantum'",
        "--weights no-such": "There are no weights 'no-such'",
        "--weights {tiny}/judge.safetensors": "no denoiser",
        "--out x.jpg": "must end in .png, .gif or .npz, got 'x.jpg'",
        "--out full.png/x.png": "cannot be written",
        "--out folder.png": "it is a folder",
        "--individual full.png": "it is a file",
    },
    "sample mnist --weights {tiny}/flow-map.safetensors --out out.png": {
        "--guidance-scale 8.5": "learned scales up to 8, not 8.5.",
        "--guidance classifier --classifier {tiny}/guide.safetensors": "no other, not 'classifier'.",
        "--guidance none": "flow-map.safetensors' learned guidance 'cfg' and no other, not 'none'.",
        "--sampler ddim": "jumps without a sampler: name none, not 'ddim'.",
        "--spacing logsnr": "learned steps of trailing spacing, not 'logsnr'.",
        "--interval 5,20": "learned one scale for the whole way: it takes no interval.",
        "--precision bf16": "draws in float32 only, not in bf16.",
        "--steps 41": "between 1 and 40 (T), got 41",
    },
    "counterfactual mnist --weights {tiny}/flow-map.safetensors --index 1 --out x.png": {
        "--evaluator-weights {tiny}/judge.safetensors": "only draws from noise: for counterfactuals take a"
    },
    "train mnist --model denoiser": {
        "--model gan": "classifier, clean-classifier, evaluator, denoiser-v, flow-map, second-",
        "--ema-sigma-rel 0.1 --ema-decay 0.9": "are two averages: choose one.",
        "--extend": "--extend goes on to more --epochs: name them.",
        "--extend --epochs 9": "There is nothing to extend in runs/mnist-denoiser.",
        "--dropout 2": "dropout must be in [0, 1)",
        "--loss v-mse": "The loss v-mse is for a network that answers v",
        "--model evaluator --dropout 0.1": "--dropout belongs to a denoiser",
        "--lr fast": "'fast' is not a number",
        "--device quantum": "Unknown device 'quantum'",
        "--output-dir full.txt": "it is a file",
        "--output-dir full.txt/below": "cannot be written",
    },
    f"counterfactual mnist {JUDGED} --steps 3 --out x.png": {
        "": "Name one image: a picture with --image FILE, or a test image with --index N.",
        "--index 1 --image mine.png": "Name one image",
        "--index 200": "--index must be between 0 and 199, got 200.",
        "--index one": "--index",
        "--image none.png": "none.png",
        "--image text.png": "text.png",
        "--index 1 --source-class 10": "Unknown source class '10': choose from 0 to 9.",
        "--index 1 --evaluator-weights {tiny}/guide.safetensors": "are no evaluator",
        "--index 1 --out x.jpg": "must end in .png, .gif or .npz, got 'x.jpg'",
        "--index 1 --out text.png/x.png": "cannot be written",
        "--index 1 --output-dir text.png": "it is a file",
    },
    f"evaluate counterfactuals {FEW}": {
        "--num-samples 201": "--num-samples must be between 1 and 200 (test images), got 201.",
        "--null-images 7": "--null-images must be between 0 and 6 (--num-samples), got 7.",
        "--evaluator-weights {tiny}/guide.safetensors": "are no evaluator",
        "--weights {tiny}/unlabelled.safetensors": "Unknown label 0",
        "--sampler ddim": "No such option: --sampler",
        "--out x.csv": "No such option: --out",
    },
    f"sweep counterfactuals {FEW}": {
        "--out x.csv --methods cfg": "Unknown method 'cfg': choose from ddim, ddpm, sdedit, same-noise.",
        "--out x.csv --depths 2.5": "'--depths': '2.5' is not a whole number.",
        "--out x.csv --methods same-noise --depths 30": "takes no --depths.",
    },
    f"sweep mnist {SWEPT}": {
        "": "Missing option '--out'",
        "--out sweep.png": "got 'sweep.png'.",
        "--out sweep.csv --scales 0,x": "'--scales': 'x' is not a number.",
        "--out sweep.csv --methods none": "Unknown method 'none': choose from cfg, classifier",
        "--out sweep.csv --guidance-scale 2": "No such option: --guidance-scale",
        "--out sweep.csv --methods cfg": "--classifier steers nothing here",
        "--out sweep.csv --weights {tiny}/flow-map.safetensors": "--classifier steers nothing here",
        "--out sweep.csv --interval 5": "'5' is not two timesteps such as 200,800.",
        "--out sweep.csv --interval 20,5": "with 0 <= t_low <= t_high <= 39, got (20, 5).",
        "--out other.csv": "other.csv is no table of a sweep: name another --out, or delete it.",
        "--out binary.csv": "is no table of a sweep",
        "--out folder.csv": "it is a folder",
    },
}
CASES = {f"{command} {words}": said for command, table in REFUSED.items() for words, said in table.items()}


@pytest.mark.parametrize("words", CASES)
def test_what_is_wrong_is_one_sentence_before_any_work(run, here, tiny, monkeypatch, words):
    for name in ("full.png", "full.txt", "text.png", "other.csv", "binary.csv"):
        (here / name).write_bytes(b"steps,accuracy\n1,2\n" if name != "binary.csv" else b"PK\x03\x04\xff\x00")
    for name in ("folder.png", "folder.csv"):
        (here / name).mkdir()
    for work in ("cli.common.generate", "pipeline.counterfactual_images"):
        monkeypatch.setattr(f"lessons_lib.{work}", lambda *_, **__: pytest.fail("it works"))
    before = everything(here), {path.name: path.read_bytes() for path in tiny.iterdir()}
    refused(run(words.format(tiny=tiny)), CASES[words])
    assert (everything(here), {path.name: path.read_bytes() for path in tiny.iterdir()}) == before
