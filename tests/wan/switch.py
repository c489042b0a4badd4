"""A switch in user space: what one network namespace sends another waits as its link says.

    python -m tests.wan.switch SOCKET SEED NAMESPACE...

puts an interface wan0 into each namespace, with the MAC address that `mac` says, and forwards
Ethernet frames between them until SIGTERM. Datagrams to SOCKET (`Change`, as JSON) change links
meanwhile. Linux here has no netem; this one tells what it did with every frame, too.
"""

import ctypes
import dataclasses
import fcntl
import heapq
import itertools
import json
import os
import random
import select
import signal
import socket
import struct
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

INTERFACE: Final = "wan0"

MTU: Final = 1500
FRAME_BYTES_MAX: Final = MTU + 18

TUNSETIFF: Final = 0x400454CA
IFF_TAP: Final = 0x0002
IFF_NO_PI: Final = 0x1000
"""linux/if_tun.h"""

BATCH: Final = 64
"""Frames that are taken from one interface before another has its turn."""

IDLE_S: Final = 0.5


def mac(index: int) -> str:
    """Locally administered; its end is the interface's number."""
    return f"02:00:00:00:{index >> 8:02x}:{index & 0xFF:02x}"


@dataclass
class Link:
    """From one interface to another, one way. Frames keep their order, whatever the jitter."""

    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    """Uniform, either way."""

    loss: float = 0.0
    """Share of frames."""

    is_cut: bool = False


@dataclass
class Uplink:
    """What an interface may send to all others together."""

    rate_mbit_s: float = 0.0
    """0: no bound."""

    queue_ms: float = 200.0
    """A frame that would have to wait longer is dropped, as by a router with a full queue."""


@dataclass(frozen=True)
class Change:
    """Of the links from each of `sources` to each of `targets`, and of the sources' uplinks."""

    sources: list[int]
    targets: list[int]
    link: dict[str, float | bool]
    uplink: dict[str, float]


class Switch:
    """Forwards frames; time is `time.monotonic`."""

    def __init__(self, taps: Sequence[int], seed: int) -> None:
        self.links: defaultdict[tuple[int, int], Link] = defaultdict(Link)
        self.uplinks: defaultdict[int, Uplink] = defaultdict(Uplink)
        self.told: Counter[str] = Counter()
        self._taps = taps
        self._random = random.Random(seed)
        self._free_s: defaultdict[int, float] = defaultdict(float)
        self._last_s: defaultdict[tuple[int, int], float] = defaultdict(float)
        self._waiting: list[tuple[float, int, int, bytes]] = []
        self._numbers = itertools.count()

    def take(self, source: int, now_s: float) -> None:
        """Frames that a namespace has sent."""
        for _ in range(BATCH):
            try:
                frame = os.read(self._taps[source], FRAME_BYTES_MAX)
            except BlockingIOError:
                return
            if frame[0] & 1:  # broadcast and multicast: ARP, neighbours
                targets: Sequence[int] = range(len(self._taps))
            else:
                targets = (int.from_bytes(frame[4:6], "big"),)
            for target in targets:
                if target != source and target < len(self._taps):
                    self._offer(source, target, frame, now_s)

    def give(self, now_s: float) -> None:
        """Frames whose time has come."""
        while self._waiting and self._waiting[0][0] <= now_s:
            _, _, target, frame = heapq.heappop(self._waiting)
            try:
                os.write(self._taps[target], frame)
                self.told["forwarded"] += 1
            except OSError:  # its queue is full, or the interface is down
                self.told["refused"] += 1

    def compute_pause(self, now_s: float) -> float:
        """Until the next frame is due, in seconds."""
        due_s = self._waiting[0][0] if self._waiting else now_s + IDLE_S
        return max(0.0, min(IDLE_S, due_s - now_s))

    def change(self, change: Change) -> None:
        """From now on; frames that wait already are not touched."""
        for source in change.sources:
            self.uplinks[source] = dataclasses.replace(self.uplinks[source], **change.uplink)
            for target in change.targets:
                link = self.links[source, target]
                self.links[source, target] = dataclasses.replace(link, **change.link)  # type: ignore[arg-type]

    def _offer(self, source: int, target: int, frame: bytes, now_s: float) -> None:
        link = self.links[source, target]
        if link.is_cut:
            self.told["cut"] += 1
            return
        if link.loss and self._random.random() < link.loss:
            self.told["lost"] += 1
            return
        sent_s = self._send(source, len(frame), now_s)
        if sent_s is None:
            self.told["dropped"] += 1
            return
        wait_ms = link.delay_ms + self._random.uniform(-1, 1) * link.jitter_ms
        due_s = max(sent_s + wait_ms / 1e3, self._last_s[source, target])
        self._last_s[source, target] = due_s
        heapq.heappush(self._waiting, (due_s, next(self._numbers), target, frame))

    def _send(self, source: int, size: int, now_s: float) -> float | None:
        """When the uplink has sent it; None where its queue is full."""
        uplink = self.uplinks[source]
        if not uplink.rate_mbit_s:
            return now_s
        begin_s = max(now_s, self._free_s[source])
        if begin_s - now_s > uplink.queue_ms / 1e3:
            return None
        self._free_s[source] = begin_s + size * 8 / (uplink.rate_mbit_s * 1e6)
        return self._free_s[source]


def open_tap(namespace: str) -> int:
    """Make the interface inside of the namespace; its frames are read and written out here."""
    libc = ctypes.CDLL(None, use_errno=True)
    here = os.open("/proc/self/ns/net", os.O_RDONLY)
    there = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    try:
        if libc.setns(there, 0):
            raise OSError(ctypes.get_errno(), f"{namespace} cannot be entered")
        tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        wanted = struct.pack("16sH22s", INTERFACE.encode(), IFF_TAP | IFF_NO_PI, b"")
        fcntl.ioctl(tap, TUNSETIFF, wanted)
        return tap
    finally:
        libc.setns(here, 0)
        os.close(here)
        os.close(there)


def serve(switch: Switch, taps: Sequence[int], control: socket.socket) -> None:
    """Until SIGTERM."""
    ended: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: ended.append(number))
    events = select.epoll()
    sources = {tap: index for index, tap in enumerate(taps)}
    for each in (control.fileno(), *taps):
        events.register(each, select.EPOLLIN)
    while not ended:
        for ready, _ in events.poll(switch.compute_pause(time.monotonic())):
            if ready == control.fileno():
                raw, sender = control.recvfrom(1 << 16)
                switch.change(Change(**json.loads(raw)))
                control.sendto(json.dumps(switch.told).encode(), sender)
            else:
                switch.take(sources[ready], time.monotonic())
        switch.give(time.monotonic())


def main(path: str, seed: str, *namespaces: str) -> None:
    """See above."""
    taps = [open_tap(namespace) for namespace in namespaces]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as control:
        control.bind(path)
        serve(Switch(taps, int(seed)), taps, control)


if __name__ == "__main__":
    main(*sys.argv[1:])
