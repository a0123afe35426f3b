"""How sound are counterfactuals of real test digits? Effectiveness, composition, reversibility, proximity.

    python -m benchmarks.counterfactuals [--num-images 1000] [--null-images 100] [--methods ddim]
                                         [--scales 3] [--threads 2] [--json]

takes test digits back to the noise under their own labels (25 steps), asks for one random other label each,
and judges the results with the evaluator, which guides nothing. Every intervention starts from 8-bit pixels.
A null intervention, to the image's own label, asks for no change, so it is decoded at w = 1; it is repeated
ten times on the first --null-images digits.
"""

from __future__ import annotations

import json

import torch

from benchmarks import parser, prepare
from lessons_lib import data, metrics
from lessons_lib.generation import CounterfactualRequest, counterfactual_images, load_model


def intervention(method: str, scale: float, steps: int):
    """(x_0, source, target) -> counterfactuals, as `metrics.measure_axioms` calls it."""

    def intervene(x_0, source, target):
        is_null = bool((source == target).all())
        request = CounterfactualRequest(
            tuple(source.tolist()), tuple(target.tolist()), method=method,
            guidance_scale=1.0 if is_null else scale, steps=steps,
        )  # fmt: skip
        return counterfactual_images(request, x_0)

    return intervene


def main() -> None:
    """Measure each method at each scale and print."""
    options = parser(__doc__)
    options.add_argument("--num-images", type=int, default=1000)
    options.add_argument("--null-images", type=int, default=100)
    options.add_argument("--methods", default="ddim")
    options.add_argument("--scales", default="3")
    options.add_argument("--steps", type=int, default=25)
    arguments = options.parse_args()
    machine = prepare(arguments.threads)
    evaluator, _, _ = load_model("mnist-evaluator")
    test = data.load("mnist", "test")
    x_0, source = test.batch(torch.arange(arguments.num_images))
    jump = torch.randint(1, 10, (len(source),), generator=torch.Generator().manual_seed(0))
    target = (source + jump) % 10
    results = []
    for method in arguments.methods.split(","):
        for scale in map(float, arguments.scales.split(",")):
            intervene = intervention(method, scale, arguments.steps)
            report = metrics.measure_axioms(intervene, evaluator, x_0, source, target, times=())
            nulls = slice(0, arguments.null_images)
            kept = metrics.composition(intervene, x_0[nulls], source[nulls], (1, 10))
            results.append({
                "method": method, "guidance_scale": scale, "steps": arguments.steps, **report.as_json(),
                "composition": {str(times): round(float(error), 5) for times, error in kept.items()},
            })  # fmt: skip
            if not arguments.json:
                print(told(results[-1]), flush=True)
    if arguments.json:
        print(json.dumps({"results": results, "source": test.source, "machine": machine}))


def told(result: dict) -> str:
    """A result in two lines."""
    back = result["reversibility"]
    return (
        f"{result['method']}, w={result['guidance_scale']:g}, {result['num_images']} images: "
        f"read as the target {result['effectiveness']['value']:.1%}, "
        f"L1 {result['proximity']['l1']['value']:.3f}\n  there and back: read as the source "
        f"{back['read_as_source']['value']:.1%}, off by {back['error']['value']:.3f}; "
        f"null interventions off by {result['composition']['1']:.4f} after 1, "
        f"{result['composition']['10']:.4f} after 10"
    )


if __name__ == "__main__":
    main()
