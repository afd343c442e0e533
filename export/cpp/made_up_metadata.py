"""What an artifact might say of itself, for tests that change a part of it."""

from hand_made import make_metadata

from clipfast.config import CounterattackConfig
from clipfast.preprocess import Preprocess

METADATA = make_metadata(
    config=CounterattackConfig(), calibrated=False, calibration=None, preprocess=Preprocess(size=(96, 96))
)
