"""Compile the codec: as a hook of the installation, or by hand with `python build.py`.

Every part is compiled once for each level of x86-64 (the psABI's v2, v3, v4), and once where the
processor is another; level.c says which of them runs. Without a C compiler nothing is built: the
torch path does the same work.
"""

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

FOLDER: Final = Path(__file__).parent

LIBRARY: Final = FOLDER / "codec.so"

PARTS: Final = {"dct": "fast", "encode": "fast", "rice": "fast", "apply": "off"}
"""And whether a product and a sum may become one rounding: not where replicas must agree (E2)."""

FLAGS: Final = ("-std=gnu11", "-O3", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra")


def hash_sources() -> str:
    """SHA-256 of all that is compiled, so that a library made from others is noticed."""
    files = [*sorted(FOLDER.glob("*.[ch]")), Path(__file__)]
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in files)).hexdigest()


def list_levels() -> list[tuple[str, list[str]]]:
    """Names of the builds, and the compiler's options for each."""
    if platform.machine().lower() in ("x86_64", "amd64"):
        return [(level, [f"-march=x86-64-{level}"]) for level in ("v2", "v3", "v4")]
    return [("v1", [])]


def build(compiler: Sequence[str], flags: Sequence[str] = FLAGS, library: Path = LIBRARY) -> None:
    """Write `library`. Raises CalledProcessError where the compiler refuses."""
    with tempfile.TemporaryDirectory() as folder:
        objects = [f"{folder}/level.o"]
        sources = f'-DSOURCES="{hash_sources()}"'
        _run([*compiler, *flags, sources, "-c", str(FOLDER / "level.c"), "-o", objects[0]])
        for level, options in list_levels():
            for part, contraction in PARTS.items():
                objects.append(f"{folder}/{part}.{level}.o")
                named = [f"-ffp-contract={contraction}", f"-DLEVEL={level}", "-Wno-psabi"]
                source = ["-c", str(FOLDER / f"{part}.c"), "-o", objects[-1]]
                _run([*compiler, *flags, *options, *named, *source])
        made = f"{folder}/codec.so"
        _run([*compiler, "-shared", *objects, "-o", made])
        partial = library.with_suffix(".partial")
        shutil.copy(made, partial)
        partial.replace(library)  # a process that has the old one open keeps it


def find_compiler() -> list[str] | None:
    """$CC, or the first of the usual names that is there."""
    if named := shlex.split(os.environ.get("CC", "")):
        return named
    return next(([name] for name in ("cc", "gcc", "clang") if shutil.which(name)), None)


def build_if_possible() -> bool:
    """Whether LIBRARY was made; if not, says why on stderr and leaves none behind."""
    compiler = find_compiler()
    try:
        if compiler is None:
            raise OSError("there is no C compiler")
        build(compiler)
    except (OSError, subprocess.CalledProcessError) as error:
        LIBRARY.unlink(missing_ok=True)
        sys.stderr.write(f"demo-node: codec not compiled ({error}); torch does it, slower\n")
        return False
    return True


def _run(command: Sequence[str]) -> None:
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


if __name__ == "__main__":
    sys.exit(not build_if_possible())

try:
    from hatchling.builders.hooks.plugin.interface import (  # type: ignore[import-not-found]
        BuildHookInterface,
    )
except ImportError:  # by hand, or at run time: nobody asks
    pass
else:

    class CodecHook(BuildHookInterface):  # type: ignore[misc,type-arg,unused-ignore]
        """What hatchling calls before it packs a wheel or points to this checkout."""

        def initialize(self, version: str, build_data: dict[str, Any]) -> None:
            """Compile, and if there is a library, say that the wheel is for this system only."""
            if self.target_name == "wheel" and build_if_possible():
                build_data["pure_python"] = False
                build_data["infer_tag"] = True
                build_data["artifacts"].append(f"/{LIBRARY.relative_to(self.root)}")
