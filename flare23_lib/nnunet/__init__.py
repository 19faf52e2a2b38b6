"""The bridge to nnU-Net: dataset.json, plans, preprocessed cases and the trainer."""
