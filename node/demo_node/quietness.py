"""What is different in the quiet hours: the caps, or whether this node trains."""

from typing import Final

from demo_node.config import Config
from demo_node.observer import RoundObserver
from demo_node.operations import NodeOperations
from demo_node.ports import OpenMesh
from demo_node.quiet_hours import QuietHours, parse_quiet_hours

KBIT_BYTES: Final = 125


class Quietness:
    """Carries out what the operator wants of quiet hours, and knows the upload cap of now."""

    def __init__(
        self, config: Config, mesh: OpenMesh, operations: NodeOperations, observer: RoundObserver
    ) -> None:
        self.hours: QuietHours | None = parse_quiet_hours(config.quiet_hours)
        self._config = config
        self._mesh = mesh
        self._operations = operations
        self._observer = observer
        self._is_quiet = False

    @property
    def upload_bytes_per_s(self) -> float:
        """The cap that holds now; 0 for none."""
        quiet = self._config.quiet_upload_kbit_s if self._is_quiet else 0
        return (quiet or self._config.upload_kbit_s) * KBIT_BYTES

    @property
    def download_bytes_per_s(self) -> float:
        """The cap that holds now; 0 for none."""
        quiet = self._config.quiet_download_kbit_s if self._is_quiet else 0
        return (quiet or self._config.download_kbit_s) * KBIT_BYTES

    @property
    def pauses(self) -> bool:
        """Without caps of their own, quiet hours are hours without training."""
        return not (self._config.quiet_upload_kbit_s or self._config.quiet_download_kbit_s)

    def on_change(self, is_quiet: bool) -> None:
        """The quiet hours begin, or are over."""
        assert self.hours is not None
        self._is_quiet = is_quiet
        self._mesh.set_caps(self.upload_bytes_per_s, self.download_bytes_per_s)
        if self.pauses:
            self._operations.set_quiet(self.hours.end if is_quiet else "")
        if is_quiet:
            self._observer.on_event("quiet.begun", until=self.hours.end, trains=not self.pauses)
        else:
            self._observer.on_event("quiet.ended")
