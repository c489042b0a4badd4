"""A failed dial in one line that says why, from what p2pd says of it."""

import re

from demo_node.ports import DialResult


def classify(error: str) -> tuple[DialResult, str]:
    """What kind of failure a failed dial was, and a few words for the operator."""
    if "connection refused" in error:
        return DialResult.REFUSED, "Connection refused"
    found = re.search(r"remote key matches (\w+)", error)
    if found:
        return DialResult.FAILED, f"another node answers there, {found[1]}"
    if "protocols not supported" in error:
        text = "a node answers there whose mesh is another one: see --mesh"
        return DialResult.FAILED, text
    if "no such host" in error or "failed to resolve" in error:
        return DialResult.FAILED, "no such host"
    if "dial backoff" in error:
        return DialResult.FAILED, "dialled in vain a moment ago; in some seconds again"
    if "deadline exceeded" in error or "i/o timeout" in error or "does not answer" in error:
        return DialResult.TIMED_OUT, "it does not answer"
    return DialResult.FAILED, error.splitlines()[0].removeprefix("Connect failed. msg=")[:200]
