"""What a new run takes over from the snapshot it goes on from (`init --from`)."""

from dataclasses import dataclass
from pathlib import Path

from demo_node.store.corpus import Corpus, load_corpus
from demo_node.store.datadir import DataDir
from demo_node.store.disk import Disk
from demo_node.store.initial import Parameters, inspect_parameters
from demo_node.store.manifest_file import load_manifest
from demo_protocol.errors import ConfigError
from demo_protocol.manifest import Manifest, compute_run_id
from demo_protocol.presets import PRESETS, Preset
from demo_protocol.schema import compute_schema


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """A snapshot, and how its model is trained. `manifest`: of its run, if that was found."""

    path: Path
    preset: Preset
    manifest: Manifest | None
    corpus: Corpus | None


def find_origin(disk: Disk, path: Path, preset: str | None) -> Origin:
    """Look at a snapshot and at what lies around it.

    Without `preset` its run's manifest says how to train it, else the preset of its shape.
    Raises ConfigError where the file is no snapshot, or of another model, or lies beside a manifest
    that cannot be read: settings of an old run are not dropped in silence.
    """
    parameters = inspect_parameters(disk, path)
    manifest, folder = _find_manifest(disk, parameters)
    if preset is not None:
        candidates = [PRESETS[preset]]
    elif manifest is not None:
        candidates = [Preset(manifest.model, manifest.learning)]
    else:
        candidates = list(PRESETS.values())
    for candidate in candidates:
        if compute_schema(candidate.model).shapes == parameters.shapes:
            corpus = load_corpus(disk, folder.corpus, manifest.data) if manifest else None
            return Origin(path=path, preset=candidate, manifest=manifest, corpus=corpus)
    wanted = f"that of --preset {preset}" if preset else "any preset's, and no manifest is near"
    raise ConfigError(f"{path}: its tensors do not have the names and shapes of {wanted}")


def _find_manifest(disk: Disk, parameters: Parameters) -> tuple[Manifest | None, DataDir]:
    """The manifest of the snapshot's own run, and the folder where it lies. Raises ConfigError."""
    folder = DataDir(parameters.path.parent)
    for place in (parameters.path.parent.parent, parameters.path.parent):
        folder = DataDir(place)
        try:
            manifest = load_manifest(disk, folder.manifest)
        except ConfigError as error:
            raise ConfigError(
                f"{error}, or copy {parameters.path.name} into a folder of its own: its parameters"
                " alone are enough to go on from",
                exit_code=error.exit_code,
            ) from None
        if manifest is not None and compute_run_id(manifest).hex() == parameters.run_id:
            return manifest, folder
    return None, folder
