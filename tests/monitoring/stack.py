"""Real Prometheus and Alertmanager on the loopback, and a receiver that notes what they tell."""

import contextlib
import json
import subprocess
import threading
import time
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
from tests.waiting import wait_until_sync

JOB = "demo-node"
"""As deploy/prometheus/prometheus.yml calls it."""

SCRAPE = "1s"
"""How often nodes are scraped and rules evaluated; a swarm's rounds are a few seconds."""

UP_S = 60.0
"""A server is ready in less than a second; the cores may be busy."""

ANSWER_S = 20.0


@dataclass(frozen=True, slots=True)
class Notice:
    """An alert as the webhook heard of it. `moment_s` is of the monotonic clock."""

    alert: str
    instance: str
    status: str
    labels: Mapping[str, str]
    moment_s: float


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
            self.notices.append(
                Notice(
                    labels["alertname"],
                    labels.get("instance", ""),
                    alert["status"],
                    labels,
                    time.monotonic(),
                )
            )

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
    """Alertmanager that tells the webhook at once, each alert by itself; yields its address."""
    route = {
        "receiver": "test",
        "group_by": ["..."],
        "group_wait": "0s",
        "group_interval": "1s",
        "repeat_interval": "1h",
    }
    receiver = {
        "name": "test",
        "webhook_configs": [{"url": webhook_url, "send_resolved": True}],
    }
    config = _write_config(folder, "alertmanager", {"route": route, "receivers": [receiver]})
    line = ["prometheus-alertmanager", f"--config.file={config}"]
    line += [f"--storage.path={folder / 'alertmanager'}", "--web.listen-address=127.0.0.1:0"]
    line += ["--cluster.listen-address="]  # empty: off the network
    with _serving(folder, "alertmanager", line) as url:
        yield url


@contextlib.contextmanager
def running_prometheus(
    folder: Path, metrics_urls: Sequence[str], rules: Sequence[Path], alertmanager_url: str
) -> Iterator[str]:
    """Prometheus that scrapes these nodes and holds to these rules; yields its address."""
    targets = [urllib.parse.urlsplit(url).netloc for url in metrics_urls]
    alertmanager = urllib.parse.urlsplit(alertmanager_url).netloc
    document = {
        "global": {"scrape_interval": SCRAPE, "evaluation_interval": SCRAPE},
        "rule_files": [str(path) for path in rules],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}]},
        "scrape_configs": [{"job_name": JOB, "static_configs": [{"targets": targets}]}],
    }
    config = _write_config(folder, "prometheus", document)
    line = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder / 'prometheus'}"]
    line += ["--web.listen-address=127.0.0.1:0", "--enable-feature=exemplar-storage"]
    with _serving(folder, "prometheus", line) as url:
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


def _write_config(folder: Path, name: str, document: Mapping[str, Any]) -> Path:
    """JSON is YAML."""
    path = folder / f"{name}.yml"
    path.write_text(json.dumps(document, indent=1))
    return path


@contextlib.contextmanager
def _serving(folder: Path, name: str, line: Sequence[str]) -> Iterator[str]:
    """The server in the background, on a port of its choice; gone when the block ends."""
    mark = folder / name
    with (
        nothing_left(mark),
        (folder / f"{name}.log").open("wb") as log,
        subprocess.Popen(
            line,
            env=marked_environment(mark),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        ) as process,
    ):
        try:
            yield _wait_until_ready(process, folder / f"{name}.log")
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
