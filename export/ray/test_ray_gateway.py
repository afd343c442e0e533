"""The gateway over workers that are made up, without Ray."""

import asyncio
import dataclasses
import io
import re

import gateway
import numpy as np
import pytest
from answers import Answer, answers
from gateway import Gateway, Settings
from PIL import Image
from refusal import Refusal

from clipfast.errors import ArtifactError, InputError
from clipfast.runtime import OnnxClassifier

SETTINGS = Settings(
    workers=1,
    batch=4,
    budget=24,
    max_bytes=4000,
    max_pixels=64 * 64,
    upload_seconds=0.5,
    decode_seconds=20,
    answer_seconds=20,
)
PNG = [(b"content-type", b"image/png")]


class Workers:
    """Answers that say which pictures came together; waits for `go`."""

    def __init__(self):
        self.batches = []
        self.go = asyncio.Event()
        self.go.set()
        self.error = None

    async def classify(self, pixels):
        self.batches.append(len(pixels))
        await self.go.wait()
        if self.error is not None:
            raise self.error
        return [self.answer(row) for row in pixels]

    def answer(self, row):
        red = int(row[0, 0, 0])
        if red == 255:
            return InputError("expected a finite drift and logits")
        top = [(f"red {red}", 0.75), ("other", 0.25)]
        return Answer(top=top, drift=red / 100, countered=red < 10, changed=red < 5)

    async def running(self):
        return 0 if self.error else 1


def picture(red, size=(32, 32)):
    data = io.BytesIO()
    Image.new("RGB", size, (red, 0, 0)).save(data, "PNG")
    return data.getvalue()


async def call(app, path="/classify", *, body=(), headers=PNG, method="POST", wait=0.0):
    """Status, headers and body; the request's body comes in pieces, `wait` seconds apart."""
    pieces = [body] if isinstance(body, bytes) else list(body)
    read, sent = [0], []

    async def receive():
        index = read[0]
        read[0] += 1
        await asyncio.sleep(wait)
        if index >= len(pieces):
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": pieces[index], "more_body": index + 1 < len(pieces)}

    async def send(event):
        sent.append(event)

    scope = {"type": "http", "method": method, "path": path, "headers": headers, "query_string": b""}
    await app(scope, receive, send)
    told = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    text = b"".join(event.get("body", b"") for event in sent[1:])
    return sent[0]["status"], told, text.decode(), read[0]


@pytest.fixture
def metadata(artifact):
    found = OnnxClassifier(artifact("lab.onnx")).metadata
    return dataclasses.replace(found, preprocess=dataclasses.replace(found.preprocess, size=(32, 32)))


@pytest.fixture
def run(metadata):
    """A function that runs scenario(app, workers, gateway) over a new gateway."""

    def start(scenario, **settings):
        async def inside():
            workers = Workers()
            gateway = Gateway(workers, metadata, dataclasses.replace(SETTINGS, **settings))
            return await scenario(gateway.app(), workers)

        return asyncio.run(inside())

    return start


