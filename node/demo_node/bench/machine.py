"""What figures were made on."""

import os
import platform
from importlib.metadata import version


def describe_machine() -> str:
    """System, cores and versions; losses do not depend on it but for their last digits."""
    system = f"{platform.system()} {platform.machine()}"
    return (
        f"{system}, {os.cpu_count()} cores, Python {platform.python_version()},"
        f" torch {version('torch')}"
    )
