"""`python -m flare23_lib.cli`."""

import sys

from flare23_lib.cli import main

sys.exit(main())
