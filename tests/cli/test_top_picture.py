from pathlib import Path

from tests.cli.top_picture import export
from tests.cli.top_readings import reading


def test_the_picture_of_the_docs_is_what_the_screen_shows_and_fetches_nothing(
    tmp_path: Path,
) -> None:
    export(reading(), tmp_path / "top.svg")
    svg = (tmp_path / "top.svg").read_text()
    assert "active" in svg
    assert "last&#160;2.40&#160;s" in svg
    assert "url(http" not in svg
    assert "@font-face" not in svg
