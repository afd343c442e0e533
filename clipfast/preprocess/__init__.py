"""Image files, bytes, PIL images and arrays -> pixels at a model's size. Needs only numpy and Pillow.

Resize and crop equal open_clip's own evaluation transform to the bit, without its normalisation, for a
picture that is turned upright, flattened onto white and converted to RGB *before* it is resized.
(open_clip converts after it resizes; a palette picture would then be resized by Pillow's nearest
neighbour.)
"""

from .finding import image_files, look_for_images
from .opening import FORMATS, MAX_IMAGE_PIXELS, ImageSource, available_formats, open_image
from .resizing import Preprocess

__all__ = [
    "FORMATS",
    "MAX_IMAGE_PIXELS",
    "ImageSource",
    "Preprocess",
    "available_formats",
    "image_files",
    "look_for_images",
    "open_image",
]
