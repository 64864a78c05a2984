"""Forbid dumps of this process: a core dump, or a debugger of the same user, would show its keys."""

import contextlib
import ctypes
import os
import resource

from consentd.errors import StorageError

_PR_SET_DUMPABLE = 4


def forbid_dumps() -> None:
    """Let the kernel write no core dump of this process, and let only root read its memory and its environment.

    Afterwards the files in ``/proc/PID`` belong to root, and only root may attach to the process (prctl(2),
    PR_SET_DUMPABLE). Programs that this process starts are dumpable again, but they get the limit of 0 bytes for core
    dumps, if the system lets this process set it.

    Raises:
        StorageError: the kernel refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise StorageError(f"core dumps cannot be forbidden: {os.strerror(ctypes.get_errno())}")
    # The line above is enough for this process. The limit is for programs that it starts, and the systemd unit, which
    # forbids this call, has set it already.
    with contextlib.suppress(OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
