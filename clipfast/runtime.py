"""Exported classifiers without torch: OnnxClassifier over ONNX Runtime, and `load_artifact` for every format.

Needs numpy, Pillow and onnxruntime.
"""

from .artifacts.base import ArtifactClassifier
from .artifacts.formats import load_artifact
from .artifacts.onnx_runtime import OnnxClassifier

__all__ = ["ArtifactClassifier", "OnnxClassifier", "load_artifact"]