async def value(app, name):
    _, _, text, _ = await call(app, "/metrics", method="GET", body=b"")
    [found] = re.findall(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    return float(found)


def test_an_answer_says_what_it_is_and_is_not(run, metadata):
    async def scenario(app, _):
        status, _, text, _ = await call(app, body=picture(7))
        assert status == 200
        import json

        assert json.loads(text) == {
            "top": [{"label": "red 7", "probability": 0.75}, {"label": "other", "probability": 0.25}],
            "drift": 0.07,
            "countered": True,
            "changed": False,
            "calibrated": True,
            "limits": metadata.limits,
        }

    run(scenario)


def test_over_budget_is_shed_and_what_was_admitted_is_answered(run):
    async def scenario(app, workers):
        await asyncio.gather(*(call(app, body=picture(red)) for red in range(2)))  # starts the decoders
        workers.batches.clear()
        workers.go.clear()
        tasks = [asyncio.ensure_future(call(app, body=picture(red))) for red in range(7)]
        async with asyncio.timeout(20):
            while sum(task.done() for task in tasks) < 3:
                await asyncio.sleep(0.01)
        done = [task for task in tasks if task.done()]
        waiting = [task for task in tasks if not task.done()]
        assert len(waiting) == 4  # 24 passes at 6 each
        await asyncio.sleep(0.3)  # until they are decoded
        for task in done:
            status, headers, text, _ = task.result()
            assert status == 503
            assert int(headers["retry-after"]) >= 1
            assert "label" not in text
        assert await value(app, "clipfast_outstanding_passes") == 24
        status, _, _, read = await call(app, body=picture(1))
        assert (status, read) == (503, 0)  # not even read
        workers.go.set()
        assert {task.result()[0] for task in (await asyncio.wait(waiting))[0]} == {200}
        assert await value(app, "clipfast_shed_total") == 4
        assert await value(app, 'clipfast_requests_total{status="503"}') == 4
        assert await value(app, "clipfast_outstanding_passes") == 0
        assert max(workers.batches) > 1
        assert (await call(app, body=picture(1)))[0] == 200

    run(scenario)


def test_no_usable_drift_is_an_error_and_no_answer(run):
    async def scenario(app, workers):
        both = await asyncio.gather(*(call(app, body=picture(red)) for red in (255, 7)))
        assert [status for status, *_ in both] == [500, 200]
        assert "no answer" in both[0][2]
        assert "top" not in both[0][2]
        assert await value(app, "clipfast_images_total") == 1
        workers.error = Refusal(503, "no worker", {"Retry-After": "5"})
        status, headers, text, _ = await call(app, body=picture(7))
        assert (status, headers["retry-after"], "top" in text) == (503, "5", False)
        assert await value(app, "clipfast_outstanding_passes") == 0

    run(scenario)


def test_a_late_batch_ends_its_requests_and_holds_its_worker(run):
    async def scenario(app, workers):
        workers.go.clear()
        status, headers, text, _ = await call(app, body=picture(7))
        assert (status, headers["retry-after"], "no worker gave an answer" in text) == (503, "5", True)
        assert await value(app, "clipfast_outstanding_passes") == 0
        waiting = asyncio.ensure_future(call(app, body=picture(8)))
        await asyncio.sleep(0.1)
        assert workers.batches == [1]  # it is at work on the first yet
        workers.go.set()
        assert (await waiting)[0] == 200
        assert workers.batches == [1, 1]
        assert await value(app, 'clipfast_requests_total{status="503"}') == 1

    run(scenario, answer_seconds=0.3)


def test_an_error_of_the_classifier_does_not_show_its_file(run, caplog):
    async def scenario(app, workers):
        workers.answer = lambda _: ArtifactError("/secret/lab.onnx: running it failed")
        status, _, text, _ = await call(app, body=picture(7))
        assert status == 500
        assert "the classifier failed" in text
        assert "secret" not in text

    run(scenario)
    assert "/secret/lab.onnx: running it failed" in caplog.text


def test_bodies_together_have_a_limit(run, monkeypatch):
    monkeypatch.setattr(gateway, "_BODIES", 10_000)

    async def scenario(app, _):
        slow = [asyncio.ensure_future(call(app, body=[b"a" * 3000, b"a"], wait=0.2)) for _ in range(4)]
        done = [await one for one in slow]
        assert sorted(status for status, *_ in done) == [422, 422, 422, 503]
        (shed,) = [headers for status, headers, *_ in done if status == 503]
        assert shed["retry-after"] == "5"
        assert (await call(app, body=picture(7)))[0] == 200  # they are counted no longer

    run(scenario, upload_seconds=5)


def test_the_classifier_itself_raises_where_drift_is_not_finite(artifact):
    classifier = OnnxClassifier(artifact("lab.onnx"))
    pixels = np.random.default_rng(0).integers(0, 256, (3, 3, 96, 96), np.uint8)
    good = classifier._session._run

    def broken(inputs, outputs):
        found = {name: np.array(output) for name, output in good(inputs, outputs).items()}
        found["drift"][inputs["pixels"][:, 0, 0, 0] == np.float32(pixels[1, 0, 0, 0] / 255)] = np.nan
        return found

    classifier._session._run = broken
    first, second, third = answers(classifier, pixels)
    assert isinstance(first, Answer)
    assert isinstance(third, Answer)
    assert isinstance(second, InputError)
    assert "finite drift" in str(second)


FORM = [(b"content-type", b"multipart/form-data; boundary=x")]


def form(*files):
    parts = [
        b'--x\r\nContent-Disposition: form-data; name="f%d"; filename="a"\r\n\r\n%s\r\n' % (index, data)
        for index, data in enumerate(files)
    ]
    return b"".join(parts) + b"--x--\r\n"


@pytest.mark.parametrize(
    ("request_", "status", "reason"),
    [
        ({"body": b""}, 400, "got zero bytes"),
        ({"body": form(b""), "headers": FORM}, 400, "got zero bytes"),
        ({"body": b"no form", "headers": FORM}, 400, "broken form"),
        ({"body": form(), "headers": FORM}, 400, "expected one file in the form, got 0"),
        ({"body": form(b"a", b"b"), "headers": FORM}, 400, "broken form: Too many files"),
        ({"body": b"a", "headers": [(b"content-type", b"multipart/form-data")]}, 400, "boundary"),
        ({"body": b"a", "headers": [(b"content-type", b"text/plain")]}, 415, "got text/plain"),
        ({"body": b"a", "headers": []}, 415, "got none"),
        (
            {"body": b"a", "headers": [*PNG, (b"content-length", b"4001")]},
            413,
            "at most 4000 bytes, got 4001",
        ),
        ({"body": [b"a" * 1000] * 9}, 413, "at most 4000 bytes, got more"),
        ({"body": form(b"a" * 4000), "headers": FORM}, 413, "at most 4000 bytes, got more"),
        ({"body": [b"a"] * 9, "wait": 0.1}, 408, "within 0.5 seconds"),
        ({"body": []}, 400, "ended early"),
        ({"body": b"no picture"}, 422, "not an image"),
        ({"body": picture(1)[:60]}, 422, "broken or truncated"),
        ({"body": picture(1, (65, 64))}, 422, "at most 4096 pixels, got more: a decompression bomb"),
        ({"body": picture(1, (1, 1000))}, 422, "too long and narrow"),
    ],
)
def test_bad_requests_are_told_why(run, request_, status, reason):
    async def scenario(app, workers):
        got, _, text, read = await call(app, **request_)
        assert (got, reason in text) == (status, True), text
        assert read <= 6
        assert not workers.batches
        assert await value(app, f'clipfast_requests_total{{status="{status}"}}') == 1
        assert await value(app, "clipfast_outstanding_passes") == 0

    run(scenario)


def test_a_form_with_a_picture_is_answered(run):
    async def scenario(app, _):
        status, _, text, _ = await call(app, body=form(picture(7)), headers=FORM)
        assert (status, "red 7" in text) == (200, True)

    run(scenario)


def test_metrics_tell_of_traffic_and_say_what_they_are_not(run):
    async def scenario(app, workers):
        for red in (1, 7, 30, 200):
            await call(app, body=picture(red))
        counts = {
            name: await value(app, f"clipfast_{name}_total") for name in ("images", "countered", "changed")
        }
        assert counts == {"images": 4, "countered": 2, "changed": 1}
        assert await value(app, "clipfast_drift_count") == 4
        assert await value(app, 'clipfast_drift_bucket{le="0.01"}') == 1
        assert await value(app, 'clipfast_drift_bucket{le="1.0"}') == 3
        assert await value(app, "clipfast_batch_size_sum") == 4
        assert await value(app, "clipfast_budget_passes") == 24
        _, headers, text, _ = await call(app, "/metrics", method="GET", body=b"")
        assert headers["content-type"].startswith("text/plain; version=")
        for name in ("countered", "changed", "drift"):
            [said] = re.findall(rf"^# HELP clipfast_{name}\S* (.*)", text, re.MULTILINE)
            assert "indicator of shifted traffic, not proof of an attack" in said
        assert (await call(app, "/readyz", method="GET"))[0] == 200
        workers.error = RuntimeError()
        assert (await call(app, "/readyz", method="GET"))[0] == 503
        assert (await call(app, "/healthz", method="GET"))[0] == 200

    run(scenario)
