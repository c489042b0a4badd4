"""The key of a private swarm: the format of Go's swarm.key, for its owner's eyes only."""

from pathlib import Path

import pytest

from demo_node.store.disk import FileDisk
from demo_node.store.swarm_key import create_swarm_key, load_swarm_key
from demo_protocol.errors import ConfigError

SECRET = bytes(range(32))
TEXT = f"/key/swarm/psk/1.0.0/\n/base16/\n{SECRET.hex()}\n"


def test_what_is_written_is_what_others_read(tmp_path: Path) -> None:
    path = tmp_path / "swarm.key"
    create_swarm_key(FileDisk(), path, SECRET)
    assert path.read_text() == TEXT
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_swarm_key(FileDisk(), path) == SECRET
    with pytest.raises(ConfigError, match="nothing is overwritten"):
        create_swarm_key(FileDisk(), path, bytes(32))


@pytest.mark.parametrize(
    "text", [TEXT.rstrip(), TEXT + "\n", TEXT.replace(SECRET.hex(), SECRET.hex().upper())]
)
def test_a_file_from_elsewhere_is_read(tmp_path: Path, text: str) -> None:
    path = tmp_path / "swarm.key"
    path.write_text(text)
    path.chmod(0o600)
    assert load_swarm_key(FileDisk(), path) == SECRET


@pytest.mark.parametrize(
    "text",
    [
        "",
        "secret",
        TEXT[:-3],
        TEXT.replace("base16", "base64"),
        TEXT + "0" * 64,
        TEXT.replace("1.0.0", "2.0.0"),
        "\xff" * 90,
    ],
)
def test_a_damaged_file_is_one_line_without_what_is_in_it(tmp_path: Path, text: str) -> None:
    path = tmp_path / "swarm.key"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="not a swarm key") as raised:
        load_swarm_key(FileDisk(), path)
    assert "\n" not in str(raised.value)
    assert raised.value.exit_code == 78
    assert SECRET.hex()[:8] not in str(raised.value)


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "swarm.key"
    path.write_text(TEXT)
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600") as raised:
        load_swarm_key(FileDisk(), path)
    assert raised.value.exit_code == 77


def test_a_key_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no swarm key; copy"):
        load_swarm_key(FileDisk(), tmp_path / "swarm.key")
