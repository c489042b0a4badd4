"""Is what is installed what this program was made for? Asked before anything of it is imported.

Parts of the mesh reach into one version of libp2p, and stubs into a range of protobuf: with others
a node would fail with a traceback somewhere, or worse, not fail.
"""

from collections.abc import Callable, Sequence
from importlib import metadata

from packaging.requirements import Requirement

from demo_protocol.errors import ConfigError


def check_versions(
    requirements: Sequence[str] | None = None, installed: Callable[[str], str] = metadata.version
) -> None:
    """Compare the installed libraries with what demo-node's own package asks for.

    Raises ConfigError naming the library, both versions and the command that mends it.
    """
    for text in metadata.requires("demo-node") or [] if requirements is None else requirements:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        try:
            version = installed(requirement.name)
        except metadata.PackageNotFoundError:
            found = "is not"
        else:
            if requirement.specifier.contains(version, prereleases=True):
                continue
            found = f"{version} is"
        raise ConfigError(
            f"{requirement.name} {found} installed, this demo-node needs {requirement};"
            f" run: pip install '{requirement}'"
        )
