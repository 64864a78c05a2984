"""Divide this process's file descriptors among those that take many, so that none of them can take all.

The system refuses to open a file or to accept a connection when a process has as many descriptors as its limit allows.
A peer takes a descriptor by connecting, without a credential. So each listener may have a part of the limit, and each
store a part; the parts together are less than the whole. What is left is for everything else: durable files, logs,
connections to witnesses, and the reserve that ``files.hold_reserve`` keeps.
"""

import resource
from contextlib import suppress

MOST = 65_536
"""The limit is raised no further: more is never needed, and programs that look at every descriptor would be slow."""


def limit() -> int:
    """Return how many descriptors this process may have now."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST if soft == resource.RLIM_INFINITY else soft


def raise_limit() -> int:
    """Raise the limit as far as the system allows without rights, at most to ``MOST``; return the new limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST if hard == resource.RLIM_INFINITY else min(hard, MOST)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):  # a sandbox may forbid the call; then the limit stays as it is
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return limit()


def share(part: int, *, most: int, least: int = 1) -> int:
    """Return the number of descriptors in one *part*-th of the limit, but not less than *least* or more than *most*."""
    return max(least, min(most, limit() // part))
