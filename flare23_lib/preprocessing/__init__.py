"""Resampling and normalization of images and labels for training."""
