"""For `pytest` and `pytest --nbval notebooks` alike: no network, and no trace in the learner's progress."""

import os
import tempfile
from pathlib import Path

os.environ["LESSONS_OFFLINE"] = "1"  # the notebooks' kernels inherit both
os.environ["LESSONS_PROGRESS"] = str(Path(tempfile.mkdtemp(prefix="lessons-")) / "progress.json")
