"""The figures of the lessons. Everything here takes images in [-1, 1] and shows them in [0, 1].

basics.py shows and arranges; architecture.py draws a U-Net; drift.py what else an attribute's guidance
changes; faults.py three faulty guidances; paths.py points that move in the plane; sweeps.py the curves of a
sweep, whose tables curves.py reads.
"""
# ruff: noqa: F401 (the names are for the lessons)

from classroom.figures.architecture import Stage, draw_unet, unet_stages
from classroom.figures.basics import (
    DATA,
    ESTIMATE,
    GIF_ZOOM,
    GUIDANCE,
    PAGE,
    LiveLoss,
    add_share,
    arrow_field,
    figure_png,
    film_png,
    image_row,
    ink,
    label_ends,
    level,
    log_steps,
    picture_of,
    show_figure,
    with_changes,
)
from classroom.figures.curves import BLUE, GREEN, GREY, ORANGE, figure, read_table
from classroom.figures.drift import association_figure, drift_figure
from classroom.figures.faults import faults_figure
from classroom.figures.paths import arc_and_chord, paths_film, points_row
from classroom.figures.sweeps import (
    face_sweep_figure,
    steps_figure,
    sweep_figure,
    validity_lines,
    validity_proximity_figure,
)
