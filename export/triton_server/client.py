"""Classifies image files by a model on NVIDIA's inference server, as `clipfast classify` does here.

    python export/triton_server/client.py photos --url localhost:8001

Needs tritonclient and clipfast without its extras: no torch, no ONNX Runtime, and no exported file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from served import ServedClassifier, ServedFiles

from clipfast.cli import main
from clipfast.cli.classify import FileClassifier, ReadHere, classify_files
from clipfast.errors import InputError

app = typer.Typer(add_completion=False, pretty_exceptions_show_locals=False)


@app.command()
def _command(
    images: Annotated[
        list[Path], typer.Argument(help="Image files, or folders of them.", show_default=False)
    ],
    url: Annotated[str, typer.Option(help="host:port of the server's gRPC.")] = "localhost:8001",
    model: Annotated[str, typer.Option(help="Its name on the server.")] = "clipfast",
    version: Annotated[
        int | None, typer.Option(help="A version that the server serves. [default: the newest]")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1)] = 8,
    timeout: Annotated[float, typer.Option(help="Seconds that a request may take.")] = 30.0,
    topk: Annotated[int, typer.Option(min=1, help="How many classes to list for each image.")] = 1,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a line instead of a table.")
    ] = False,
    send_files: Annotated[
        bool, typer.Option("--send-files", help="Let the server decode them, by the newest version.")
    ] = False,
) -> None:
    """Classify image files, defended. Exit code 1 if a file could not be read; the rest go on."""
    if send_files and version is not None:
        raise InputError(f"--send-files asks the newest version, got --version {version} too")

    def make() -> FileClassifier:
        if send_files:
            return ServedFiles(url, model, timeout=timeout)
        return ReadHere(ServedClassifier(url, model, version=version, timeout=timeout))

    classify_files(images, make, batch_size=batch_size, topk=topk, as_json=as_json)


if __name__ == "__main__":
    main(app)
