"""A process that lives exactly as long as the one that started it."""

import ctypes
import os
import signal
import sys
from typing import Final

PR_SET_PDEATHSIG: Final = 1
"""Linux prctl: the signal to get when the parent dies. Not inherited by fork."""

PARENT: Final = "DEMO_NODE_PARENT"
"""Environment: the process id of whoever starts a process that will tie itself to it."""


def name_parent() -> None:
    """Tell the processes that this one starts whom they belong to."""
    os.environ[PARENT] = str(os.getpid())


def tie_to_parent() -> None:
    """Be killed when the parent dies, whatever kills it; outlive anything less.

    Ends this process where the parent, as named by `name_parent`, is dead already: nothing would
    tell us any more. What this process starts belongs to it.

    Ctrl-C reaches every process of a terminal and a service manager's SIGTERM every process of
    the service, but a node that leaves cleanly needs its trainer for the last snapshot.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if sys.platform == "linux":
        # At once, in the kernel: no thread of ours has to wait for a core or for the GIL.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    named = os.environ.get(PARENT)
    if named is not None and os.getppid() != int(named):
        os._exit(0)
    name_parent()
