import http.client
import itertools
import json
import os
import re
import select
import shutil
import signal
import socket
import struct
import tempfile
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from processes import listeners, session, started, wait_for

WORKER = "ray::ServeReplica:default:Worker"
WAITING = 8  # what a budget of 48 passes holds before anything is known


class Server:
    """The endpoint of one process and its children."""

    def __init__(self, process, port, artifact):
        self.process = process
        self.port = port
        self.artifact = artifact

    def ask(self, method, path, body=None, headers=None, **options):
        """Status, headers and text."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=100)) as connection:
            connection.request(method, path, body, headers or {}, **options)
            response = connection.getresponse()
            return response.status, response.headers, response.read().decode()

    def classify(self, data):
        status, headers, text = self.ask("POST", "/classify", data, {"Content-Type": "image/png"})
        return status, headers, json.loads(text)

    def status(self, path):
        """Of a page; 0 where nobody answers."""
        try:
            return self.ask("GET", path)[0]
        except OSError:
            return 0

    def metric(self, name):
        text = self.ask("GET", "/metrics")[2]
        found = re.findall(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
        return float(found[0]) if found else 0.0

    def workers(self):
        return session(self.process.pid, WORKER)

    def ready(self):
        status, _, text = self.ask("GET", "/readyz")
        return json.loads(text).get("workers") if status == 200 else 0


@pytest.fixture(scope="module")
def server(artifact, noise_key):
    """Two workers, four pictures a batch, room for eight, and tight limits."""
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp", ignore_cleanup_errors=True) as scratch:
        with closing(socket.create_server(("127.0.0.1", 0))) as free:
            port = free.getsockname()[1]
        file = Path(scratch) / "lab.onnx"
        shutil.copyfile(artifact("lab.onnx"), file)
        options = {
            "artifact": file,
            "noise-key": noise_key,
            "port": port,
            "workers": 2,
            "batch": 4,
            "budget": 6 * WAITING,
            "topk": 3,
            "max-bytes": 10**6,
            "max-pixels": 10**6,
            "upload-seconds": 2,
        }
        arguments = itertools.chain(*((f"--{name}", value) for name, value in options.items()))
        with started("serve.py", *arguments, scratch=Path(scratch)) as process:
            server = Server(process, port, file)

            def up():
                said = (Path(scratch) / "serve.py.log").read_text()
                assert process.poll() is None, said
                return f"serving on http://127.0.0.1:{port}/classify" in said

            assert server.status("/readyz") != 200
            wait_for(up, "the endpoint", seconds=200)
            wait_for(lambda: server.ready() == 2, "both workers")
            yield server


def answer(said):
    best = said["top"][0]
    return {**said, "label": best["label"], "probability": best["probability"]}


def test_answers_are_the_bare_runtimes_in_batches_too(server, files, expected, same):
    with ThreadPoolExecutor(WAITING) as pool:
        together = list(pool.map(lambda file: server.classify(file.read_bytes()), files))
    for file, (status, _, said) in zip(files, together, strict=True):
        assert status == 200, said
        same(answer(said), expected[file])
        assert len(said["top"]) == 3
        assert said["calibrated"] is True
        assert "not a certified one" in said["limits"]
    assert server.metric("clipfast_batch_size_sum") == len(files)
    assert server.metric("clipfast_batch_size_count") < len(files)
    countered = sum(one["countered"] for one in expected.values())
    assert server.metric("clipfast_countered_total") == countered
    assert server.metric("clipfast_changed_total") == sum(one["changed"] for one in expected.values())
    assert server.metric("clipfast_drift_count") == len(files)
    assert server.metric('clipfast_requests_total{status="200"}') == len(files)
    assert server.metric("clipfast_shed_total") == 0


def test_load_over_budget_is_shed_and_the_rest_is_answered(server, files, expected, same):
    stopped = server.workers()
    assert len(stopped) == 2
    shed = server.metric("clipfast_shed_total")
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        with ThreadPoolExecutor(3 * WAITING) as pool:
            asked = [pool.submit(server.classify, file.read_bytes()) for file in files]
            wait_for(lambda: sum(one.done() for one in asked) >= 2 * WAITING, "some to be shed")
            early = [one.result() for one in asked if one.done()]
            assert server.status("/healthz") == 200
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)
            results = [one.result() for one in asked]
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
    # An estimate below the worst case lets a few more wait; nobody is answered without a worker.
    assert {status for status, *_ in early} == {503}
    for file, (status, headers, said) in zip(files, results, strict=True):
        if status == 200:
            same(answer(said), expected[file])
        else:
            assert status == 503
            assert 1 <= int(headers["Retry-After"]) <= 60
            assert set(said) == {"error"}
    statuses = [status for status, *_ in results]
    assert 1 <= statuses.count(200) <= 3 * WAITING - 2 * WAITING
    assert server.metric("clipfast_shed_total") - shed == statuses.count(503)
    assert server.metric("clipfast_outstanding_passes") == 0


def bomb():
    """A PNG of a few hundred bytes that claims to be 30,000 pixels wide and high."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0)
    pieces = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(bytes(1000))), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(pieces)


