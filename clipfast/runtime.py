"""Exported classifiers without torch: over ONNX Runtime, over OpenVINO, and `load_artifact` for every format.

Needs numpy, Pillow, and onnxruntime or openvino.
"""

from .artifacts.base import ArtifactClassifier
from .artifacts.formats import load_artifact
from .artifacts.onnx_runtime import OnnxClassifier
from .artifacts.openvino_runtime import OpenVinoClassifier

__all__ = ["ArtifactClassifier", "OnnxClassifier", "OpenVinoClassifier", "load_artifact"]
