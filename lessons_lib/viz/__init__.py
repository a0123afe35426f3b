"""Figures, grids of images and GIFs. Everything here takes images in [-1, 1] and shows them in [0, 1].

images.py has pixels, PNGs and GIFs; figures.py what the lessons show; architecture.py the drawing of a U-Net;
differences.py an image beside what became of it; validity.py how far counterfactuals go for what they reach;
faces.py what else an attribute's guidance changes.
"""

from lessons_lib.viz.architecture import Stage, draw_unet, unet_stages
from lessons_lib.viz.differences import changes_grid, difference_maps
from lessons_lib.viz.faces import association_figure, drift_figure, face_sweep_figure
from lessons_lib.viz.figures import (
    BLUE,
    GIF_ZOOM,
    GREEN,
    GREY,
    ORANGE,
    LiveLoss,
    add_share,
    arrow_field,
    figure,
    image_row,
    log_steps,
    named_lines,
    read_table,
    show_figure,
    sweep_figure,
)
from lessons_lib.viz.images import (
    denoising_frames,
    gif_bytes,
    png_bytes,
    save_gif,
    save_png,
    to_grid,
    to_pixels,
)
from lessons_lib.viz.validity import validity_lines, validity_proximity_figure

__all__ = [
    "BLUE",
    "GIF_ZOOM",
    "GREEN",
    "GREY",
    "ORANGE",
    "LiveLoss",
    "Stage",
    "add_share",
    "arrow_field",
    "association_figure",
    "changes_grid",
    "denoising_frames",
    "difference_maps",
    "draw_unet",
    "drift_figure",
    "face_sweep_figure",
    "figure",
    "gif_bytes",
    "image_row",
    "log_steps",
    "named_lines",
    "png_bytes",
    "read_table",
    "save_gif",
    "save_png",
    "show_figure",
    "sweep_figure",
    "to_grid",
    "to_pixels",
    "unet_stages",
    "validity_lines",
    "validity_proximity_figure",
]
