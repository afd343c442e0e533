"""Odd picture files beside open_clip's own transform: `python benchmarks/odd_pictures.py FOLDER OUT.json`.

FOLDER: of files of any kind, such as a decoder's test suite. Each is read by `clipfast.preprocess` and by
Pillow and open_clip's evaluation transform, and the pixels are compared. What is expected to differ is
declared below, with its reason; any other difference is printed, and the exit code is then 1.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import open_clip
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile
from torchvision.transforms import Compose

from clipfast import InputError
from clipfast.files import write_text
from clipfast.preprocess import Preprocess

SIZE = 64
OURS = Preprocess(size=(SIZE, SIZE))
THEIRS = Compose(open_clip.image_transform(SIZE, is_train=False).transforms[:-1])  # without normalisation


def declared(image: Image.Image) -> str | None:
    """Why a picture's pixels differ from open_clip's by design, if they do."""
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        return "turned upright"
    if image.has_transparency_data:
        return "transparent parts show white"
    if image.mode == "P":
        return "a palette's colours are resized, not its indices"
    if image.mode == "F" or image.mode.startswith("I"):
        return "deep greys are scaled, not clipped"
    if image.mode in ("LAB", "1", "CMYK", "YCbCr", "LA", "La"):
        return f"converted to RGB before it is resized ({image.mode})"
    return None


def ours(file: Path) -> NDArray[np.uint8] | str:
    """Pixels [3, H, W], or the reason why there are none."""
    try:
        return OURS(file)
    except InputError as error:
        return str(error).removeprefix(f"{file}: ")


def theirs(file: Path) -> tuple[NDArray[np.uint8] | str, str | None]:
    """The same of open_clip, and why it differs by design."""
    try:
        with Image.open(file) as image:
            image.load()
            tensor = THEIRS(image)
            return np.rint(tensor.numpy() * 255).astype(np.uint8), declared(image)
    except Exception as error:
        return f"{type(error).__name__}: {error}", None


def outcome(file: Path) -> str:
    """What became of a file, in the same words for the same."""
    mine = ours(file)
    other, reason = theirs(file)
    if isinstance(mine, str) and isinstance(other, str):
        return "neither reads it"
    if isinstance(mine, str):
        return f"clipfast alone refuses it: {mine.partition(':')[0]:.60}"
    if isinstance(other, str):
        return "open_clip alone fails"
    if np.array_equal(mine, other):
        return "equal"
    return f"declared: {reason}" if reason else "DIFFERS"


def main(folder: Path, out: Path) -> int:
    """Prints and writes the counts; 1 where something differs that is not declared."""
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    counts: Counter[str] = Counter()
    slowest, which = 0.0, ""
    for file in files:
        start = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            what = outcome(file)
        if (seconds := time.perf_counter() - start) > slowest:
            slowest, which = seconds, file.name
        counts[what] += 1
        if what == "DIFFERS":
            print(f"{file.relative_to(folder)} differs", flush=True)
    result = {
        "files": len(files),
        "outcomes": dict(counts.most_common()),
        "slowest": [which, round(slowest, 2)],
    }
    print(json.dumps(result, indent=1))
    write_text(out, json.dumps(result, indent=1) + "\n")
    return int(counts["DIFFERS"] > 0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
