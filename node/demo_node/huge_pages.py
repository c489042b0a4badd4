"""Large tensors in large pages: torch's own switch, which it reads once.

A new state of 41 MB is 10,000 pages of 4 KiB, and the system's work for each of them together takes
as long as the update itself (docs/benchmarks.md). Has no effect where the system has no such pages.
"""

import os
from typing import Final

SWITCH: Final = "THP_MEM_ALLOC_ENABLE"


def ask_for_huge_pages() -> None:
    """Before torch is imported. Whoever set the switch is not overruled."""
    os.environ.setdefault(SWITCH, "1")