def test_uploads_have_limits_and_errors_have_reasons(server, files):
    png = {"Content-Type": "image/png"}
    for body, headers, status, reason in (
        (b"", png, 400, "zero bytes"),
        (b"a", {"Content-Type": "text/plain"}, 415, "text/plain"),
        (bytes(10**6 + 1), png, 413, "at most 1000000 bytes, got 1000001"),
        (b"no picture", png, 422, "not an image"),
        (files[0].read_bytes()[:300], png, 422, "broken or truncated"),
        (bomb(), png, 422, "decompression bomb"),
        (b"no form", {"Content-Type": "multipart/form-data; boundary=x"}, 400, "broken form"),
    ):
        got, _, text = server.ask("POST", "/classify", body, headers)
        assert (got, reason in json.loads(text)["error"]) == (status, True), text
    assert server.ask("GET", "/classify")[0] == 405
    assert server.ask("GET", "/nothing")[0] == 404
    form = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n%s\r\n--x--\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    assert server.ask("POST", "/classify", form % files[0].read_bytes(), headers)[0] == 200


def test_endless_and_slow_bodies_are_cut_while_they_come(server):
    head = (
        b"POST /classify HTTP/1.1\r\nHost: a\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as endless:
        endless.sendall(head)
        reply = b""
        for _ in range(1000):
            endless.sendall(b"10000\r\n%s\r\n" % bytes(0x10000))
            if select.select([endless], [], [], 0.001)[0]:
                reply = endless.recv(1000)
                break
        assert b" 413 " in reply.partition(b"\r\n")[0]
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as slow:
        slow.sendall(head + b"1\r\na\r\n")
        assert b" 408 " in slow.recv(1000).partition(b"\r\n")[0]
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as gone:
        gone.sendall(head + b"1\r\na\r\n")
    wait_for(lambda: server.metric("clipfast_outstanding_passes") == 0, "passes to be given back")


def test_slow_and_large_headers_are_cut(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as slow:
        slow.sendall(b"POST /classify HTTP/1.1\r\nHost: a\r\n")
        assert slow.recv(1000) == b""  # within seconds, which the time-out of the test allows
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as large:
        large.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\n")
        large.sendall(b"Y: " + b"y" * 2**16)
        said = large.recv(1000)
        assert said == b"" or b" 4" in said.partition(b"\r\n")[0]


def test_slow_bodies_hold_up_nobody(server, files, expected, same):
    """Not probes, and not who sends a picture."""
    head = (
        b"POST /classify HTTP/1.1\r\nHost: a\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    with ExitStack() as stack:
        for _ in range(600):
            slow = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=60))
            slow.sendall(head + b"1\r\na\r\n")
        for page in ("/healthz", "/readyz", "/metrics"):
            assert server.status(page) == 200
        status, _, said = server.classify(files[0].read_bytes())
        assert status == 200
        same(answer(said), expected[files[0]])
    wait_for(lambda: server.metric("clipfast_outstanding_passes") == 0, "passes to be given back")


def test_nothing_listens_beyond_this_machine_but_what_cannot_be_told(server):
    """Serve's replicas open a port each for calls between them, on every interface: see the README."""
    loopback = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
    found = listeners(session(server.process.pid))
    assert found.keys() & loopback
    beyond = set().union(*(titles for address, titles in found.items() if address not in loopback))
    assert {title.split(":")[2] for title in beyond} <= {"ServeReplica"}, beyond


def test_a_killed_worker_costs_no_answer_and_comes_back(server, files, expected, same):
    victim = server.workers()[0]
    asked = threading.Event()

    def ask(index):
        if index == 30:
            asked.set()
        return server.classify(files[index % len(files)].read_bytes())

    with ThreadPoolExecutor(WAITING // 2) as pool:
        results = pool.map(ask, range(4 * len(files)))
        assert asked.wait(100)
        os.kill(victim, signal.SIGKILL)
        results = list(results)
    for index, (status, _, said) in enumerate(results):
        assert status == 200, said
        same(answer(said), expected[files[index % len(files)]])
    wait_for(lambda: len(server.workers()) == 2 and server.ready() == 2, "a worker in its place")
    assert victim not in server.workers()


def test_without_workers_it_lives_and_is_not_ready(server, files, expected, same):
    """There are none while the artifact is another one than at the start."""
    whole = server.artifact.read_bytes()
    server.artifact.write_bytes(whole.replace(b"logits", b"LOGITS"))
    for pid in server.workers():
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: server.status("/readyz") == 503, "it to notice", seconds=30)
    for _ in range(5):
        time.sleep(1)
        assert server.status("/readyz") == 503
    assert server.status("/healthz") == 200
    server.artifact.write_bytes(whole)
    wait_for(lambda: server.status("/readyz") == 200, "new workers")
    status, _, said = server.classify(files[0].read_bytes())
    assert status == 200
    same(answer(said), expected[files[0]])


def test_who_is_told_to_stop_answers_first(server, files, expected, same):
    """The last test: the endpoint is gone afterwards."""
    stopped = server.workers()
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(server.classify, files[0].read_bytes())
        time.sleep(1)
        server.process.terminate()
        wait_for(lambda: server.status("/healthz") == 0, "it to listen no more")
        assert not asked.done()
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
        status, _, said = asked.result()
    assert status == 200
    same(answer(said), expected[files[0]])
    assert server.process.wait(60) == 0
