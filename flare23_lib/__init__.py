"""CT segmentation from partial labels: the library under the FLARE23 workflow.

Arrays are in (z, y, x) order everywhere, spacings too, in millimeters.
"""

__version__ = "0.2.0"
