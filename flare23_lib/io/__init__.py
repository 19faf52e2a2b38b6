"""Files: images, DICOM, and the tables and names that stand beside them."""
