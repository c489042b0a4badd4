"""The simulator has no rules of its own: what it simulates is what nodes run.

Of the kernel (sim/*.py). The whole nodes of sim/whole/ run the daemon's driver.
"""

import ast
from pathlib import Path
from typing import TypeGuard

import demo_node.sim
import demo_protocol

SIM = Path(next(iter(demo_node.sim.__path__)))
PROTOCOL = Path(next(iter(demo_protocol.__path__)))


def parse(folder: Path) -> dict[str, ast.Module]:
    return {
        str(path.relative_to(folder)): ast.parse(path.read_text())
        for path in sorted(folder.glob("*.py"))
    }


def imported_from_protocol(module: ast.Module) -> set[str]:
    return {
        alias.asname or alias.name
        for node in ast.walk(module)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("demo_protocol")
        for alias in node.names
    }


def shape(function: ast.FunctionDef) -> str:
    """Its body without names of arguments and words: what a copy would have in common."""
    body = [n for n in function.body if not is_docstring(n)]
    return ";".join(ast.dump(node) for node in body)


def signature(function: ast.FunctionDef) -> str:
    """Its name and those of its arguments."""
    return f"{function.name}({ast.unparse(function.args)})"


def is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def functions(module: ast.Module) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(module) if isinstance(node, ast.FunctionDef)]


def test_no_class_of_the_simulator_is_one_of_the_protocol() -> None:
    classes = 0
    for name, module in parse(SIM).items():
        theirs = imported_from_protocol(module)
        for node in ast.walk(module):
            if isinstance(node, ast.ClassDef):
                classes += 1
                bases = {base.id for base in node.bases if isinstance(base, ast.Name)}
                assert not bases & theirs, f"{name}: {node.name} is a {bases & theirs}"
    assert classes > 20


def test_nothing_of_the_protocol_is_replaced() -> None:
    """No assignment to a name that comes from there, nor to an attribute of its modules."""
    for name, module in parse(SIM).items():
        theirs = imported_from_protocol(module)
        for node in ast.walk(module):
            if isinstance(node, ast.Assign):
                for target in node.targets:
                    root = target
                    while isinstance(root, ast.Attribute):
                        root = root.value
                    is_theirs = isinstance(root, ast.Name) and root.id in theirs
                    assert not is_theirs, f"{name}:{node.lineno} changes a part of the protocol"


def test_no_function_of_the_simulator_is_a_copy_of_a_rule() -> None:
    """Neither under its name, at the top of a module, nor under another one with its body."""
    rules = {signature(f) for m in parse(PROTOCOL).values() for f in m.body if is_public(f)}
    bodies = {
        shape(function): f"{name}:{function.name}"
        for name, module in parse(PROTOCOL).items()
        for function in functions(module)
        if len(function.body) > 2
    }
    assert len(rules) > 100
    assert len(bodies) > 100
    for name, module in parse(SIM).items():
        for function in functions(module):
            assert shape(function) not in bodies, f"{name}:{function.name} is a copy"
        for node in module.body:
            if is_public(node):
                assert signature(node) not in rules, f"{name} has its own {node.name}"


def is_public(node: ast.stmt) -> TypeGuard[ast.FunctionDef]:
    return isinstance(node, ast.FunctionDef) and not node.name.startswith("_")


def test_every_round_of_every_node_is_advanced_by_the_round_machine() -> None:
    """One place makes machines, one steps them."""
    made, stepped = [], []
    for name, module in parse(SIM).items():
        for node in ast.walk(module):
            if isinstance(node, ast.Call):
                if isinstance(node.func, ast.Name) and node.func.id == "Round":
                    made.append(name)
                if isinstance(node.func, ast.Attribute) and node.func.attr == "step":
                    stepped.append(name)
    assert made == ["actor.py"]
    assert stepped == ["actor.py"]
