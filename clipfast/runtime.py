"""Exported files without torch: over ONNX Runtime, over OpenVINO, and by file name in every format.

Needs numpy, Pillow, and onnxruntime or openvino.
"""

from .artifacts.classifier import ArtifactClassifier
from .artifacts.encoder import ImageEncoder
from .artifacts.loading import load_artifact, load_encoder
from .artifacts.onnx_classifiers import OnnxClassifier, OpenVinoClassifier
from .artifacts.parts import sha256_of

__all__ = [
    "ArtifactClassifier",
    "ImageEncoder",
    "OnnxClassifier",
    "OpenVinoClassifier",
    "load_artifact",
    "load_encoder",
    "sha256_of",
]
