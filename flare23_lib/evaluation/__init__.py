"""Scores of predictions against references: overlap and surface agreement per case, tables per cohort."""
