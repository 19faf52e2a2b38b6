"""CT segmentation from partial labels: the library under the FLARE23 workflow.

Arrays are in (z, y, x) order everywhere, spacings too, in millimeters.
"""

import time

__version__ = "0.2.0"

IMPORTED = time.perf_counter()
"""When this process imported the library, by `time.perf_counter`."""
