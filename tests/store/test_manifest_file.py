from dataclasses import replace
from pathlib import Path

import pytest

from demo_node.store.disk import FileDisk
from demo_node.store.manifest_file import OtherProtocol, load_manifest, save_manifest
from demo_protocol.errors import ConfigError
from demo_protocol.manifest import encode_manifest
from tests.builders import manifest

DISK = FileDisk()


def test_the_file_holds_the_bytes_that_name_the_run(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    assert load_manifest(DISK, path) is None
    save_manifest(DISK, path, manifest())
    save_manifest(DISK, path, manifest())
    assert path.read_bytes() == encode_manifest(manifest())
    assert load_manifest(DISK, path) == manifest()


def test_a_folder_is_never_moved_to_another_run(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    save_manifest(DISK, path, manifest())
    with pytest.raises(ConfigError, match=r"belongs to run .*; choose another --datadir") as caught:
        save_manifest(DISK, path, replace(manifest(), seed=2))
    assert caught.value.exit_code == 76
    assert load_manifest(DISK, path) == manifest()


def test_another_protocol_version_is_no_damage(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    path.write_bytes(b'{"version":1}')
    with pytest.raises(OtherProtocol) as caught:
        load_manifest(DISK, path)
    assert caught.value.exit_code == 76
    assert "copy the file" not in str(caught.value)


@pytest.mark.parametrize("raw", [b"", b"{}", b'{"version":9}', encode_manifest(manifest()) + b"\n"])
def test_a_damaged_manifest_is_one_line_that_names_the_file(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "manifest.json"
    path.write_bytes(raw)
    with pytest.raises(ConfigError, match=str(path)) as caught:
        load_manifest(DISK, path)
    assert "\n" not in str(caught.value)
