"""Completing partial labels with a teacher's predictions."""
