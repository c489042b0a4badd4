"""A node that is stopped, or hangs, is not the same as none."""

import asyncio
import socket
from pathlib import Path

import pytest

from demo_node.control import client
from demo_node.control.address import prepare_socket_folder, socket_path


def test_a_node_that_does_not_answer_is_named_with_its_pid_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "QUICK_S", 0.3)
    (tmp_path / "lock").write_text("4242\n")
    path = socket_path(tmp_path)
    prepare_socket_folder(path)

    async def ask() -> None:
        async with client.control_client(tmp_path) as control:
            await control.status()

    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(path))
        silent.listen()  # the kernel takes connections; nobody reads
        with pytest.raises(
            client.NotAnswering, match=r"pid 4242\) does not answer.*kill -CONT 4242"
        ):
            asyncio.run(ask())
    assert client.NotAnswering(tmp_path).exit_code == 75
    assert client.find_pid(tmp_path / "elsewhere") == 0
