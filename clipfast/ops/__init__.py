"""The fused operators: what happens to a batch between two passes of its encoder.

Each has a naive form in plain PyTorch, a Triton form and a C++ form, which agree. `implementation` names
one, or is "auto": the form that CLIPFAST_IMPL names, else the fastest for the device.

Tensors are contiguous and on one device. The Triton and C++ forms take float32 (embeddings and gradients
float16 and bfloat16 too) and have no gradient. For float64, and where autograd is recording, "auto" is
the naive form, unless CLIPFAST_IMPL names another. The naive form of float64 tensors gives float64 where
float32 is said below.

Each operator raises InputError for tensors that do not fit, and if a form that is named is not available.
`split_linear`, for the encoders' products, has a C++ form alone.
"""

from .ascend import ascend
from .cotangent import cotangent
from .dispatch import Implementation, Implementations, implementations
from .drift_gate import drift_gate
from .perturb import perturb
from .split_linear import split_linear, to_blocks
from .zero_shot_head import zero_shot_head

__all__ = [
    "Implementation",
    "Implementations",
    "ascend",
    "cotangent",
    "drift_gate",
    "implementations",
    "perturb",
    "split_linear",
    "to_blocks",
    "zero_shot_head",
]
