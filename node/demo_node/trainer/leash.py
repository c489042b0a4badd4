"""A process that lives exactly as long as the one that started it."""

import ctypes
import signal
import sys
from typing import Final

PR_SET_PDEATHSIG: Final = 1
"""Linux prctl: the signal to get when the parent dies. Not inherited by fork."""


def tie_to_parent() -> None:
    """Be killed when the parent dies, whatever kills it; outlive anything less.

    Ctrl-C reaches every process of a terminal and a service manager's SIGTERM every process of
    the service, but a node that leaves cleanly needs its trainer for the last snapshot.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if sys.platform == "linux":
        # At once, in the kernel: no thread of ours has to wait for a core or for the GIL.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
