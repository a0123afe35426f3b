"""The panels of the lessons: sliders and pictures only. The numbers come from the rest of the library.

Read panel.py for what all of them share, film.py for what they show, digits.py for the first one, then one
file for each other panel. strip.js and pad.js are what the page needs besides, world.js moves by itself.

In all of them: `weights`, `classifier` and `evaluator` are weights by name or path, an evaluator of None
reads nothing; `digit`, `guidance_scale`, `steps`, `seed` and `t` say where the controls start; what is
`folded` waits behind "More". What no panel can show is refused in a sentence, a ValueError.
"""

from classroom.panels.background import Training
from classroom.panels.comparison import Comparison
from classroom.panels.counterfactual_explorer import CounterfactualExplorer
from classroom.panels.digits import DigitGenerator
from classroom.panels.face_panel import FacePanel
from classroom.panels.features import FeatureExplorer
from classroom.panels.meter import InterventionMeter
from classroom.panels.noise import NoiseExplorer, NoiseReader
from classroom.panels.objects import ObjectGenerator
from classroom.panels.panel import Panel
from classroom.panels.race import SamplerRace
from classroom.panels.schedule_explorer import ScheduleExplorer
from classroom.panels.sketch import DrawnCounterfactuals
from classroom.panels.ten_digits import TenDigits
from classroom.panels.world import MovingWorld

__all__ = [
    "Comparison",
    "CounterfactualExplorer",
    "DigitGenerator",
    "DrawnCounterfactuals",
    "FacePanel",
    "FeatureExplorer",
    "InterventionMeter",
    "MovingWorld",
    "NoiseExplorer",
    "NoiseReader",
    "ObjectGenerator",
    "Panel",
    "SamplerRace",
    "ScheduleExplorer",
    "TenDigits",
    "Training",
]
