"""Options that both commands of this folder have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["Artifact", "NoiseKey", "Sha256", "Threads", "WorkerCount"]

Artifact = Annotated[Path, typer.Option(help="The exported classifier, .onnx.", show_default=False)]
Sha256 = Annotated[
    str | None,
    typer.Option(help="Digest that the artifact must have. Default: the one that it has at the start."),
]
WorkerCount = Annotated[int, typer.Option(min=1, help="Processes that classify.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Of a worker. Default: cores / workers.")]
NoiseKey = Annotated[
    Path | None,
    typer.Option(help="A file of 16 to 64 secret bytes: noise by content, for an artifact of profile lab."),
]
