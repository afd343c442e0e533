"""What an artifact might say of itself, for tests that change a part of it."""

from clipfast.config import CounterattackConfig
from clipfast.exporters.metadata import Metadata
from clipfast.preprocess import Preprocess

METADATA = Metadata(
    profile="lab",
    static=False,
    batch=None,
    pixels="float32",
    model_name=None,
    pretrained=None,
    weights_sha256="0" * 64,
    drift_weights_sha256=None,
    classnames=("a", "b"),
    templates=("{}",),
    config=CounterattackConfig(),
    calibrated=False,
    calibration=None,
    preprocess=Preprocess(size=(96, 96)),
    precision="fp32",
    versions={"clipfast": "0", "torch": "0"},
    license="none",
)
