"""Files: NIfTI images and label maps, atomic writes, locks, tables."""
