"""For `pytest` and `pytest --nbval notebooks` alike: no test asks the network, and kernels inherit that."""

import os

os.environ["LESSONS_OFFLINE"] = "1"
