"""Compile the codec: at installation (deploy/build_codec.py), or by hand, `python build.py`.

Every part is compiled once for each level of x86-64 (the psABI's v2, v3, v4), and once where the
processor is another; level.c says which of them runs. Without a C compiler nothing is built: the
torch path does the same work.
"""

import contextlib
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
from typing import Final

FOLDER: Final = Path(__file__).parent

LIBRARY: Final = FOLDER / "codec.so"

PARTS: Final = {"dct": "fast", "encode": "fast", "rice": "fast", "apply": "off"}
"""And whether a product and a sum may become one rounding: not where replicas must agree (E2)."""

FLAGS: Final = (
    *("-std=gnu11", "-O3", "-fno-math-errno", "-fPIC", "-fvisibility=hidden"),
    *("-Wall", "-Wextra"),
)


def hash_sources() -> str:
    """SHA-256 of all that is compiled, so that a library made from others is noticed."""
    files = [*sorted(FOLDER.glob("*.[ch]")), Path(__file__)]
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in files)).hexdigest()


def list_levels() -> dict[str, list[str]]:
    """The compiler's options for each build, by name; the slowest first."""
    if platform.machine().lower() in ("x86_64", "amd64"):
        return {level: [f"-march=x86-64-{level}"] for level in ("v2", "v3", "v4")}
    return {"v1": []}


def build(compiler: Sequence[str], flags: Sequence[str] = FLAGS, library: Path = LIBRARY) -> None:
    """Write `library`. Raises CalledProcessError where the compiler refuses."""
    with tempfile.TemporaryDirectory() as folder:
        objects = [f"{folder}/level.o"]
        sources = f'-DSOURCES="{hash_sources()}"'
        _run([*compiler, *flags, sources, "-c", str(FOLDER / "level.c"), "-o", objects[0]])
        for level, options in list_levels().items():
            for part, contraction in PARTS.items():
                objects.append(f"{folder}/{part}.{level}.o")
                named = [f"-ffp-contract={contraction}", f"-DLEVEL={level}", "-Wno-psabi"]
                source = ["-c", str(FOLDER / f"{part}.c"), "-o", objects[-1]]
                _run([*compiler, *flags, *options, *named, *source])
        made = f"{folder}/codec.so"
        _run([*compiler, "-shared", *objects, "-lm", "-o", made])
        # Another name for each build that goes on at the same time; replaced at once, so that a
        # process that has the old one open keeps it.
        partial = library.with_name(f"{Path(folder).name}.partial.so")
        try:
            shutil.copy(made, partial)
            partial.replace(library)
        finally:
            partial.unlink(missing_ok=True)


def find_compiler() -> list[str] | None:
    """$CC, or the first of the usual names that is there. Raises ValueError for an open quote."""
    if named := shlex.split(os.environ.get("CC", "")):
        return named
    return next(([name] for name in ("cc", "gcc", "clang") if shutil.which(name)), None)


def build_if_possible() -> bool:
    """Whether LIBRARY was made; if not, says why on stderr and leaves none behind."""
    try:
        compiler = find_compiler()
        if compiler is None:
            raise OSError("there is no C compiler")
        build(compiler)
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        with contextlib.suppress(OSError):  # one of other sources would not be used anyway
            LIBRARY.unlink(missing_ok=True)
        sys.stderr.write(f"demo-node: codec not compiled ({error}); torch does it, slower\n")
        return False
    return True


def _run(command: Sequence[str]) -> None:
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


if __name__ == "__main__":
    sys.exit(not build_if_possible())
