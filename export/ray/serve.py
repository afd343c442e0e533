"""`python export/ray/serve.py --artifact FILE`: a defended classifier over HTTP, with Ray Serve."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Annotated

import typer
from admission import Admission, cost
from answers import load
from cluster import cluster, threads_of
from gateway import Gateway, Settings
from options import Artifact, NoiseKey, Sha256, Threads, WorkerCount
from ray import serve
from starlette.applications import Starlette
from workers import NAME, Worker, Workers

from clipfast.artifacts.metadata import Metadata
from clipfast.cli import main
from clipfast.runtime import sha256_of

app = typer.Typer(add_completion=False, pretty_exceptions_show_locals=False)

# Requests that the gateway holds, and that wait for it: each may hold a body.
_CONNECTIONS = 256

# By default four full batches of countered pictures may wait for each worker.
_WAITING_BATCHES = 4


def application(
    artifact: Path,
    metadata: Metadata,
    settings: Settings,
    *,
    sha256: str,
    threads: int,
    noise_key: Path | None,
    topk: int,
    answer_seconds: float,
) -> serve.Application:
    """One gateway before `settings.workers` workers.

    sha256: of the artifact, for every worker that there will be. threads: of a worker. topk: labels in an
    answer. answer_seconds: until a batch has its answer.
    """
    worker = serve.deployment(
        name=NAME,
        num_replicas=settings.workers,
        max_ongoing_requests=1,
        ray_actor_options={"num_cpus": 1},
        health_check_period_s=1,
    )(Worker)

    def build() -> Starlette:
        return Gateway(Workers(serve.get_deployment_handle(NAME), answer_seconds), metadata, settings).app()

    gateway = serve.deployment(
        name="Gateway",
        max_ongoing_requests=_CONNECTIONS,
        max_queued_requests=_CONNECTIONS,
        health_check_period_s=1,
    )(serve.ingress(build)())
    return gateway.bind(worker.bind(artifact, sha256, threads, noise_key, topk))


@app.command()
def _command(
    artifact: Artifact,
    sha256: Sha256 = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    workers: WorkerCount = 1,
    threads: Threads = None,
    batch: Annotated[int, typer.Option(min=1, help="Pictures classified at once.")] = 8,
    budget: Annotated[
        int | None,
        typer.Option(help="Encoder passes that may wait. Default: 4 countered batches a worker."),
    ] = None,
    topk: Annotated[int, typer.Option(min=1, help="Labels in an answer.")] = 5,
    max_bytes: Annotated[int, typer.Option(min=1, help="Of a request's body.")] = 10 * 2**20,
    max_pixels: Annotated[int, typer.Option(min=1, help="Of a picture, decoded.")] = 2**24,
    upload_seconds: Annotated[float, typer.Option(min=0, help="Until a body has come.")] = 10.0,
    answer_seconds: Annotated[float, typer.Option(min=0, help="Until a batch has its answer.")] = 30.0,
    noise_key: NoiseKey = None,
) -> None:
    """Serves POST /classify, GET /healthz, /readyz and /metrics until it is told to stop."""
    sha256 = sha256 or sha256_of(artifact)
    metadata = load(
        artifact, sha256=sha256, noise_key=noise_key
    ).metadata  # says what is wrong before Ray starts
    budget = _WAITING_BATCHES * batch * workers * cost(metadata).countered if budget is None else budget
    Admission(budget, cost(metadata))  # says so too
    settings = Settings(
        workers=workers,
        batch=batch,
        budget=budget,
        max_bytes=max_bytes,
        max_pixels=max_pixels,
        upload_seconds=upload_seconds,
    )
    endpoint = application(
        artifact.resolve(),
        metadata,
        settings,
        sha256=sha256,
        threads=threads or threads_of(workers),
        noise_key=noise_key and noise_key.resolve(),
        topk=topk,
        answer_seconds=answer_seconds,
    )
    stop = threading.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: stop.set())
    with cluster(workers + 1):
        serve.start(http_options={"host": host, "port": port}, logging_config={"enable_access_log": False})
        try:
            serve.run(endpoint)
            typer.echo(f"serving on http://{host}:{port}/classify")
            stop.wait()
        finally:
            serve.shutdown()


if __name__ == "__main__":
    main(app)
