"""Which files there are."""

import json
from collections.abc import Callable
from typing import Any, Final

from tests.protocol_vectors.asking import asking_case
from tests.protocol_vectors.chain import chain_case
from tests.protocol_vectors.choices import finality_case, forkchoice_case
from tests.protocol_vectors.messages import manifest_case, messages_case
from tests.protocol_vectors.states import state_case, update_case
from tests.protocol_vectors.turns import turns_case

CASES: Final[dict[str, Callable[[], dict[str, Any]]]] = {
    "manifest": manifest_case,
    "messages": messages_case,
    "chain": chain_case,
    "turns": turns_case,
    "forkchoice": forkchoice_case,
    "finality": finality_case,
    "update": update_case,
    "state": state_case,
    "asking": asking_case,
}
"""By the name of the file in tests/vectors/protocol/."""


def write_text(name: str) -> str:
    """The content of a file: JSON in lines that a diff can show, short lists in one line."""
    return _lay_out(json.loads(json.dumps(CASES[name]()))) + "\n"


def _lay_out(value: Any, depth: int = 0) -> str:
    plain = json.dumps(value, ensure_ascii=True)
    if len(plain) <= 96 or not isinstance(value, dict | list):
        return plain
    pad = " " * (depth + 1)
    if isinstance(value, dict):
        rows = [f"{pad}{json.dumps(k)}: {_lay_out(v, depth + 1)}" for k, v in value.items()]
        return "{\n" + ",\n".join(rows) + "\n" + " " * depth + "}"
    rows = [pad + _lay_out(item, depth + 1) for item in value]
    return "[\n" + ",\n".join(rows) + "\n" + " " * depth + "]"
