"""The cohort: its files, their faults, its cases and their categories."""
