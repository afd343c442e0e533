"""`python export/ray/serve.py --artifact FILE`: a defended classifier over HTTP, with Ray Serve."""

from __future__ import annotations

import asyncio
import resource
import signal
from pathlib import Path
from typing import Annotated

import typer
from admission import Admission, cost
from answers import load
from cluster import cluster, threads_of
from gateway import Gateway, Settings
from hypercorn.asyncio import serve as serve_http
from hypercorn.config import Config
from options import Artifact, NoiseKey, Sha256, Threads, WorkerCount
from ray import serve
from workers import NAME, Worker, Workers

from clipfast.cli import main
from clipfast.runtime import sha256_of

app = typer.Typer(add_completion=False, pretty_exceptions_show_locals=False)

# By default four full batches of countered pictures may wait for each worker.
_WAITING_BATCHES = 4

# A request's line and headers: their bytes, and the seconds until they have come.
_HEADER_BYTES, _HEADER_SECONDS = 2**14, 5


def deployed(
    artifact: Path, *, sha256: str, workers: int, threads: int, noise_key: Path | None, topk: int
) -> Workers:
    """So many workers, once they have loaded the artifact; Ray has to run.

    sha256: of the artifact, for every worker that there will be. threads: of a worker. topk: labels in an
    answer.
    """
    worker = serve.deployment(
        name=NAME,
        num_replicas=workers,
        max_ongoing_requests=1,
        ray_actor_options={"num_cpus": 1},
        health_check_period_s=1,
    )(Worker)
    serve.start(http_options={"location": "NoServer"}, logging_config={"enable_access_log": False})
    return Workers(serve.run(worker.bind(artifact, sha256, threads, noise_key, topk), route_prefix=None))


async def listen(gateway: Gateway, address: str, drain_seconds: float) -> None:
    """Serves a gateway until the process is told to stop; requests in work are then answered first."""
    config = Config()
    config.bind = [address]
    config.h11_max_incomplete_size = _HEADER_BYTES
    config.keep_alive_timeout = _HEADER_SECONDS
    config.graceful_timeout = config.shutdown_timeout = drain_seconds
    config.errorlog = None
    config.include_server_header = False
    stop = asyncio.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    typer.echo(f"serving on http://{address}/classify")
    await serve_http(gateway.app(), config, shutdown_trigger=stop.wait)  # pyright: ignore[reportArgumentType]


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
    decode_seconds: Annotated[float, typer.Option(min=0, help="Until a picture is decoded.")] = 5.0,
    answer_seconds: Annotated[float, typer.Option(min=0, help="Until a batch has its answer.")] = 30.0,
    noise_key: NoiseKey = None,
) -> None:
    """Serves POST /classify, GET /healthz, /readyz and /metrics until it is told to stop."""
    sha256 = sha256 or sha256_of(artifact)
    # Says what is wrong before Ray starts.
    metadata = load(artifact, sha256=sha256, noise_key=noise_key).metadata
    budget = _WAITING_BATCHES * batch * workers * cost(metadata).countered if budget is None else budget
    Admission(budget, cost(metadata))  # says so too
    settings = Settings(
        workers=workers,
        batch=batch,
        budget=budget,
        max_bytes=max_bytes,
        max_pixels=max_pixels,
        upload_seconds=upload_seconds,
        decode_seconds=decode_seconds,
        answer_seconds=answer_seconds,
    )
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # a connection is a file
    with cluster(workers):
        try:
            asked = deployed(
                artifact.resolve(),
                sha256=sha256,
                workers=workers,
                threads=threads or threads_of(workers),
                noise_key=noise_key and noise_key.resolve(),
                topk=topk,
            )
            drain_seconds = upload_seconds + decode_seconds + answer_seconds

            async def endpoint() -> None:
                await listen(Gateway(asked, metadata, settings), f"{host}:{port}", drain_seconds)

            asyncio.run(endpoint())
        finally:
            serve.shutdown()


if __name__ == "__main__":
    main(app)
