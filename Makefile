# Only calls lab.py, which also runs where there is no make (Windows): python lab.py lab
# More words: make lab ARGS="--no-browser --port 8899".  CPU-only torch on Linux: make lab CPU=1
# Another Python: make lab PYTHON=python3.12

PYTHON ?= python3
ifdef CPU
export LESSONS_CPU_TORCH := $(CPU)
endif

.PHONY: help lab test check playground update notebooks
help:
	@$(PYTHON) lab.py help
lab test check playground update notebooks:
	@$(PYTHON) lab.py $@ $(ARGS)
