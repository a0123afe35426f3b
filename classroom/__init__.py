"""What a learner and a teacher need: checked exercises, panels, figures, and the grader of notebooks.

Everything here imports `lessons_lib`, never the other way round.
"""
