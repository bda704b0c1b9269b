"""The real Prometheus and Alertmanager beside a real server: figures are scraped, an alert is raised and resolved."""

import contextlib
import http.server
import json
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from server import Server, answers, free_ports, serve

SECONDS = 60
NODES = ["api-docs", "backend-dev"]
ALERT = "lintmesh_degraded_health"

# Alerts within seconds; otherwise as they are by default.
SETTINGS = """
[mesh]
heartbeat_interval = 1.0
message_timeout = 3.0

[alerts]
raise_after = 1.0
clear_after = 1.0
resend_interval = 5.0
labels = {{ mesh = "interop" }}
alertmanager_url = ["http://127.0.0.1:{port}"]
"""

PROMETHEUS = """
global:
  scrape_interval: 1s
scrape_configs:
  - job_name: lintmesh
    static_configs:
      - targets: ["{admin}"]
"""

ALERTMANAGER = """
route:
  receiver: here
  group_by: [alertname]
  group_wait: 0s
  group_interval: 1s
receivers:
  - name: here
    webhook_configs:
      - url: http://127.0.0.1:{port}/
        send_resolved: true
"""


def get(url: str) -> str:
    """Return what a GET answers."""
    with urllib.request.urlopen(url, timeout=5) as answer:
        return answer.read().decode()


def until(what: str, found: Callable[[], object]) -> object:
    """Return what is found once there is something."""
    deadline = time.monotonic() + SECONDS
    while True:
        result = found()
        if result:
            return result
        assert time.monotonic() < deadline, f"in vain for {SECONDS} s: {what}"
        time.sleep(0.2)


@contextlib.contextmanager
def running(command: list, log: Path, ready: str) -> Iterator[None]:
    """Run a server of somebody else, from when it is ready to the end of the block."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
    try:
        until(f"{command[0]} is ready; see {log}", lambda: process.poll() is not None or answers(ready))
        assert process.poll() is None, f"{command[0]} ended with {process.returncode}:\n{log.read_text()}"
        yield
    finally:
        process.terminate()
        process.wait(SECONDS)


@contextlib.contextmanager
def receiver(port: int) -> Iterator[list[tuple[str, str]]]:
    """Take the notifications that Alertmanager sends on: each alert's name and status."""
    told: list[tuple[str, str]] = []

    class Receiver(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            told.extend((alert["labels"]["alertname"], alert["status"]) for alert in body["alerts"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    listener = http.server.ThreadingHTTPServer(("127.0.0.1", port), Receiver)
    thread = threading.Thread(target=listener.serve_forever)
    thread.start()
    try:
        yield told
    finally:
        listener.shutdown()
        thread.join()
        listener.server_close()


def check_page(server: Server) -> None:
    """Have promtool judge the page."""
    page = get(f"http://{server.admin}/metrics")
    judged = subprocess.run(
        ["promtool", "check", "metrics"], input=page, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert judged.returncode == 0 and not judged.stderr and not judged.stdout, judged.stdout + judged.stderr


def query(prometheus: str, text: str) -> list[dict]:
    """Ask Prometheus."""
    answer = json.loads(get(f"{prometheus}/api/v1/query?{urllib.parse.urlencode({'query': text})}"))
    assert answer["status"] == "success", answer
    return answer["data"]["result"]


def check_prometheus(binary: Path, server: Server, prometheus: str) -> None:
    """Ask for a figure, for its absence, and for a quantile over calls."""
    # A call to count.
    status = [binary, "status", "--server", f"http://{server.api}"]
    subprocess.run(status, capture_output=True, timeout=SECONDS, check=True)

    def value(text: str) -> str | None:
        result = query(prometheus, text)
        return result[0]["value"][1] if result else None

    until("the server is scraped", lambda: value('up{job="lintmesh"}') == "1")
    until("four nodes", lambda: value("lintmesh_active_nodes") == "4")
    assert value("lintmesh_topology_health_ratio") == "1"
    assert value("sum(lintmesh_nodes_by_status)") == "4"
    assert value("lintmesh_consensus_agreement_ratio") is None, "nothing was decided"
    until("messages are counted", lambda: float(value("lintmesh_message_throughput_per_second") or 0) > 0)
    quantile = "histogram_quantile(0.99, sum by (le) (rpc_server_call_duration_seconds_bucket))"
    until("calls have a quantile", lambda: float(value(quantile) or "nan") > 0)


def fault(binary: Path, server: Server, action: str) -> None:
    """Mark two of four nodes as FAILED, or bring them back."""
    for node in NODES:
        command = [binary, "fault", action, node, "--server", f"http://{server.api}"]
        subprocess.run(command, capture_output=True, timeout=SECONDS, check=True)


def check_alert(binary: Path, server: Server, alertmanager: str, told: list[tuple[str, str]]) -> None:
    """Raise an alert and end it; watch both arrive."""

    def shown() -> list[dict]:
        alerts = json.loads(get(f"{alertmanager}/api/v2/alerts"))
        return [alert for alert in alerts if alert["labels"]["alertname"] == ALERT]

    assert not shown()
    fault(binary, server, "fail")
    (alert,) = until("the alert is shown", shown)
    assert alert["labels"] == {"alertname": ALERT, "mesh": "interop", "severity": "critical"}, alert
    assert alert["status"]["state"] == "active" and alert["annotations"]["description"], alert
    until("the alert is passed on", lambda: (ALERT, "firing") in told)
    fault(binary, server, "recover")
    until("the alert is resolved", lambda: not shown())
    until("its end is passed on", lambda: (ALERT, "resolved") in told)


def check(binary: Path, scratch: Path) -> None:
    """Run everything."""
    home = scratch / "monitoring"
    home.mkdir(parents=True)
    web, am, hook = free_ports(3)
    (home / "alertmanager.yml").write_text(ALERTMANAGER.format(port=hook), encoding="utf-8")
    alertmanager = f"http://127.0.0.1:{am}"
    prometheus = f"http://127.0.0.1:{web}"
    told_of = contextlib.ExitStack()
    with told_of:
        told = told_of.enter_context(receiver(hook))
        told_of.enter_context(
            running(
                [
                    "prometheus-alertmanager",
                    f"--config.file={home / 'alertmanager.yml'}",
                    f"--storage.path={home / 'alertmanager'}",
                    f"--web.listen-address=127.0.0.1:{am}",
                    "--cluster.listen-address=",
                ],
                home / "alertmanager.log",
                f"{alertmanager}/-/ready",
            )
        )
        server = told_of.enter_context(serve(binary, scratch, "monitored", more=SETTINGS.format(port=am)))
        (home / "prometheus.yml").write_text(PROMETHEUS.format(admin=server.admin), encoding="utf-8")
        told_of.enter_context(
            running(
                [
                    "prometheus",
                    f"--config.file={home / 'prometheus.yml'}",
                    f"--storage.tsdb.path={home / 'prometheus'}",
                    f"--web.listen-address=127.0.0.1:{web}",
                ],
                home / "prometheus.log",
                f"{prometheus}/-/ready",
            )
        )
        check_page(server)
        check_prometheus(binary, server, prometheus)
        check_alert(binary, server, alertmanager, told)
        check_page(server)
