"""The command line: python -m lessons_lib train | sample | evaluate | counterfactual | check-machine."""
