"""Lets hivemind be imported without torch: 0.4 CPU seconds and 55 MB instead of 3.7 and 280.

Its DHT and its P2P use no tensor. Its root module imports what does, and `hivemind.utils` names
torch while it is imported; that much is here. Anything else asked of this torch is an error.
"""

import importlib.util
import multiprocessing.connection  # noqa: F401  hivemind takes it for granted: torch imports it
import sys
from types import ModuleType, SimpleNamespace


def prepare_imports() -> None:
    """Call it before anything imports hivemind. Raises ModuleNotFoundError where there is none."""
    spec = importlib.util.find_spec("hivemind")
    if spec is None or spec.submodule_search_locations is None:
        raise ModuleNotFoundError("hivemind", name="hivemind")
    root = ModuleType("hivemind")
    root.__path__ = list(spec.submodule_search_locations)
    sys.modules["hivemind"] = root
    torch = ModuleType("torch")
    torch.strided = None  # type: ignore[attr-defined]
    torch.multiprocessing = SimpleNamespace(  # type: ignore[attr-defined]
        set_sharing_strategy=lambda strategy: None
    )
    sys.modules["torch"] = torch
