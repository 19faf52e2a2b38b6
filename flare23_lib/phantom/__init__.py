"""The demo cohort: synthetic abdominal CTs, laid out and partially labeled as FLARE23 is.

A phantom is drawn from a table of structures (`anatomy.yaml`): ellipsoids and tubes at anatomical places, in a body
frame in mm. Bodies differ in size, proportions, place in the field of view and fat, are tilted and smoothly deformed,
their organs are moved one by one, and HU values follow a contrast phase.

The body frame and the world are RAS+ as in nibabel (x to the patient's right, y anterior, z superior); arrays are
(z, y, x).
"""

from __future__ import annotations

from flare23_lib.phantom.anatomy import FIVE_ORGANS, FLARE23_VALUES, ORGANS
from flare23_lib.phantom.cohort import PhantomLayout, plan_cohort, write_cohort
from flare23_lib.phantom.drawing import Phantom, draw_phantom
from flare23_lib.phantom.frame import Variation

__all__ = [
    "FIVE_ORGANS", "FLARE23_VALUES", "ORGANS", "Phantom", "PhantomLayout", "Variation", "draw_phantom", "plan_cohort",
    "write_cohort",
]  # fmt: skip
