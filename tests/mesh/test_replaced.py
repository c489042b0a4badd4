"""docs/decisions/libp2p.md names every part of the library that ours takes the place of."""

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator

import demo_node.mesh
from tests.cli.command import ROOT

PAGE = (ROOT / "docs/decisions/libp2p.md").read_text()


def find_replaced() -> Iterator[tuple[str, str, str]]:
    """Our module, the library's class, and its method: what only had a signature does not count."""
    for info in pkgutil.iter_modules(demo_node.mesh.__path__):
        module = importlib.import_module(f"demo_node.mesh.{info.name}")
        for ours in vars(module).values():
            if not inspect.isclass(ours) or ours.__module__ != module.__name__:
                continue
            for theirs in ours.__bases__:
                if theirs.__module__.startswith("libp2p.") and not inspect.isabstract(theirs):
                    methods = vars(ours).keys() & {name for name, _ in inspect.getmembers(theirs)}
                    for name in methods:
                        if inspect.isfunction(vars(ours)[name]) and not name.startswith("__"):
                            yield info.name, theirs.__name__, name


def test_the_page_names_every_method_that_is_replaced() -> None:
    rows = re.findall(r"^\| (`\w+`: [^|]*) \| `mesh/(\w+)\.py` \|", PAGE, re.MULTILINE)
    named = {
        (place, theirs, method)
        for row, place in rows
        for theirs, *methods in [re.findall(r"`(\w+)`", row)]
        for method in methods
    }
    assert named == set(find_replaced())
