# Only calls lab.py, which also runs where there is no make (Windows): python lab.py lab
# More words: make lab ARGS="--no-browser --port 8899".  Another Python: make lab PYTHON=python3.12
# The slow tests: make test ARGS=--slow.  How much of the library the quick ones take: make test ARGS=--coverage
# On Linux, torch with CUDA: make lab GPU=1.  Without: make lab CPU=1.  Neither: what suits the machine.

PYTHON ?= python3
TORCH := $(if $(filter 1,$(GPU)),--gpu) $(if $(filter 1,$(CPU)),--cpu)

.PHONY: help lab test check playground book update notebooks bundle
help:
	@$(PYTHON) lab.py help
lab test check playground book update notebooks bundle:
	@$(PYTHON) lab.py $@ $(TORCH) $(ARGS)
