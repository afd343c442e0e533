"""The page as visitors get it: built, with its models, on a static file server, driven in a real Chromium."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from clipfast.inputs.arrays import draw_noise
from clipfast.inputs.noise import seeded_keys
from clipfast.runtime import OnnxClassifier

HERE = Path(__file__).parent
_PATIENCE = 290  # seconds for one command

Drive = Callable[..., Any]


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


class _Isolating(_Quiet):
    """With the headers under which a page may have threads."""

    def end_headers(self) -> None:
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()


def tool(name: str, package: str) -> str:
    """The path of a program; fails the test where it is missing."""
    path = shutil.which(name)
    if path is None:
        pytest.fail(f"{name} is needed and not on the PATH: install {package}")
    return path


def run(*command: str) -> str:
    """Runs a command in this folder and ends all that it started; fails the test with what it said."""
    started = subprocess.Popen(
        command,
        cwd=HERE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, error = started.communicate(timeout=_PATIENCE)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)
        started.wait()
    if started.returncode:
        pytest.fail(
            f"{' '.join(command[:3])} failed with {started.returncode}:\n{out[-3000:]}{error[-3000:]}"
        )
    return out


@pytest.fixture(scope="session")
def npm() -> Callable[..., str]:
    """Npm in this folder, where the packages of the lock file are installed."""
    tool("node", "Node.js 20.19 or newer")
    path = tool("npm", "npm, which comes with Node.js")
    run(path, "ci")
    return partial(run, path)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the drawn model, beside models.json, as models.py writes both."""
    folder = tmp_path_factory.mktemp("web") / "models"
    run(sys.executable, "-W", "error", "models.py", "--out", str(folder))
    return folder / "drawn"


@pytest.fixture(scope="session")
def built(npm: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The static files of the page, without models of its own."""
    folder = tmp_path_factory.mktemp("web") / "site"
    npm("run", "build", "--", "--outDir", str(folder), "--emptyOutDir")
    shutil.rmtree(folder / "models", ignore_errors=True)  # those that a developer has
    return folder


@pytest.fixture(scope="session")
def site(built: Path, models: Path) -> Path:
    """All that the server serves: the page, its models, and noise.bin to give it by ?noise=."""
    shutil.copytree(models.parent, built / "models")
    described = json.loads((models / "classifier.json").read_text())["defences"]
    configs = [OnnxClassifier(models / f"{defence['preset']}.onnx").config for defence in described]
    least = min(configs, key=lambda config: config.eps)
    draw_noise(seeded_keys(7, 0, 1), (1, 3, 96, 96), least).astype("<f4").tofile(built / "noise.bin")
    return built


@pytest.fixture(scope="session")
def address(site: Path) -> Iterator[str]:
    """Where the page is served, by a server of files that knows nothing else."""
    with _served(site, _Quiet) as address:
        yield address


@pytest.fixture(scope="session")
def isolated_address(site: Path) -> Iterator[str]:
    """Where it is served with the headers that threads need."""
    with _served(site, _Isolating) as address:
        yield address


@contextmanager
def _served(site: Path, handler: type[_Quiet]) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(site))) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        serving.join()


@pytest.fixture(scope="session")
def drive(address: str) -> Drive:
    """Runs a scenario of drive.mjs; its errors, and requests that leave the page's origin, fail the test."""
    chromium = tool("chromium", "the Debian package chromium")

    def scenario(name: str, url: str = address, **given: Any) -> Any:
        said = json.loads(
            run("node", "drive.mjs", name, json.dumps({"chromium": chromium, "url": url, **given}))
        )
        assert said["errors"] == []
        assert [asked for asked in said["requests"] if not asked.startswith(url)] == []
        return said["found"]

    return scenario
