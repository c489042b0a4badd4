"""What the fork server imports before it serves: a leash, then torch, and nothing else.

A server that is importing torch does not watch its parent for seconds, hence the leash first.
No CUDA call here: a context does not survive a fork.
"""

from demo_node.huge_pages import ask_for_huge_pages
from demo_node.trainer.leash import tie_to_parent

tie_to_parent()
ask_for_huge_pages()

import torch  # noqa: E402, F401
