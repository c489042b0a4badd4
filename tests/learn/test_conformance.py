"""The golden vectors of the published optimizer, where their folder is at hand."""

from pathlib import Path

import pytest

from tests import conformance

VECTORS = Path(__file__).parents[3] / "shared" / "vectors" / "demo"


@pytest.mark.skipif(not VECTORS.is_dir(), reason="no ../shared/vectors/demo beside the checkout")
def test_all_golden_vectors_pass(capsys: pytest.CaptureFixture[str]) -> None:
    assert conformance.main([str(VECTORS)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"{len(lines) - 1} passed, 0 failed"
    assert len(lines) > 70


@pytest.mark.skipif(not VECTORS.is_dir(), reason="no ../shared/vectors/demo beside the checkout")
def test_a_vector_that_does_not_hold_is_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(conformance, "largest_divisor", lambda length, limit: 1)
    assert conformance.main([str(VECTORS)]) == 1
    assert capsys.readouterr().out.splitlines()[-1].endswith(" 11 failed")


def test_a_folder_without_vectors_is_a_usage_error(tmp_path: Path) -> None:
    assert conformance.main([str(tmp_path)]) == 2
    assert conformance.main([]) == 2
