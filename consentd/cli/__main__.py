"""Run the command ``consentd`` if Python is started as ``python -m consentd.cli``."""

import sys

from consentd.cli import main

sys.exit(main())
