"""A library of the wrong version is refused with one line."""

from importlib.metadata import PackageNotFoundError

import pytest

from demo_node.versions import check_versions
from demo_protocol.errors import ConfigError

NEEDED = ["libp2p==0.8.1", "protobuf<7,>=6.31", "torch>=2.6", "nothing>1; python_version < '3'"]
INSTALLED = {"libp2p": "0.8.1", "protobuf": "6.33.6", "torch": "2.13.0+cpu"}


def test_what_this_program_was_tested_with_is_installed() -> None:
    check_versions()
    check_versions(NEEDED, INSTALLED.__getitem__)


@pytest.mark.parametrize(
    ("name", "version", "line"),
    [
        ("libp2p", "0.9.0", "libp2p 0.9.0 is installed, this demo-node needs libp2p==0.8.1;"),
        ("protobuf", "7.1.0", "protobuf 7.1.0 is installed"),
        ("torch", "2.4.1+cu121", "torch 2.4.1+cu121 is installed, this demo-node needs torch>=2.6"),
    ],
)
def test_a_library_of_another_version_is_named_with_the_command(
    name: str, version: str, line: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        check_versions(NEEDED, {**INSTALLED, name: version}.__getitem__)
    assert str(caught.value).startswith(line)
    assert "run: pip install '" in str(caught.value)
    assert caught.value.exit_code == 78


def test_a_library_that_is_missing_is_named() -> None:
    def installed(name: str) -> str:
        raise PackageNotFoundError(name)

    with pytest.raises(ConfigError, match="libp2p is not installed"):
        check_versions(NEEDED, installed)
