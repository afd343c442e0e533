"""The fused operators, registered with torch under the namespace `clipfast`."""

from .dispatch import Implementation, Implementations, implementations
from .operators import ascend, cotangent, drift_gate, perturb, zero_shot_head

__all__ = [
    "Implementation",
    "Implementations",
    "ascend",
    "cotangent",
    "drift_gate",
    "implementations",
    "perturb",
    "zero_shot_head",
]
