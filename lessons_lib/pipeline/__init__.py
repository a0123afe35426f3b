"""One request in, Steps out: the path of the command line, the widgets, the benchmarks and the evaluation.

request.py says what can be asked for; drawing.py does it. counterfactual.py asks and does the same for images
that are there already.
"""

from lessons_lib.pipeline.counterfactual import (
    COUNTERFACTUAL_GUIDANCES,
    AbductFn,
    CounterfactualRequest,
    abduction,
    check_counterfactual,
    counterfactual_defaults,
    counterfactual_images,
    counterfactuals,
    in_batches,
    tells_sources,
)
from lessons_lib.pipeline.drawing import (
    CLASSIFIER,
    attribute_place,
    check_request,
    generate,
    generate_images,
    generate_with,
    load_model,
    starting_noise,
    with_defaults,
)
from lessons_lib.pipeline.request import (
    BY_CLASSIFIER,
    GUIDANCES,
    PRECISIONS,
    GenerationRequest,
    in_chunks,
)
from lessons_lib.samplers import DEFAULT_SPACING, SAMPLERS, SPACINGS

__all__ = [
    "BY_CLASSIFIER",
    "CLASSIFIER",
    "COUNTERFACTUAL_GUIDANCES",
    "DEFAULT_SPACING",
    "GUIDANCES",
    "PRECISIONS",
    "SAMPLERS",
    "SPACINGS",
    "AbductFn",
    "CounterfactualRequest",
    "GenerationRequest",
    "abduction",
    "attribute_place",
    "check_counterfactual",
    "check_request",
    "counterfactual_defaults",
    "counterfactual_images",
    "counterfactuals",
    "generate",
    "generate_images",
    "generate_with",
    "in_batches",
    "in_chunks",
    "load_model",
    "starting_noise",
    "tells_sources",
    "with_defaults",
]
