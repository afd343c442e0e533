"""The tensors of the server's Python backend as numpy's arrays, by DLPack.

The backend may be built for another major version of numpy, whose arrays it then misreads.
"""

from __future__ import annotations

import ctypes

import numpy as np
import triton_python_backend_utils as server

_USED = b"used_dltensor"  # what numpy knows as used: the backend renames the capsule otherwise


def from_tensor(tensor):
    """The array that a tensor holds."""
    return np.from_dlpack(tensor)


def to_tensor(name, array):
    """A tensor of a copy of an array."""
    capsule = array.copy().__dlpack__()
    tensor = server.Tensor.from_dlpack(name, capsule)
    ctypes.pythonapi.PyCapsule_SetName(ctypes.py_object(capsule), _USED)
    return tensor
