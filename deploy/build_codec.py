"""Hatchling compiles the codec before it packs a wheel or points to this checkout."""

import runpy
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import (  # type: ignore[import-not-found]
    BuildHookInterface,
)

CODEC = "node/demo_node/native"


class CodecHook(BuildHookInterface):  # type: ignore[misc,type-arg,unused-ignore]
    """Its name does not matter: hatchling takes the one class in this file."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and if there is a library, say that the wheel is for this system only."""
        if self.target_name != "wheel":
            return
        build = runpy.run_path(str(Path(self.root, CODEC, "build.py")))
        if build["build_if_possible"]():
            build_data["pure_python"] = False
            build_data["infer_tag"] = True
            build_data["artifacts"].append(f"/{CODEC}/{build['LIBRARY'].name}")
