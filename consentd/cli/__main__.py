"""``python -m consentd.cli`` is ``consentd``."""

import sys

from consentd.cli import main

sys.exit(main())
