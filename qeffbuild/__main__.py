"""`python -m qeffbuild`."""

import sys

from qeffbuild.cli import main

sys.exit(main())
