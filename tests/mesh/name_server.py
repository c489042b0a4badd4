"""A DNS server on loopback that knows what a test tells it, and nothing else."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import cast

import dns.asyncresolver
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset


class NameServer(asyncio.DatagramProtocol):
    """Answers for TXT records; `asked` has the names in the order of the questions."""

    def __init__(self, records: Mapping[str, Sequence[str]]) -> None:
        self.records = dict(records)
        self.asked: list[str] = []
        self._transport: asyncio.DatagramTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        question = dns.message.from_wire(data)
        name = question.question[0].name.to_text(omit_final_dot=True)
        self.asked.append(name)
        reply = dns.message.make_response(question)
        if texts := self.records.get(name):
            quoted = [" ".join(f'"{t[i : i + 200]}"' for i in range(0, len(t), 200)) for t in texts]
            reply.answer.append(dns.rrset.from_text(f"{name}.", 1, "IN", "TXT", *quoted))
        else:
            reply.set_rcode(dns.rcode.NXDOMAIN)
        wire = reply.to_wire(max_size=65_000)
        self._transport.sendto(wire, addr)


@contextlib.asynccontextmanager
async def name_server(
    records: Mapping[str, Sequence[str]],
) -> AsyncIterator[tuple[NameServer, dns.asyncresolver.Resolver]]:
    """The server, and a resolver that asks it."""
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(
        lambda: NameServer(records), local_addr=("127.0.0.1", 0)
    )
    resolver = dns.asyncresolver.Resolver(configure=False)
    resolver.nameservers = ["127.0.0.1"]
    resolver.port = transport.get_extra_info("sockname")[1]
    try:
        yield server, resolver
    finally:
        transport.close()
