"""python -m classroom check NOTEBOOK …: check the exercises in learners' notebooks."""

import sys

from classroom.grading import main

if __name__ == "__main__":
    sys.exit(main())
