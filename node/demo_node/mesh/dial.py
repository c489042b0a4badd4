"""A failed dial in one line that says why. Trio code."""

import re

import trio
from libp2p.exceptions import BaseLibp2pError, ParseError
from libp2p.io.exceptions import MessageTooLarge
from libp2p.protocol_muxer.exceptions import MultiselectClientError
from libp2p.security.noise.exceptions import PeerIDMismatchesPubkey

from demo_node.mesh.private import ForeignKey
from demo_node.ports import DialResult


def explain(error: BaseException) -> str:
    """One line for the operator: the library wraps the reason several times."""
    error = _root(error)
    if isinstance(error, PeerIDMismatchesPubkey):
        found = re.search(r"from_pubkey=(\w+)", str(error))
        return f"another node answers there, {found[1] if found else 'with another key'}"
    if isinstance(error, ForeignKey):
        return f"{error}; is --psk-file the one of this swarm?"
    if _is_foreign(error):
        return (
            "something other than a demo-node answers there, or one of a private swarm (--psk-file)"
        )
    reason = error.strerror if isinstance(error, OSError) else str(error)
    reason = (reason or type(error).__name__).splitlines()[0]
    system = re.match(r"Error connecting to \(.*\): (.*)", reason)
    if system:
        return system[1]
    if isinstance(error, BaseLibp2pError) and "closed" in reason.lower():
        return (
            "what answers there hangs up; it may be no demo-node, have no room, or be of a private"
            " swarm (--psk-file)"
        )
    return reason


def classify(error: BaseException) -> DialResult:
    """What kind of failure a failed dial was."""
    match _root(error):
        case ConnectionRefusedError():
            return DialResult.REFUSED
        case TimeoutError() | trio.TooSlowError():
            return DialResult.TIMED_OUT
        case _:
            return DialResult.FAILED


def _is_foreign(error: BaseException) -> bool:
    """Whether what came back cannot be libp2p: the library would quote all of it."""
    return isinstance(error, ParseError | UnicodeDecodeError | MessageTooLarge) or (
        isinstance(error, MultiselectClientError) and "mismatch" in str(error)
    )


def _root(error: BaseException) -> BaseException:
    """The reason inside all wrappings."""
    while True:
        inner = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error.__cause__
        if inner is None:
            return error
        error = inner
