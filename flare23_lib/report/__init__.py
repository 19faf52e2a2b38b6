"""Figures of a run: the method as it was configured, the scores of its models, and the colors they share."""
