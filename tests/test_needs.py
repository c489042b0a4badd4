import shutil

import pytest

from tests.needs import needs


@pytest.fixture(autouse=True)
def _nothing_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _program: None)
    monkeypatch.delenv("DEMO_REQUIRE", raising=False)


def test_without_a_program_a_test_is_skipped_and_says_how_to_get_it() -> None:
    with pytest.raises(pytest.skip.Exception, match=r"promtool .*deploy/install-tools\.sh"):
        needs("promtool")


@pytest.mark.parametrize("required", ["all", "npm,promtool"])
def test_where_it_is_required_the_test_fails(
    monkeypatch: pytest.MonkeyPatch, required: str
) -> None:
    monkeypatch.setenv("DEMO_REQUIRE", required)
    with pytest.raises(pytest.fail.Exception, match="promtool is not installed"):
        needs("promtool")


def test_what_is_not_required_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEMO_REQUIRE", "npm")
    with pytest.raises(pytest.skip.Exception):
        needs("promtool")


def test_only_what_is_installed_by_the_script_can_be_needed() -> None:
    with pytest.raises(AssertionError, match="docker"):
        needs("docker")
