"""How good are drawn images and counterfactuals? Judged by a network that did not draw or guide them.

quality.py: accuracy, feature FID and diversity of drawn images. axioms.py: the axioms and distances of
counterfactuals. judge.py and task.py: what the command line measures.
"""

from lessons_lib.evaluation.axioms import Intervention, measure_axioms, measure_flips, real_features
from lessons_lib.evaluation.axioms import composition, effectiveness, minimality, proximity, reversibility
from lessons_lib.evaluation.quality import FeatureStatistics, Mean, Reference, Share, wilson_interval
from lessons_lib.evaluation.quality import accuracy, class_spread, labels_by_frequency
from lessons_lib.evaluation.quality import feature_fid, feature_kid, features, fid_of_features
from lessons_lib.evaluation.quality import read_attributes, share_of_yes
