"""Settings every test runs with."""

import os

import pytest
from hypothesis import settings

# No deadline per example: on shared cores a pause of 200 ms says nothing about the code.
settings.register_profile("shared-cores", deadline=None)
settings.load_profile("shared-cores")


@pytest.fixture(scope="session", autouse=True)
def _state_home(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What commands remember (`demo-node runs`) is not for the home of whoever runs the tests."""
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))
