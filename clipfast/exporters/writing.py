"""What every export does: its options are checked, and its file is written, run and moved into place."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from importlib import metadata as distributions
from pathlib import Path
from typing import Protocol, get_args

import torch
from torch import Tensor, nn

from .. import __version__
from ..artifacts.fields import Precision
from ..artifacts.formats import Format
from ..artifacts.ports import Port, Ports
from ..artifacts.runtimes import RuntimeName
from ..artifacts.sessions.session import Session
from ..encoders import Encoder, make_encoder
from ..errors import InputError, VerificationError
from ..files import check_place, move_into_place
from ..models.bundled import BUNDLED
from ..models.tower import ImageTower
from ..verification.loading import load_on_device
from ..verification.outcome import Verification

__all__ = [
    "EXAMPLE_BATCH",
    "OPSETS",
    "Progress",
    "Writer",
    "check_options",
    "license_of",
    "traceable",
    "versions",
    "write_verified",
]

# Where the batch is dynamic the example's must equal no other dimension, or tracing may take one for it.
EXAMPLE_BATCH = 5

OPSETS = range(20, 24)  # Gelu is an operator of ONNX since 20

_DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16}

Progress = Callable[[str], object]


class Writer(Protocol):
    """Writes a graph in a format of `clipfast.artifacts.formats`."""

    def __call__(
        self,
        graph: nn.Module,
        examples: tuple[Tensor, ...],
        metadata: str,
        path: Path,
        *,
        inputs: tuple[Port, ...],
        outputs: tuple[Port, ...],
        opset: int,
    ) -> None:
        """Writes at `path`. examples: the graph's inputs, of a batch that equals no other dimension where it
        is dynamic. metadata: the text to keep under `clipfast.artifacts.fields.KEY`. opset: of ONNX."""
        ...


def check_options(path: Path, format: Format, precision: str, opset: int) -> None:
    """Raises InputError for a precision or an opset that no export has, and for a path of another format."""
    if precision == "int8":
        raise InputError(
            "precision 'int8' is refused, as it has not been shown to keep the defence: "
            "expected 'fp32' or 'fp16'"
        )
    if precision not in get_args(Precision):
        raise InputError(f"precision must be one of {get_args(Precision)}, got {precision!r}")
    if opset not in OPSETS:
        raise InputError(f"opset must be one of {list(OPSETS)}, got {opset!r}")
    if not path.name.endswith(format.suffix):
        raise InputError(f"expected a path that ends in {format.suffix} for {format.name}, got {path}")
    check_place(path)


def license_of(model_name: str | None) -> str:
    """What a file says of its weights' licence where nobody named one."""
    return "Apache-2.0" if model_name in BUNDLED else "that of the model's weights"


def versions() -> dict[str, str]:
    """Of what a file is exported with."""
    return {
        "clipfast": __version__,
        "torch": torch.__version__,
        "open_clip_torch": distributions.version("open_clip_torch"),
    }


def traceable(tower: ImageTower, precision: Precision) -> Encoder:
    """A tower's form that is traced. Raises InputError for one that has none."""
    encoder = make_encoder(tower, dtype=_DTYPES[precision], pack=False)
    if encoder.form == "autograd":
        kind = type(tower.model.visual).__name__
        raise InputError(f"expected an image tower that can be traced, got {kind}: the log says why not")
    return encoder


def write_verified(
    graph: nn.Module,
    examples: tuple[Tensor, ...],
    metadata: str,
    path: Path,
    format: Format,
    *,
    ports: tuple[Ports, Ports],
    opset: int,
    verified: Callable[[Session, Progress], Verification] | None,
    progress: Progress | None,
) -> dict[RuntimeName, Verification]:
    """Writes a graph, and moves it to `path` once it agrees with the reference in each installed runtime.

    verified: compares a loaded file with the reference; None for no comparison. progress: called with a
    message at each step. Nothing is left at `path` when it fails. Raises VerificationError for a file that
    disagrees.
    """
    tell = progress or (lambda _: None)
    inputs, outputs = ports
    writer: Writer = format.writes()
    found: dict[RuntimeName, Verification] = {}
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as folder:
        written = Path(folder) / path.name
        tell(f"tracing and writing as {format.name}")
        writer(graph, examples, metadata, written, inputs=inputs, outputs=outputs, opset=opset)
        for runtime in format.installed_runtimes():
            if verified is None:
                break
            session = load_on_device(written, examples[0].device, runtime=runtime, trust=True)
            found[runtime] = verified(session, lambda message, runtime=runtime: tell(f"{runtime}: {message}"))
            if not found[runtime].agrees:
                raise VerificationError(
                    f"{path} in {runtime} disagrees with the reference: {found[runtime].failures}"
                )
        # The file itself last: whoever finds it finds all that it needs.
        parts = sorted(Path(folder).iterdir(), key=lambda file: file == written)
        for file in parts:
            move_into_place(file, path.parent / file.name)
        data = path.with_name(f"{path.name}.data")
        if data.name not in {file.name for file in parts}:
            data.unlink(missing_ok=True)  # an older export's
    return found
