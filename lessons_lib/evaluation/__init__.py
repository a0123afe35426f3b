"""How good are drawn images and counterfactuals? Judged by a network that did not draw or guide them.

quality.py: accuracy, feature FID and diversity of drawn images. axioms.py: the axioms and distances of
counterfactuals. judge.py and task.py: what the command line measures.
"""

from lessons_lib.evaluation.axioms import (
    Intervention,
    composition,
    effectiveness,
    measure_axioms,
    measure_flips,
    minimality,
    proximity,
    real_features,
    reversibility,
)
from lessons_lib.evaluation.quality import (
    FeatureStatistics,
    Mean,
    Reference,
    Share,
    accuracy,
    class_spread,
    feature_fid,
    feature_kid,
    features,
    fid_of_features,
    labels_by_frequency,
    read_attributes,
    share_of_yes,
    wilson_interval,
)
