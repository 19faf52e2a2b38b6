"""The configuration: its keys (`models`), files (`load`), consistency (`checks`), and the settings of each stage."""

from flare23_lib.config.configuration import Config

__all__ = ["Config"]
