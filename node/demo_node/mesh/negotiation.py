"""What a peer says to choose a protocol: a short line of text, or nothing we answer. Trio code."""

from libp2p.exceptions import ParseError
from libp2p.io.exceptions import IOException, MessageTooLarge
from libp2p.io.utils import read_exactly
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.stream.net_stream import NetStream
from libp2p.protocol_muxer.exceptions import MultiselectCommunicatorError
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from libp2p.utils.varint import decode_uvarint_from_stream

from demo_node.mesh import bounds
from demo_node.mesh.transport import MeteredStream
from demo_node.mesh.yamux import blame
from demo_node.ports import Offence


class LineCommunicator(MultiselectCommunicator):
    """Reads one line at a time.

    The library takes lines of any length. One that is not UTF-8 raises an error that nobody
    expects of it: a few bytes on a new stream ended the node (trap 52).
    """

    async def read(self) -> str:
        """One line, without its end. Raises MultiselectCommunicatorError, whatever was wrong."""
        try:
            size = await decode_uvarint_from_stream(self.read_writer)
            if size > bounds.NEGOTIATION_BYTES_MAX:
                raise MessageTooLarge(f"a line of {size} bytes")
            line = await read_exactly(self.read_writer, size) if size else b""
            if not line.endswith(b"\n"):
                raise ParseError("no line")
            return line[:-1].decode()
        except (ParseError, IOException, UnicodeDecodeError) as error:
            if isinstance(error, ParseError | MessageTooLarge | UnicodeDecodeError):
                _blame(self.read_writer)
            raise MultiselectCommunicatorError("no line of a negotiation") from error


def _blame(below: object) -> None:
    """Whoever sent it: the key, where the connection below has one by now, else the address."""
    if isinstance(below, NetStream):
        blame(below.muxed_conn, Offence.GARBAGE)
    elif isinstance(below, RawConnection) and isinstance(below.stream, MeteredStream):
        below.stream.blame_host(Offence.GARBAGE)


def replace_reading() -> None:
    """Let every negotiation read so, whichever module of the library makes the communicator."""
    MultiselectCommunicator.read = LineCommunicator.read  # type: ignore[assignment,method-assign]
