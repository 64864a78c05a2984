"""Signals of a process are received, whichever thread the system interrupts."""

import signal
import subprocess
import sys

import pytest

from cases.fakes import HANG_S

PROGRAM = """
import signal, sys, threading
from consentd.server.signals import Signals

signals = Signals.receive()
number = int(sys.argv[1])
threading.Timer(0.5, lambda: signal.pthread_kill(threading.get_ident(), number)).start()
print(signals.next())
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_interrupts_another_thread_is_received(number: int) -> None:
    """The main thread waits, and is not interrupted. A wait for a lock would not end."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(int(number))], capture_output=True, text=True, timeout=HANG_S, check=True
    )
    assert done.stdout == f"{int(number)}\n"
