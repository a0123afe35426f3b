"""The panels of the lessons: sliders and pictures only. The numbers come from the rest of the library.

Read panel.py for the manners and pictures that all of them share, controls.py for their controls, digits.py
for the first panel and what it draws, then one file for each other panel.
"""

from classroom.panels.comparison import ModelComparison
from classroom.panels.counterfactual_explorer import CounterfactualExplorer
from classroom.panels.digits import DigitGenerator, Drawing, Reading, draw_digit
from classroom.panels.face_panel import FacePanel
from classroom.panels.features import FeatureExplorer
from classroom.panels.meter import InterventionMeter
from classroom.panels.noise import NoiseExplorer
from classroom.panels.noise_reader import NoiseReader
from classroom.panels.objects import ObjectGenerator
from classroom.panels.panel import Panel
from classroom.panels.pull import GradientOverlay
from classroom.panels.race import SamplerRace
from classroom.panels.schedule_explorer import ScheduleExplorer
from classroom.panels.sketch import DrawnCounterfactuals
from classroom.panels.steering import MethodComparison
from classroom.panels.ten_digits import TenDigits

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
    "TenDigits",
    "draw_digit",
]
