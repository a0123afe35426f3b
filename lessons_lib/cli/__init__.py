"""The command line: python -m lessons_lib train | sample | evaluate | counterfactual | check-machine

app.py loads a command when it runs. A command is one file with its name, its own options beside it; what
several commands share stands below them: options, processes, common, batches.
"""
