"""Where a connection comes from, or leads to."""

from libp2p.io.abc import ReadWriteCloser
from libp2p.io.trio import TrioTCPStream


def find_remote(stream: ReadWriteCloser) -> tuple[str, int] | None:
    """Host and port of the other end; None where it has gone. The library knows IPv4's only.

    An IPv4 address that came to a socket for both is written as one.
    """
    assert isinstance(stream, TrioTCPStream)
    try:
        host, port = stream.stream.socket.getpeername()[:2]
    except OSError:
        return None
    return host.removeprefix("::ffff:"), port
