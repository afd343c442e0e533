"""What clipfast raises and warns with."""

__all__ = ["GradientError", "InputError", "UncalibratedWarning"]


class InputError(ValueError):
    """An input is not what was expected; the message names what was expected and what came."""


class GradientError(RuntimeError):
    """Pixels that require grad were given to a defended classifier, which is not differentiable."""


class UncalibratedWarning(UserWarning):
    """The drift threshold was not calibrated for the model that it is used with."""
