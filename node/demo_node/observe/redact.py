"""Nothing secret and nothing huge comes into a line, whatever was handed to the log.

Hashes, digests and peer ids are public, and a line needs them. A raw key or a payload is not, and
could only get here by mistake: inside an error's text, or as a value. So bytes are named by their
number, and what looks like encoded bytes in a text is cut out of it.
"""

import math
import re
from itertools import pairwise
from typing import Final

from structlog.typing import EventDict, WrappedLogger

TEXT_MAX: Final = 1_000
"""Characters of a value."""

TRACE_MAX: Final = 16_000
"""Characters of a traceback."""

NUMBER_MAX: Final = 1 << 64
"""A number that is larger is no count of anything."""

HASHES: Final = frozenset({"author", "base", "digest", "head", "peer", "record", "target"})
"""Fields that hold the hexadecimal of a hash, a digest or a peer's public key."""

_HASH: Final = re.compile(r"[0-9a-f]{0,64}")
_PEER_ID: Final = re.compile(r"12D3KooW[1-9A-HJ-NP-Za-km-z]{44}")
_BYTES: Final = re.compile(r"""\bb(['"])(?:\\.|(?!\1).)*(?:\1|$)""", re.DOTALL)
_ESCAPES: Final = re.compile(r"""(?:\\(?:x[0-9a-f]{2}|[tnr\\'"])[^\\]{0,12}){4,}""")
_HEX: Final = re.compile(r"[0-9a-fA-F]{24,}")
_RUN: Final = re.compile(r"[A-Za-z0-9+/_-]{22,}={0,2}")

_NAME: Final = re.compile(r"(?<![A-Za-z0-9])[0-9a-f]{4,16}(?![A-Za-z0-9])")
"""The first digits of a hash, as files are named; in base64 hardly anything stands so alone."""

_WINDOW: Final = 22
"""Characters that 16 bytes take in base64."""

_SWITCHES: Final = 5
"""In so many characters, base64 of random bytes changes 9 times between lower case, upper case
and digits; words and paths once or twice."""


def redact(logger: WrappedLogger, method: str, line: EventDict) -> EventDict:
    """A structlog processor: every value as a number, a short text or nothing at all."""
    return {key: _clean(key, value) for key, value in line.items()}


def _clean(key: str, value: object) -> object:
    if value is None or (isinstance(value, int) and abs(value) < NUMBER_MAX):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None  # JSON has no NaN
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"
    if isinstance(value, int):
        return "<large number>"
    text = str(value)
    if key in HASHES and _HASH.fullmatch(text):
        return text
    longest = TRACE_MAX if key == "exception" else TEXT_MAX
    return cut_secrets(text if len(text) <= longest else text[:longest] + "…")


def cut_secrets(text: str) -> str:
    """The text without anything that looks like bytes: as Python shows them, in hex, in base64."""
    text = _BYTES.sub("<bytes>", text)
    text = _ESCAPES.sub("<bytes>", text)
    text = _HEX.sub(lambda found: found[0][:8] + "…", text)
    return _RUN.sub(_cut_base64, text)


def _cut_base64(found: re.Match[str]) -> str:
    return "<base64>" if _is_base64(_PEER_ID.sub("", found[0])) else found[0]


def _is_base64(run: str) -> bool:
    """Whether 16 bytes of it may be: one alphabet, both cases, too many switches for words."""
    run = _NAME.sub(lambda found: "." * len(found[0]), run)
    switches = [
        a.isalnum()
        and b.isalnum()
        and (a.isdigit() != b.isdigit() or (a.islower() and b.isupper()))
        for a, b in pairwise(run)
    ]
    return any(
        sum(switches[i : i + _WINDOW - 1]) >= _SWITCHES and _may_be_base64(run[i : i + _WINDOW])
        for i in range(len(run) - _WINDOW + 1)
    )


def _may_be_base64(text: str) -> bool:
    # What has slashes and dashes or underscores is a path: base64 has the one kind or the other.
    is_path = ("/" in text or "+" in text) and ("-" in text or "_" in text)
    return not is_path and text.lower() != text and text.upper() != text
