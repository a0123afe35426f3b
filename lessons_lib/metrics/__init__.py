"""How good are drawn images and counterfactuals? Judged by a network that did not draw or guide them.

quality.py: accuracy, feature FID and diversity of drawn images. interventions.py and axioms.py: the axioms
and distances of counterfactuals; report.py has them all in one call. attributes.py: yes-or-no attributes.
"""

from lessons_lib.metrics.attributes import Drift, Flips, measure_flips, read_attributes, share_of_yes
from lessons_lib.metrics.axioms import (
    Effectiveness,
    Minimality,
    Proximity,
    RealFeatures,
    Reversibility,
    composition,
    effectiveness,
    minimality,
    proximity,
    real_features,
    reversibility,
)
from lessons_lib.metrics.interventions import Intervention, Mean, to_8bit
from lessons_lib.metrics.quality import (
    BATCH,
    Accuracy,
    FeatureStatistics,
    Reference,
    Share,
    accuracy,
    class_spread,
    diversity,
    feature_fid,
    feature_statistics,
    features,
    labels_by_frequency,
    measure_reference,
    predictions,
    reference_of,
    wilson_interval,
)
from lessons_lib.metrics.report import AxiomReport, measure_axioms

__all__ = [
    "BATCH",
    "Accuracy",
    "AxiomReport",
    "Drift",
    "Effectiveness",
    "FeatureStatistics",
    "Flips",
    "Intervention",
    "Mean",
    "Minimality",
    "Proximity",
    "RealFeatures",
    "Reference",
    "Reversibility",
    "Share",
    "accuracy",
    "class_spread",
    "composition",
    "diversity",
    "effectiveness",
    "feature_fid",
    "feature_statistics",
    "features",
    "labels_by_frequency",
    "measure_axioms",
    "measure_flips",
    "measure_reference",
    "minimality",
    "predictions",
    "proximity",
    "read_attributes",
    "real_features",
    "reference_of",
    "reversibility",
    "share_of_yes",
    "to_8bit",
    "wilson_interval",
]
