"""Files: NIfTI and DICOM images, label maps and their names, atomic writes, locks, tables."""
