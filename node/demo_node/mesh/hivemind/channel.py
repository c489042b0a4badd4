"""One end of the socket between the node and the process beside it.

A message is JSON, at most MESSAGE_BYTES_MAX of it, and can carry one file descriptor: an open
stream. So a stream's bytes go between the node and p2pd, and through no third process.
"""

import array
import asyncio
import contextlib
import json
import os
import socket
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final

MESSAGE_BYTES_MAX: Final = 64 << 10

BACKLOG_MAX: Final = 4096
"""Messages that wait for the other end. More of them means that it hangs."""

AT_ONCE_MAX: Final = 32
"""Messages read before the loop does something else."""

Message = dict[str, Any]

OnMessage = Callable[[Message, int], None]
"""(message, file descriptor or -1). Who is called owns the descriptor."""


class Channel:
    """A SOCK_SEQPACKET socket: what is sent as one message comes as one."""

    def __init__(
        self, sock: socket.socket, on_message: OnMessage, on_end: Callable[[], None]
    ) -> None:
        """`on_end` is called once, when the other end is gone or does not keep to this."""
        sock.setblocking(False)
        self._sock = sock
        self._on_message = on_message
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[bytes, int]] = deque()
        self._closed = False
        self._loop.add_reader(sock.fileno(), self._read)

    def send(self, message: Mapping[str, object], fd: int = -1) -> None:
        """Send, now or as soon as there is room. `fd` is closed here when it has gone."""
        raw = json.dumps(message).encode()
        if self._closed or len(raw) > MESSAGE_BYTES_MAX or len(self._waiting) >= BACKLOG_MAX:
            _close_fd(fd)
            self._end()
            return
        self._waiting.append((raw, fd))
        if len(self._waiting) == 1:
            self._write()

    def close(self) -> None:
        """Be done with it; `on_end` is not called."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._sock.fileno())
        self._loop.remove_writer(self._sock.fileno())
        for _raw, fd in self._waiting:
            _close_fd(fd)
        self._waiting.clear()
        self._sock.close()

    def _end(self) -> None:
        if not self._closed:
            self.close()
            self._on_end()

    def _write(self) -> None:
        while self._waiting:
            raw, fd = self._waiting[0]
            rights = [] if fd < 0 else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, _pack(fd))]
            try:
                self._sock.sendmsg([raw], rights)
            except BlockingIOError:
                self._loop.add_writer(self._sock.fileno(), self._write)
                return
            except OSError:
                self._end()
                return
            self._waiting.popleft()
            _close_fd(fd)
        self._loop.remove_writer(self._sock.fileno())

    def _read(self) -> None:
        for _ in range(AT_ONCE_MAX):
            if self._closed:
                return
            try:
                raw, fds, flags, _ = socket.recv_fds(
                    self._sock, MESSAGE_BYTES_MAX + 1, 1, socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                return
            except OSError:
                raw, fds, flags = b"", [], 0
            fd = fds[0] if fds else -1
            message = None if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC) else _decode(raw)
            if message is None:
                _close_fd(fd)
                self._end()
                return
            self._on_message(message, fd)


def _decode(raw: bytes) -> Message | None:
    with contextlib.suppress(ValueError, RecursionError):
        message = json.loads(raw)
        if isinstance(message, dict):
            return message
    return None


def _pack(fd: int) -> "array.array[int]":
    return array.array("i", [fd])


def _close_fd(fd: int) -> None:
    if fd >= 0:
        os.close(fd)
