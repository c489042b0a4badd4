"""The dashboards are of the shape that Grafana publishes: by its TypeScript types and by its SDK.

Either alone is not enough. `tsc` sees wrong types and values, but no unknown key within a panel,
whose options are a union of all plugins'. The SDK's models know each plugin's keys, but no types.
"""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from tests.cli.command import ROOT
from tests.monitoring.boards import BOARDS, Json, load, panels
from tests.needs import needs

VERSIONS: Final = ("@grafana/schema@13.2.3", "typescript@7.0.2")

CACHE: Final = ROOT / ".scratch" / "npm"

TSC: Final = (
    *("node_modules/.bin/tsc", "--noEmit", "--skipLibCheck", "--strict"),
    *("--moduleResolution", "bundler", "--module", "esnext"),
)

HEAD: Final = """\
import type { Dashboard } from "@grafana/schema";
// JSON has the values of enumerations, not their names.
type Plain<T> = T extends string ? `${T}`
  : T extends (infer U)[] ? Plain<U>[]
  : T extends object ? { [K in keyof T]: Plain<T[K]> } : T;
export const dashboard: Plain<Dashboard> = """


OF_PROMETHEUS: Final = {"expr", "step", "titleFormat", "useValueForTime"}
"""What only Grafana's Prometheus plugin knows of an annotation."""


@pytest.fixture(scope="module")
def compiler() -> Path:
    """A folder with tsc and Grafana's types, installed once for all runs of the tests."""
    needs("node", "npm")
    stamp = CACHE / "installed"
    if not stamp.exists() or stamp.read_text() != "\n".join(VERSIONS):
        CACHE.mkdir(parents=True, exist_ok=True)
        line = ["npm", "install", "--ignore-scripts", "--no-package-lock", "--no-audit"]
        line += ["--no-fund", "--prefix", str(CACHE), *VERSIONS]
        done = subprocess.run(line, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        stamp.write_text("\n".join(VERSIONS))
    return CACHE


def compile_with_types(compiler: Path, name: str, board: Json) -> str:
    """What tsc has to say of it; empty for nothing."""
    source = compiler / f"{name}.ts"
    source.write_text(HEAD + json.dumps(normalise(board), indent=1) + ";\n")
    done = subprocess.run(
        [*TSC, source.name], check=False, capture_output=True, text=True, cwd=compiler
    )
    assert done.returncode == 0 or "error TS" in done.stdout, done.stdout + done.stderr
    return done.stdout


def normalise(board: Json) -> Json:
    """Without what the SDK writes and Grafana's types lack: empty values, and some of variables."""
    variables = [
        {key: v for key, v in variable.items() if not key.startswith("auto") and key != "id"}
        for variable in board["templating"]["list"]
    ]
    found: Json = _without_nulls(without_plugin(board) | {"templating": {"list": variables}})
    return found


def without_plugin(board: Json) -> Json:
    """With of annotations what Grafana's types and the SDK know; plugins set properties of theirs.

    In Grafana's own words: "plugins can set any property directly on the main object".
    """
    annotations = board["annotations"]["list"]
    assert all(each.keys() >= OF_PROMETHEUS for each in annotations)
    known = [{k: v for k, v in each.items() if k not in OF_PROMETHEUS} for each in annotations]
    return board | {"annotations": {"list": known}}


def _without_nulls(value: Any) -> Any:
    """A threshold's null stands: it is where the first one begins."""
    if isinstance(value, dict):
        kept = {key: v for key, v in value.items() if v is not None or key == "value"}
        return {key: _without_nulls(v) for key, v in kept.items()}
    return [_without_nulls(v) for v in value] if isinstance(value, list) else value


@pytest.mark.monitoring
@pytest.mark.parametrize("name", BOARDS)
def test_types_fit(compiler: Path, name: str) -> None:
    assert compile_with_types(compiler, name, load(name)) == ""


@pytest.mark.monitoring
def test_a_wrong_type_is_found(compiler: Path) -> None:
    board = load("swarm")
    panels(board)[2]["gridPos"]["w"] = "12"
    assert "'string' is not assignable to type 'number'" in compile_with_types(
        compiler, "wrong_type", board
    )


@pytest.mark.monitoring
def test_a_wrong_value_is_found(compiler: Path) -> None:
    board = load("swarm")
    panels(board)[0]["fieldConfig"]["defaults"]["thresholds"]["mode"] = "absolut"
    assert "absolut" in compile_with_types(compiler, "wrong_value", board)


def find_unknown_keys(board: Json) -> list[str]:
    """Keys that the SDK's models, which know each kind of panel, do not take over."""
    register_default_plugins()
    board = without_plugin(board)
    known = json.loads(json.dumps(Dashboard.from_json(board), cls=JSONEncoder))
    return list(_find_lost(board, known, ""))


def _find_lost(before: Any, after: Any, path: str) -> Iterator[str]:
    if isinstance(before, dict):
        for key, value in before.items():
            here = f"{path}.{key}"
            yield from _find_lost(value, after[key], here) if key in after else (here,)
    elif isinstance(before, list):
        for index, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from _find_lost(one, other, f"{path}[{index}]")
    elif before != after:
        yield path


@pytest.mark.parametrize("name", BOARDS)
def test_keys_are_known(name: str) -> None:
    assert find_unknown_keys(load(name)) == []


def test_unknown_keys_are_found() -> None:
    board = load("swarm")
    panel = board["panels"].index(panels(board)[-1])
    board["panels"][panel]["titel"] = ""
    board["panels"][panel]["options"]["legnd"] = {}
    board["panels"][panel]["fieldConfig"]["defaults"]["custom"]["lineWdth"] = 1
    board["panels"][panel]["targets"][0]["exprr"] = ""
    here = f".panels[{panel}]"
    assert set(find_unknown_keys(board)) == {
        f"{here}.titel",
        f"{here}.options.legnd",
        f"{here}.fieldConfig.defaults.custom.lineWdth",
        f"{here}.targets[0].exprr",
    }
