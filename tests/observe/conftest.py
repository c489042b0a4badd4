"""What the tests of the log share."""

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture
def libraries_log_as_before() -> Iterator[None]:
    """A log takes over what libraries say, for the whole process: give it back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
