"""Let no thread of the process keep the others waiting for long."""

import gc
import sys

_SWITCH_S = 0.0005
"""How long a thread may compute while others wait for the processor. By default it is 5 ms, longer than a check."""


def shorten_pauses() -> None:
    """Let no thread of this process keep the others waiting for long: neither one that computes, nor the collector."""
    sys.setswitchinterval(_SWITCH_S)
    # What the start has made lives as long as the process. The collector would take 20 ms to scan it, and nothing runs
    # meanwhile.
    gc.collect()
    gc.freeze()
