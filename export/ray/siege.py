"""What an honest client notices of others who are not: `python export/ray/siege.py ARTIFACT OUT.json`.

ARTIFACT: an exported `.onnx` file. One worker, on an idle machine; some three minutes. An honest client sends
pictures, one after the other, and another asks for /healthz, ten times a second, first in peace and then
beside each attack: 600 connections with slow bodies, 600 with slow headers, eight that send JPEGs of 5,000
scans, and eight that send pictures as large as allowed. Between two attacks it is peace again, so that each
is compared with what was just before. Memory is that of the gateway's process and of its decoders, at most.
"""

from __future__ import annotations

import http.client
import io
import json
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from load import ready
from PIL import Image
from processes import session, started, wait_for

from clipfast.bench.environment import environment
from clipfast.files import write_text

_SECONDS = 15.0  # of each attack, and of the peace before it
_MOST_PIXELS = 2**24  # what the endpoint allows
_HEAD = b"POST /classify HTTP/1.1\r\nHost: a\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n"


def encoded(form: str, size: tuple[int, int], **options: object) -> bytes:
    """A picture of a gradient."""
    file = io.BytesIO()
    Image.linear_gradient("L").resize(size).convert("RGB").save(file, form, **options)
    return file.getvalue()


def many_scans(count: int) -> bytes:
    """A progressive JPEG whose first scan comes so often."""
    whole = encoded("JPEG", (64, 64), progressive=True)
    start = whole.index(b"\xff\xda")
    end = whole.index(b"\xff\xc4", start)  # the next one's table
    return whole[:end] + whole[start:end] * (count - 1) + whole[end:]


def ask(port: int, method: str, path: str, body: bytes | None = None) -> tuple[int, float]:
    """Status and seconds; 0 where there was no answer."""
    start = time.perf_counter()
    try:
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
            connection.request(method, path, body, {"Content-Type": "image/png"})
            response = connection.getresponse()
            response.read()
            status = response.status
    except OSError:
        status = 0
    return status, time.perf_counter() - start


@contextmanager
def repeated(work: Callable[[], object], threads: int) -> Iterator[None]:
    """Does the same again and again, on some threads."""
    over = threading.Event()

    def run() -> None:
        while not over.is_set():
            with suppress(OSError):
                work()

    running = [threading.Thread(target=run) for _ in range(threads)]
    for thread in running:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in running:
            thread.join()


@contextmanager
def slow(port: int, first: bytes, number: int = 600) -> Iterator[None]:
    """So many connections that say no more than this; those that are cut are made anew."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.settimeout(20)
            one.connect(("127.0.0.1", port))
            one.sendall(first)

        def again() -> None:
            for i, one in enumerate(sockets):
                one.setblocking(False)
                try:
                    cut = one.recv(4096) == b""
                except BlockingIOError:
                    cut = False
                except OSError:
                    cut = True
                if cut:
                    one.close()
                    sockets[i] = socket.create_connection(("127.0.0.1", port), timeout=20)
                    sockets[i].sendall(first)
            time.sleep(0.2)

        with repeated(again, 1):
            yield
        for one in sockets:
            one.close()


def again_and_again(
    port: int, method: str, path: str, body: bytes | None, pause: float
) -> list[tuple[int, float]]:
    """What `ask` gives for some seconds."""
    found, end = [], time.monotonic() + _SECONDS
    while time.monotonic() < end:
        found.append(ask(port, method, path, body))
        time.sleep(pause)
    return found


def watched(port: int, picture: bytes) -> dict[str, float]:
    """What both clients see in the next seconds, in milliseconds."""
    with ProcessPoolExecutor(2) as pool:  # whose own threads hold up neither
        asked = pool.submit(again_and_again, port, "POST", "/classify", picture, 0.0)
        probed = pool.submit(again_and_again, port, "GET", "/healthz", None, 0.1)
        honest, health = asked.result(), probed.result()
    answered = [seconds for status, seconds in honest if status == 200]
    return {
        "answered": len(answered),
        "not answered": len(honest) - len(answered),
        "p50": round(1e3 * float(np.median(answered)), 1),
        "p99": round(1e3 * float(np.quantile(answered, 0.99)), 1),
        "healthz p99": round(1e3 * float(np.quantile([seconds for _, seconds in health], 0.99)), 1),
        "healthz at most": round(1e3 * max(seconds for _, seconds in health), 1),
        "healthz failed": sum(status != 200 for status, _ in health),
    }


def peak(pid: int) -> int:
    """A process's memory at most, in MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) // 1024


def main(
    artifact: Annotated[Path, typer.Argument(help="An exported classifier, .onnx.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="The JSON file to write.", show_default=False)],
) -> None:
    """Measures, prints and writes it as JSON."""
    scans, large = many_scans(5000), encoded("PNG", (4096, _MOST_PIXELS // 4096))
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp", ignore_cleanup_errors=True) as scratch:
        with closing(socket.create_server(("127.0.0.1", 0))) as free:
            port = free.getsockname()[1]
        attacks = {
            "slow bodies": lambda: slow(port, _HEAD + b"\r\n1\r\na\r\n"),
            "slow headers": lambda: slow(port, _HEAD),
            "JPEGs of 5000 scans": lambda: repeated(partial(ask, port, "POST", "/classify", scans), 8),
            "large pictures": lambda: repeated(partial(ask, port, "POST", "/classify", large), 8),
        }
        options = ["--artifact", artifact.resolve(), "--port", port]
        with started("serve.py", *options, scratch=Path(scratch)) as server:
            wait_for(lambda: server.poll() is not None or ready(port), "the endpoint", seconds=300)
            picture = encoded("PNG", (256, 256))
            for _ in range(20):
                ask(port, "POST", "/classify", picture)
            for name, attack in attacks.items():
                found[f"before {name}"] = watched(port, picture)
                with attack():
                    time.sleep(1)
                    found[name] = watched(port, picture)
                print(name, found[f"before {name}"], found[name], flush=True)
            decoders = [pid for pid in session(server.pid) if "decoder.py" in title(pid)]
            memory = {"gateway": peak(server.pid), "a decoder": max(map(peak, decoders))}
    cpu = environment(torch.device("cpu"))
    result = {"environment": cpu, "MiB at most": memory, "milliseconds": found}
    write_text(out, json.dumps(result, indent=1) + "\n")


def title(pid: int) -> str:
    """A process's command."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text()
    return ""


if __name__ == "__main__":
    typer.run(main)
