"""The errors and warnings of clipfast, and the texts that several of them share."""

__all__ = [
    "ArtifactError",
    "GradientError",
    "InputError",
    "OutOfMemoryError",
    "UncalibratedWarning",
    "VerificationError",
    "names_extra",
    "out_of_range",
    "uncalibrated",
]

_EXTRAS = {
    "torch": "torch",
    "torchvision": "torch",
    "open_clip": "torch",
    "huggingface_hub": "torch",
    "safetensors": "torch",
    "onnx": "torch",
    "onnx_ir": "torch",
    "onnxscript": "torch",
    "onnxruntime": "runtime",
    "openvino": "openvino",
    "art": "art",
    "scipy": "eval",
    "h5py": "eval",
    "foolbox": "foolbox",
    "matplotlib": "bench",
}


class InputError(ValueError):
    """An input is not what was expected; the message names what was expected and what was given."""


class ArtifactError(ValueError):
    """An exported file is not what was expected; the message names the file and the reason."""


class VerificationError(ArtifactError):
    """An exported file does not answer as the reference does; the message names file and checks."""


class GradientError(RuntimeError):
    """Pixels that require a gradient were given to a defended classifier, which is not differentiable."""


class OutOfMemoryError(RuntimeError):
    """A batch did not fit in memory, not even in chunks of one image."""


class UncalibratedWarning(UserWarning):
    """The gate's threshold was not calibrated for the model that it is used with."""


def names_extra(what: str, error: ModuleNotFoundError) -> ModuleNotFoundError:
    """Returns the error to raise for a missing package: one that names the extra to install.

    Args:
        what: What needs the package, for the message.
        error: The import's error. It is returned as it is if its package belongs to no extra.
    """
    if error.name not in _EXTRAS:
        return error
    extra = f"pip install 'clipfast[{_EXTRAS[error.name]}]'"
    return ModuleNotFoundError(f"{what} needs {error.name}, which is not installed: {extra}", name=error.name)


def out_of_range(low: float, high: float) -> str:
    """Returns the message for pixels outside of [0, 1], with a guess at what they are.

    Args:
        low: The least value.
        high: The greatest value.
    """
    if low > -0.1 and high < 1.1:
        guess = "an image that resizing or arithmetic took slightly out of range: clamp it"
    elif low >= 0 and high <= 255:
        guess = "a float image in [0, 255]: divide by 255, or pass uint8"
    elif low < 0 and max(-low, high) < 4:
        guess = "an image already normalised by mean and std: clipfast does that itself, pass plain pixels"
    else:
        guess = "no image that clipfast knows"
    return f"expected pixels in [0, 1], got values from {low:.9g} to {high:.9g}; this looks like {guess}"


def uncalibrated(tau_threshold: float) -> str:
    """Returns the text of `UncalibratedWarning` for a threshold."""
    return (
        f"tau_threshold = {tau_threshold:g} was not calibrated for this model; "
        "thresholds do not carry over between models. Results say calibrated=False. "
        "`clipfast calibrate` sets one on your pictures."
    )
