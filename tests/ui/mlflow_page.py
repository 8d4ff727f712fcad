"""MLflow's own page over a tracking store, and a browser that looks at it."""

import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import which
from urllib.parse import urlencode

from mlflow.tracking import MlflowClient
from playwright.sync_api import Browser, Page, sync_playwright

from sweeps.front_view import front_page

BROWSERS = ("chromium", "google-chrome", "chromium-browser")
TRAINING = "workflowType=machine_learning"
# The assistant's panel would open by itself and take a third of every picture. Artifacts are shown
# in frames that have no storage.
WITHOUT_ASSISTANT = """
if (window === window.top) {
    localStorage.setItem('mlflow.assistant.panelOpen_v1', 'false');
    localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true');
}
"""


@dataclass(frozen=True)
class SweepPages:
    """The addresses of one sweep's pages.

    Args:
        address: Of `mlflow ui`.
        experiment: MLflow's id of the experiment.
        parent: MLflow's id of the sweep's run.
        trials: MLflow's ids of the runs of its complete trials.
    """

    address: str
    experiment: str
    parent: str
    trials: list[str]

    def runs(self) -> str:
        """All runs of the experiment."""
        return f"{self.address}/#/experiments/{self.experiment}/runs?{TRAINING}"

    def front(self, name: str) -> str:
        """The front of a sweep."""
        return self.address + front_page(self.experiment, name)

    def comparison(self) -> str:
        """MLflow's own plots of the sweep's trials."""
        runs, experiments = json.dumps(self.trials), json.dumps([self.experiment])
        query = urlencode({"runs": runs, "experiments": experiments})
        return f"{self.address}/#/compare-runs?{query}"

    def run(self, tab: str = "") -> str:
        """The sweep's run."""
        where = f"/#/experiments/{self.experiment}/runs/{self.parent}"
        return f"{self.address}{where}{tab}?{TRAINING}"


@contextmanager
def served(tracking_uri: str, name: str, log: Path) -> Iterator[SweepPages]:
    """Run `mlflow ui` on a free port of the loopback, as long as the context lasts."""
    client = MlflowClient(tracking_uri)
    experiment = client.get_experiment_by_name("vit-slim")
    assert experiment is not None, tracking_uri
    sweeps = client.search_runs([experiment.experiment_id], "tags.kind = 'sweep'")
    parent = next(run.info.run_id for run in sweeps if run.info.run_name == name)
    below = f"tags.`mlflow.parentRunId` = '{parent}' and tags.state = 'COMPLETE'"
    trials = [run.info.run_id for run in client.search_runs([experiment.experiment_id], below)]
    port = _free_port()
    where = ["--backend-store-uri", tracking_uri, "--host", "127.0.0.1", "--port", str(port)]
    command = [sys.executable, "-m", "mlflow", "ui", *where, "--workers", "1"]
    with log.open("w") as told:
        process = subprocess.Popen(command, cwd=log.parent, stdout=told, stderr=told)
        try:
            address = f"http://127.0.0.1:{port}"
            _wait(address, process, log)
            yield SweepPages(address, experiment.experiment_id, parent, trials)
        finally:
            process.terminate()
            process.wait(30)


@contextmanager
def opened_browser() -> Iterator[Browser]:
    """The system's Chromium, without a window."""
    path = next((found for name in BROWSERS if (found := which(name))), None)
    assert path, "no Chromium; make test-ui installs Debian's"
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


def new_page(browser: Browser) -> Page:
    """A page in a profile of its own, 1400 x 900."""
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.add_init_script(WITHOUT_ASSISTANT)
    return page


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
    return port


def _wait(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until it answers, at most two minutes."""
    for _ in range(240):
        assert process.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(f"mlflow ui did not answer at {address}; {log.read_text()}")
