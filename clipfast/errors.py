"""What clipfast raises and warns with."""

__all__ = ["GradientError", "InputError", "UncalibratedWarning", "names_extra"]

_NEEDED_BY_TORCH_EXTRA = ("torch", "torchvision", "open_clip", "safetensors")


class InputError(ValueError):
    """An input is not what was expected; the message names what was expected and what came."""


class GradientError(RuntimeError):
    """Pixels that require grad were given to a defended classifier, which is not differentiable."""


class UncalibratedWarning(UserWarning):
    """The drift threshold was not calibrated for the model that it is used with."""


def names_extra(what: str, error: ModuleNotFoundError) -> ImportError:
    """The error to raise instead where a package of an extra is missing: it names the extra."""
    if error.name not in _NEEDED_BY_TORCH_EXTRA:
        return error
    return ImportError(
        f"{what} needs {error.name}, which is not installed: pip install 'clipfast[torch]'", name=error.name
    )
