"""For the tests: NVIDIA's own inference server, as the package nvidia-pytriton ships it, on a free port."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

__all__ = ["InferenceServer", "free_port"]

_STARTS_WITHIN = 120.0  # seconds, on a machine that is busy
_HERE = Path(__file__).parent
_STAND_IN = _HERE / "stand_in" / "onnxruntime"


class InferenceServer:
    """A server over a model repository, which it looks at again each second, from __enter__ to __exit__.

    folder: for its log and its backends: the package's Python backend, and over it the stand-in for the
    ONNX Runtime backend. Raises RuntimeError where the package is missing, does not know this Python, or the
    server does not start; the message ends with its log.
    """

    def __init__(self, repository: Path, folder: Path) -> None:
        self.repository = repository
        self.url = f"127.0.0.1:{free_port()}"
        self._folder = folder
        self._package = _package()

    @property
    def log(self) -> str:
        """What the server has said so far."""
        return (self._folder / "log").read_text(errors="replace")

    def __enter__(self) -> InferenceServer:
        command = [
            self._package / "pytriton/tritonserver/bin/tritonserver",
            f"--model-repository={self.repository}",
            f"--backend-directory={self._backends()}",
            "--model-control-mode=poll",
            "--repository-poll-secs=1",
            "--exit-on-error=false",
            "--grpc-address=127.0.0.1",
            f"--grpc-port={self.url.rpartition(':')[2]}",
            "--allow-http=false",
            "--allow-metrics=false",
            "--log-verbose=1",
        ]
        # Its Python backend takes the first python3 of the path, and needs the shared library of it.
        libraries = [str(self._package / "nvidia_pytriton.libs"), sysconfig.get_config_var("LIBDIR")]
        environment = {
            **os.environ,
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "LD_LIBRARY_PATH": os.pathsep.join(libraries),
        }
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        try:
            self._wait()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _wait(self) -> None:
        end = time.monotonic() + _STARTS_WITHIN
        with grpcclient.InferenceServerClient(self.url) as client:
            while self._process.poll() is None and time.monotonic() < end:
                try:
                    if client.is_server_live(client_timeout=1.0):
                        return
                except InferenceServerException:
                    time.sleep(0.2)
        raise RuntimeError(f"the inference server did not start:\n{self.log[-4000:]}")

    def _backends(self) -> Path:
        server = self._package / "pytriton/tritonserver"
        folder = self._folder / "backends"
        shutil.copytree(server / "backends/python", folder / "python")
        python = f"{sys.version_info.major}.{sys.version_info.minor}"
        stub = server / "python_backend_stubs" / python / "triton_python_backend_stub"
        if not stub.exists():
            raise RuntimeError(f"nvidia-pytriton at {server} has no backend for Python {python}")
        shutil.copy(stub, folder / "python")
        shutil.copytree(_STAND_IN, folder / "onnxruntime")
        shutil.copy(_HERE / "decode/backend_tensors.py", folder / "onnxruntime")
        return folder


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _package() -> Path:
    """The folder that the package was installed in; it is not imported, as it wants an older numpy."""
    found = importlib.util.find_spec("pytriton")
    if found is None or found.origin is None:
        raise RuntimeError(
            "NVIDIA's inference server is missing: pip install --no-deps nvidia-pytriton (only the server "
            "in it is used, not its Python code, which wants an older numpy)"
        )
    return Path(found.origin).parent.parent
