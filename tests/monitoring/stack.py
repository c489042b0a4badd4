"""Real Prometheus and Alertmanager on the loopback, and a receiver that notes what they tell."""

import contextlib
import json
import subprocess
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from tests.e2e.processes import marked_environment, nothing_left
from tests.monitoring.deployed import copy_alertmanager, copy_prometheus
from tests.waiting import wait_until_sync

UP_S = 60.0
"""A server is ready in less than a second; the cores may be busy."""

ANSWER_S = 20.0


@dataclass(frozen=True, slots=True)
class Notice:
    """An alert as the webhook heard of it: `status` is firing or resolved.

    `instance` is empty where it is about no node.
    """

    alert: str
    instance: str
    status: str


class Webhook:
    """Where Alertmanager sends its notifications."""

    def __init__(self) -> None:
        self.notices: list[Notice] = []
        """In the order in which they came."""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._make_handler())

    @property
    def url(self) -> str:
        """For Alertmanager."""
        return f"http://127.0.0.1:{self._server.server_port}/"

    def firing(self, alert: str) -> set[str]:
        """Instances of which it was told last that this alert is firing."""
        newest = {n.instance: n.status for n in list(self.notices) if n.alert == alert}
        return {instance for instance, status in newest.items() if status == "firing"}

    @contextlib.contextmanager
    def listening(self) -> Iterator["Webhook"]:
        """Take notices until the block ends."""
        thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            thread.join()
            self._server.server_close()

    def _note(self, message: Mapping[str, Any]) -> None:
        for alert in message["alerts"]:
            labels = alert["labels"]
            instance = labels.get("instance", "")
            self.notices.append(Notice(labels["alertname"], instance, alert["status"]))

    def _make_handler(self) -> type[BaseHTTPRequestHandler]:
        webhook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                webhook._note(json.loads(self.rfile.read(length)))
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Not onto the terminal."""

        return Handler


@contextlib.contextmanager
def running_alertmanager(folder: Path, webhook_url: str) -> Iterator[str]:
    """Alertmanager as it is deployed, but quick, telling the webhook; yields its address."""
    config = copy_alertmanager(folder, webhook_url)
    line = ["prometheus-alertmanager", f"--config.file={config}", f"--storage.path={folder}/data"]
    line += ["--web.listen-address=127.0.0.1:0"]
    line += ["--cluster.listen-address="]  # empty: off the network
    with _serving(folder, line) as url:
        yield url


@contextlib.contextmanager
def running_prometheus(
    folder: Path, metrics_urls: Sequence[str], alertmanager_url: str
) -> Iterator[str]:
    """Prometheus as it is deployed, but quick, scraping these nodes; yields its address."""
    targets = [urllib.parse.urlsplit(url).netloc for url in metrics_urls]
    config = copy_prometheus(folder, targets, urllib.parse.urlsplit(alertmanager_url).netloc)
    line = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder}/data"]
    line += ["--web.listen-address=127.0.0.1:0", "--enable-feature=exemplar-storage"]
    with _serving(folder, line) as url:
        yield url


def ask(base_url: str, path: str, **parameters: str) -> Any:
    """`data` of an answer of the HTTP API. An error and a warning fail the test."""
    url = f"{base_url}{path}?{urllib.parse.urlencode(parameters)}"
    try:
        with urllib.request.urlopen(url, timeout=ANSWER_S) as reply:
            answer = json.load(reply)
    except urllib.error.HTTPError as error:
        raise AssertionError(f"{path} {parameters}: {error.read().decode()}") from None
    assert answer["status"] == "success", answer
    assert not answer.get("warnings"), answer
    return answer["data"]


@contextlib.contextmanager
def _serving(folder: Path, line: Sequence[str]) -> Iterator[str]:
    """The server in the background, on a port of its choice; gone when the block ends."""
    log = folder / "log"
    with (
        nothing_left(folder),
        log.open("wb") as output,
        subprocess.Popen(
            line,
            env=marked_environment(folder),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        ) as process,
    ):
        try:
            yield _wait_until_ready(process, log)
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(ANSWER_S)
            process.kill()


def _wait_until_ready(process: "subprocess.Popen[bytes]", log: Path) -> str:
    found: list[str] = []

    def is_ready() -> bool:
        assert process.poll() is None, log.read_text()[-2000:]
        listening = psutil.Process(process.pid).net_connections(kind="tcp4")
        ports = [c.laddr.port for c in listening if c.status == psutil.CONN_LISTEN]
        if not ports:
            return False
        found[:] = [f"http://127.0.0.1:{ports[0]}"]
        with contextlib.suppress(OSError):  # 503 until its storage is open
            urllib.request.urlopen(f"{found[0]}/-/ready", timeout=ANSWER_S).close()
            return True
        return False

    wait_until_sync(is_ready, UP_S)
    return found[0]
