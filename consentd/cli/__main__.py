"""Run the command ``consentd``, as ``python -m consentd.cli``."""

import sys

from consentd.cli import main

sys.exit(main())
