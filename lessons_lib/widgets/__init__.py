"""The panels of the lessons: sliders and pictures only. The numbers come from the rest of the library.

Read panel.py for the manners that all of them share, drawing.py for what they draw, controls.py for their
parts, then one file for each panel.
"""

from lessons_lib.widgets.comparison import ModelComparison
from lessons_lib.widgets.counterfactuals import CounterfactualExplorer
from lessons_lib.widgets.digits import DigitGenerator
from lessons_lib.widgets.drawing import Drawing, Reading, draw_digit
from lessons_lib.widgets.faces import FacePanel
from lessons_lib.widgets.features import FeatureExplorer
from lessons_lib.widgets.meter import InterventionMeter
from lessons_lib.widgets.noise import NoiseExplorer
from lessons_lib.widgets.objects import ObjectGenerator
from lessons_lib.widgets.panel import Panel
from lessons_lib.widgets.pull import GradientOverlay
from lessons_lib.widgets.race import SamplerRace
from lessons_lib.widgets.reading import NoiseReader
from lessons_lib.widgets.schedules import ScheduleExplorer
from lessons_lib.widgets.sketch import DrawnCounterfactuals
from lessons_lib.widgets.steering import MethodComparison

__all__ = [
    "CounterfactualExplorer",
    "DigitGenerator",
    "Drawing",
    "DrawnCounterfactuals",
    "FacePanel",
    "FeatureExplorer",
    "GradientOverlay",
    "InterventionMeter",
    "MethodComparison",
    "ModelComparison",
    "NoiseExplorer",
    "NoiseReader",
    "ObjectGenerator",
    "Panel",
    "Reading",
    "SamplerRace",
    "ScheduleExplorer",
    "draw_digit",
]
