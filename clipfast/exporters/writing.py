"""The steps that every export shares: check the options, write the file, run it, move it into place."""

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

# The batch size of examples for a dynamic batch. It must equal no other dimension, or tracing may confuse
# the two.
EXAMPLE_BATCH = 5

OPSETS = range(20, 24)  # Gelu is an operator of ONNX since 20

_DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16}

Progress = Callable[[str], object]  # called with a message at each step


class Writer(Protocol):
    """Writes a graph as a file in one of the formats of `clipfast.artifacts.formats`."""

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
        """Writes the graph.

        Args:
            graph: The module to trace, in eval mode.
            examples: The graph's inputs, in order. A dynamic batch must have a size that equals no other
                dimension.
            metadata: The text to store under `clipfast.artifacts.fields.KEY`.
            path: The file to write.
            inputs: The inputs that the file must have, in order.
            outputs: The outputs that the file must have, in order.
            opset: The opset of ONNX.
        """
        ...


def check_options(path: Path, format: Format, precision: str, opset: int) -> None:
    """Checks the options that all exports share.

    Args:
        path: The file to write.
        format: Its format.
        precision: The number format of the operands of large matrix products.
        opset: The opset of ONNX, whatever the format.

    Raises:
        InputError: If no export has this precision or opset, "int8" included; the path does not end in
            the format's suffix; or no file can be written there.
    """
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
    """Returns the licence that a file states for its weights if the caller names none.

    Args:
        model_name: The model's name, or None if it has none.
    """
    return "Apache-2.0" if model_name in BUNDLED else "that of the model's weights"


def versions() -> dict[str, str]:
    """Returns the versions of clipfast, torch and open_clip_torch, by package name."""
    return {
        "clipfast": __version__,
        "torch": torch.__version__,
        "open_clip_torch": distributions.version("open_clip_torch"),
    }


def traceable(tower: ImageTower, precision: Precision) -> Encoder:
    """Returns an image tower in a form that can be traced.

    Args:
        tower: The image tower.
        precision: The number format of the operands of large matrix products. "fp16" needs a ViT.

    Raises:
        InputError: If the tower has no form that can be traced, or the precision does not apply to it.
    """
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
    """Writes a graph as a file, compares the file with the reference, and moves it to `path`.

    The file is moved once it agrees with the reference in every installed runtime of its format. Nothing
    is written to `path` if this fails, and an older file there stays as it was.

    Args:
        graph: The module to trace, in eval mode.
        examples: The graph's inputs, in order. A dynamic batch must have a size that equals no other
            dimension.
        metadata: The text that the file stores about itself.
        path: The file to write.
        format: Its format.
        ports: The inputs and the outputs that the file must have.
        opset: The opset of ONNX.
        verified: Compares a loaded file with the reference; None makes no comparison.
        progress: Called with a message at each step.

    Returns:
        The comparison by runtime; empty if none was made.

    Raises:
        VerificationError: If the file disagrees with the reference in a runtime.
        ArtifactError: If a runtime cannot load or run the file.
        ModuleNotFoundError: If a package that the format's writer needs is not installed. The message
            names the extra.
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
        # The file itself is moved last, so that the weights beside it are there as soon as it is.
        parts = sorted(Path(folder).iterdir(), key=lambda file: file == written)
        for file in parts:
            move_into_place(file, path.parent / file.name)
        data = path.with_name(f"{path.name}.data")
        if data.name not in {file.name for file in parts}:
            data.unlink(missing_ok=True)  # weights of an older export
    return found
