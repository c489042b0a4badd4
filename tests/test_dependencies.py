"""docs/decisions/dependencies.md has an entry for every dependency, and for no other one."""

import fnmatch
import re
import tomllib
from collections.abc import Iterable
from typing import Final

import pytest
from packaging.requirements import Requirement

from tests.pages import ROOT

PAGE: Final = (ROOT / "docs/decisions/dependencies.md").read_text()
PROJECT: Final = tomllib.loads((ROOT / "pyproject.toml").read_text())


def list_entries(title: str) -> set[str]:
    """Names in the first column of a section's table."""
    section = PAGE.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]
    cells = [row.split(" | ")[0] for row in re.findall(r"^\| (.*)", section, re.MULTILINE)[1:]]
    return set(re.findall(r"[\w*.-]{2,}", re.sub(r"\(.*?\)|`\w+`:|with|and", "", " ".join(cells))))


def name_all(*requirements: Iterable[str]) -> set[str]:
    return {Requirement(each).name for some in requirements for each in some}


TABLES: Final = {
    "At run time": name_all(PROJECT["project"]["dependencies"]),
    "At run time, if asked for": name_all(*PROJECT["project"]["optional-dependencies"].values()),
    "For development": name_all(PROJECT["dependency-groups"]["dev"]),
}


@pytest.mark.parametrize("title", TABLES)
def test_every_dependency_has_its_entry_and_no_other(title: str) -> None:
    entries = list_entries(title)
    for name in TABLES[title]:
        assert any(fnmatch.fnmatch(name, entry) for entry in entries), name
    for entry in entries:
        assert fnmatch.filter(TABLES[title], entry), entry


def test_every_package_of_programs_has_its_entry() -> None:
    wanted = (ROOT / "deploy/install-tools.sh").read_text().split('wanted="')[1].split('"')[0]
    packages = {pair.split(":")[1] for pair in wanted.split()}
    assert packages <= list_entries("Programs for tests")
