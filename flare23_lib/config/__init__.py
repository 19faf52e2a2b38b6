"""The configuration: its keys (`models`), files (`load`), consistency (`checks`), and the settings of each stage."""

from flare23_lib.config.settings import BUNDLE_WEIGHTS, Config

__all__ = ["BUNDLE_WEIGHTS", "Config"]
