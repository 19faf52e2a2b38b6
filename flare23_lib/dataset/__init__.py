"""The cohort: sources, files, quality issues, cases and categories."""
