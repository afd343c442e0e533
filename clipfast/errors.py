"""What clipfast raises and warns with."""

__all__ = [
    "GradientError",
    "InputError",
    "OutOfMemoryError",
    "UncalibratedWarning",
    "names_extra",
    "out_of_range",
]

_NEEDED_BY_TORCH_EXTRA = ("torch", "torchvision", "open_clip", "safetensors")


class InputError(ValueError):
    """An input is not what was expected; the message names what was expected and what came."""


class GradientError(RuntimeError):
    """Pixels that require grad were given to a defended classifier, which is not differentiable."""


class OutOfMemoryError(RuntimeError):
    """A batch did not fit in memory, at half a chunk either."""


class UncalibratedWarning(UserWarning):
    """The drift threshold was not calibrated for the model that it is used with."""


def names_extra(what: str, error: ModuleNotFoundError) -> ImportError:
    """The error to raise instead where a package of an extra is missing: it names the extra."""
    if error.name not in _NEEDED_BY_TORCH_EXTRA:
        return error
    return ImportError(
        f"{what} needs {error.name}, which is not installed: pip install 'clipfast[torch]'", name=error.name
    )


def out_of_range(low: float, high: float) -> str:
    """What to say of pixels that are not in [0, 1]: what they are, and what they look like."""
    if low > -0.1 and high < 1.1:
        guess = "an image that resizing or arithmetic took slightly out of range: clamp it"
    elif low >= 0 and high <= 255:
        guess = "a float image in [0, 255]: divide by 255, or pass uint8"
    elif low < 0 and max(-low, high) < 4:
        guess = "an image already normalised by mean and std: clipfast does that itself, pass plain pixels"
    else:
        guess = "no image that clipfast knows"
    return f"expected pixels in [0, 1], got values from {low:.9g} to {high:.9g}; this looks like {guess}"
