"""Links are as bad as asked for, no worse; routers hide whom they should."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.needs import needs
from tests.wan.network import Network, made_network

pytestmark = [pytest.mark.wan, pytest.mark.slow]


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    needs("ping")
    with made_network(tmp_path / "network", 3) as made:
        yield made


def ping(network: Network, source: int, address: str, count: int = 5) -> tuple[int, float]:
    """How many came back, and the shortest of their times in milliseconds."""
    command = ["ping", "-c", str(count), "-i", "0.02", "-W", "1", address]
    said = subprocess.run(
        [*network.inside(source), *command], capture_output=True, text=True, timeout=60
    ).stdout
    times = [float(ms) for ms in re.findall(r"time=([\d.]+)", said)]
    return len(times), min(times, default=0.0)


def test_a_link_is_as_long_as_told_over_both_protocols(network: Network) -> None:
    assert ping(network, 0, network.address(1))[0] == 5
    network.change([0], [1], delay_ms=40)
    for address in (network.address(1), network.address_6(1)):
        came, took_ms = ping(network, 0, address)
        assert came == 5
        assert took_ms >= 80
    assert ping(network, 0, network.address(2))[1] < 80


def test_what_is_cut_is_cut_until_it_is_healed(network: Network) -> None:
    network.change([0], [1, 2], is_cut=True)
    assert ping(network, 0, network.address(1))[0] == 0
    assert ping(network, 1, network.address(2))[0] == 5
    assert network.change([0], [1, 2], is_cut=False)["cut"] > 0
    assert ping(network, 0, network.address(1))[0] == 5


def test_so_many_frames_are_lost(network: Network) -> None:
    ping(network, 0, network.address(1))  # addresses are known
    before = network.change(loss=0.2)
    came, _ = ping(network, 0, network.address(1), 300)
    after = network.change()
    lost, forwarded = (after[what] - before.get(what, 0) for what in ("lost", "forwarded"))
    assert 0.11 < lost / (lost + forwarded) < 0.29  # of some 540: 5 deviations
    assert came < 280


def test_an_uplink_is_as_thin_as_told(network: Network) -> None:
    network.change([0], [], rate_mbit_s=8)
    script = "import time, socket; s = socket.create_connection(('{}', 9), 10); begin = time.time()"
    script += "; s.sendall(bytes(2_000_000)); s.shutdown(1); s.recv(1); print(time.time() - begin)"
    listen = (
        "import socket; s = socket.create_server(('', 9)); print(flush=True); c, _ = s.accept()"
    )
    listen += "\nwhile c.recv(1 << 16): pass"
    python = ["python3", "-c"]
    with subprocess.Popen(
        [*network.inside(1), *python, listen], stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        server.stdout.readline()
        command = [*network.inside(0), *python, script.format(network.address(1))]
        try:
            sent = subprocess.run(command, check=True, capture_output=True, timeout=60)
        finally:
            server.kill()
        took_s = float(sent.stdout)
    assert 2.0 <= took_s < 6.0  # 16 Mbit


@pytest.mark.parametrize("is_symmetric", [False, True])
def test_who_is_behind_a_router_reaches_others_and_is_not_reached(
    network: Network, is_symmetric: bool
) -> None:
    network.hide(0, is_symmetric=is_symmetric)
    assert ping(network, 0, network.address(1))[0] == 5
    assert ping(network, 1, network.address(0))[0] == 5  # the router itself
    assert ping(network, 1, "192.168.0.2")[0] == 0
    assert _find_outer_ports(network) == (2 if is_symmetric else 1)


def _find_outer_ports(network: Network) -> int:
    """How many ports one inner UDP port has outside, for two whom it speaks to."""
    hear = "import socket; s = socket.socket(2, 2); s.bind(('', 7)); print(flush=True)"
    hear += "; print(s.recvfrom(9)[1][1])"
    say = "import socket; s = socket.socket(2, 2); s.bind(('', 5000))"
    say += "".join(f"; s.sendto(b'x', ('{network.address(index)}', 7))" for index in (1, 2))
    heard = [
        subprocess.Popen(
            [*network.inside(index), "python3", "-c", hear], stdout=subprocess.PIPE, text=True
        )
        for index in (1, 2)
    ]
    try:
        for process in heard:
            assert process.stdout is not None
            process.stdout.readline()
        subprocess.run([*network.inside(0), "python3", "-c", say], check=True, timeout=20)
        return len({process.communicate(timeout=20)[0] for process in heard})
    finally:
        for process in heard:
            process.kill()
            process.wait()
