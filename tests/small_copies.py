"""Small copies of the named data sets in their true form on disk.

Each picture of the evaluated split is flat, in the colour of its label; those of other splits have the
colour of the label after it.
"""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision import datasets

CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
STL10 = ["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"]


@dataclass(frozen=True)
class Copy:
    """What reading a copy must give: class names and, in any order, labels."""

    classnames: tuple[str, ...]
    labels: list[int]


def colour(label: int) -> tuple[int, int, int]:
    return (40 + label * 67 % 200, 30 + label * 131 % 200, 20 + label * 29 % 200)


def flat(label: int, size: int = 40) -> np.ndarray:
    return np.full((size, size, 3), colour(label), np.uint8)


def save(path: Path, label: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(flat(label)).save(path, format="JPEG", quality=98, subsampling=0)


def save_cut_off(path: Path) -> None:
    """A picture of noise whose second half is missing: its header opens, its pixels do not decode."""
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(
        path, format="JPEG"
    )
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def text(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def trust(monkeypatch, owner: type, attribute: str, folder: Path) -> None:
    """Puts the checksums of a copy's files in place of the true ones; torchvision goes on to check them."""
    listed = [[name, _md5(folder / name)] for name, _ in getattr(owner, attribute)]
    monkeypatch.setattr(owner, attribute, listed)


def _md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def _pickled(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content, protocol=2))


def _rows(labels: list[int]) -> np.ndarray:
    """CIFAR's rows of 3072 bytes: all red ones first, then green, then blue."""
    return np.stack([flat(label, 32).transpose(2, 0, 1).ravel() for label in labels])


def cifar10(root: Path, monkeypatch) -> Copy:
    folder = root / "cifar-10-batches-py"
    labels = [3, 0, 9, 9]
    for name in (f"data_batch_{i}" for i in range(1, 6)):
        _pickled(
            folder / name, {"batch_label": name, "labels": [1, 2], "data": _rows([2, 3]), "filenames": []}
        )
    _pickled(
        folder / "test_batch",
        {"batch_label": "testing", "labels": labels, "data": _rows(labels), "filenames": ["x.png"] * 4},
    )
    meta = {"num_cases_per_batch": 4, "label_names": CIFAR10, "num_vis": 3072}
    _pickled(folder / "batches.meta", meta)
    for attribute in ("train_list", "test_list"):
        trust(monkeypatch, datasets.CIFAR10, attribute, folder)
    described = {**datasets.CIFAR10.meta, "md5": _md5(folder / "batches.meta")}
    monkeypatch.setattr(datasets.CIFAR10, "meta", described)
    return Copy(tuple(CIFAR10), labels)


def cifar100(root: Path, monkeypatch) -> Copy:
    folder = root / "cifar-100-python"
    labels = [1, 0, 1]
    _pickled(folder / "train", {"fine_labels": [0], "coarse_labels": [1], "data": _rows([1])})
    _pickled(folder / "test", {"fine_labels": labels, "coarse_labels": [0, 4, 1], "data": _rows(labels)})
    names = ["apple", "aquarium_fish", "lawn_mower"]
    _pickled(folder / "meta", {"fine_label_names": names, "coarse_label_names": ["fish"]})
    for attribute in ("train_list", "test_list"):
        trust(monkeypatch, datasets.CIFAR100, attribute, folder)
    monkeypatch.setattr(datasets.CIFAR100, "meta", {**datasets.CIFAR100.meta, "md5": _md5(folder / "meta")})
    return Copy(("apple", "aquarium fish", "lawn mower"), labels)


def stl10(root: Path, monkeypatch) -> Copy:
    folder = root / "stl10_binary"
    labels = [0, 5, 9]
    text(folder / "class_names.txt", *STL10)
    for split, colours in {"test": labels, "train": [2, 3], "unlabeled": [4]}.items():
        columns = np.stack([flat(label, 96).transpose(2, 1, 0) for label in colours])  # column by column
        (folder / f"{split}_X.bin").write_bytes(columns.tobytes())
    (folder / "test_y.bin").write_bytes(bytes(label + 1 for label in labels))
    (folder / "train_y.bin").write_bytes(bytes([2, 3]))
    for attribute in ("train_list", "test_list"):
        trust(monkeypatch, datasets.STL10, attribute, folder)
    return Copy(tuple(STL10), labels)


def imagenet(root: Path, _) -> Copy:
    synonyms = {
        "n01440764": ("tench", "Tinca tinca"),
        "n02012849": ("crane",),
        "n03126707": ("crane", "lifting device"),
    }
    torch.save((synonyms, ["n02012849", "n01440764"]), root / "meta.bin")
    for label, wnid in enumerate(synonyms):
        save(root / "val" / wnid / f"ILSVRC2012_val_0000000{label + 1}.JPEG", label)
        save(root / "train" / wnid / f"{wnid}_10.JPEG", label + 1)
    save(root / "val" / "n01440764" / "ILSVRC2012_val_00000004.JPEG", 0)
    return Copy(("tench", "crane", "crane, lifting device"), [0, 0, 1, 2])


def caltech101(root: Path, _) -> Copy:
    folder = root / "caltech101" / "101_ObjectCategories"
    save(folder / "BACKGROUND_Google" / "image_0001.jpg", 9)
    for label, name in enumerate(["Faces_easy", "Leopards", "accordion"]):
        save(folder / name / "image_0001.jpg", label)
    save(folder / "accordion" / "image_0002.jpg", 2)
    return Copy(("faces easy", "leopards", "accordion"), [0, 1, 2, 2])


def caltech256(root: Path, _) -> Copy:
    folder = root / "caltech256" / "256_ObjectCategories"
    for label, name in enumerate(["001.ak47", "002.american-flag", "003.elephant-101"]):
        save(folder / name / f"{label + 1:03d}_0001.jpg", label)
    save(folder / "001.ak47" / "001_0002.jpg", 0)
    (folder / "001.ak47" / "RENAME2").touch()
    return Copy(("ak47", "american flag", "elephant"), [0, 0, 1, 2])


def pets(root: Path, _) -> Copy:
    folder = root / "oxford-iiit-pet"
    text(folder / "annotations" / "test.txt", "Abyssinian_201 1 1 1", "american_bulldog_203 2 2 1")
    text(folder / "annotations" / "trainval.txt", "Abyssinian_100 1 1 1", "american_bulldog_100 2 2 1")
    for label, name in enumerate(["Abyssinian", "american_bulldog"]):
        save(folder / "images" / f"{name}_20{label * 2 + 1}.jpg", label)
        save(folder / "images" / f"{name}_100.jpg", label + 1)
    return Copy(("Abyssinian", "American Bulldog"), [0, 1])


def flowers(root: Path, monkeypatch) -> Copy:
    from scipy.io import savemat

    folder = root / "flowers-102"
    labels = [76, 59, 3, 0]  # of image_00001.jpg and on, from 0
    savemat_labels = np.array([label + 1 for label in labels], np.uint8)[None]
    for i, label in enumerate(labels[:2], 1):
        save(folder / "jpg" / f"image_{i:05d}.jpg", label)
    for i, label in enumerate(labels[2:], 3):
        save(folder / "jpg" / f"image_{i:05d}.jpg", label + 1)
    savemat(folder / "imagelabels.mat", {"labels": savemat_labels})
    splits = {"tstid": [[2, 1]], "trnid": [[3, 4]], "valid": [[4, 3]]}
    savemat(folder / "setid.mat", {key: np.array(ids, np.uint16) for key, ids in splits.items()})
    files = datasets.Flowers102._file_dict
    trusted = {key: (name, _md5(folder / name)) for key, (name, _) in files.items() if key != "image"}
    monkeypatch.setattr(datasets.Flowers102, "_file_dict", {**files, **trusted})
    names = [name.replace("dahlia?", "dahlia") for name in datasets.Flowers102.classes]
    return Copy(tuple(names), [76, 59])


def aircraft(root: Path, _) -> Copy:
    folder = root / "fgvc-aircraft-2013b" / "data"
    variants = ["737-700", "A300B4", "Cessna 172"]
    text(folder / "variants.txt", *variants)
    text(folder / "images_variant_test.txt", "1514522 737-700", "0747566 A300B4", "1008575 Cessna 172")
    for split in ("train", "val", "trainval"):
        text(folder / f"images_variant_{split}.txt", "1025794 737-700", "1340192 A300B4")
    for label, number in enumerate(["1514522", "0747566", "1008575"]):
        save(folder / "images" / f"{number}.jpg", label)
    for label, number in enumerate(["1025794", "1340192"]):
        save(folder / "images" / f"{number}.jpg", label + 1)
    return Copy(("Boeing 737-700", "A300B4", "Cessna 172"), [0, 1, 2])


def cars(root: Path, _) -> Copy:
    from scipy.io import savemat

    folder = root / "stanford_cars"
    names = ["AM General Hummer SUV 2000", "Acura RL Sedan 2012", "Ram C/V Cargo Van Minivan 2012"]
    (folder / "devkit").mkdir(parents=True)
    savemat(folder / "devkit" / "cars_meta.mat", {"class_names": np.array(names, object)[None]})

    def annotations(labels: list[int]) -> dict[str, np.ndarray]:
        fields = [(name, object) for name in ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")]
        rows = [(1, 1, 9, 9, np.uint8(label + 1), f"{i:05d}.jpg") for i, label in enumerate(labels, 1)]
        return {"annotations": np.array(rows, fields)[None]}

    labels = [2, 0]
    savemat(folder / "cars_test_annos_withlabels.mat", annotations(labels))
    savemat(folder / "devkit" / "cars_train_annos.mat", annotations([0, 1]))
    for i, label in enumerate(labels, 1):
        save(folder / "cars_test" / f"{i:05d}.jpg", label)
        save(folder / "cars_train" / f"{i:05d}.jpg", i)
    return Copy(tuple(names), labels)


def sun397(root: Path, _) -> Copy:
    folder = root / "SUN397"
    classes = ["/a/airplane_cabin", "/a/apse/indoor", "/z/zen_garden"]
    text(folder / "ClassName.txt", *classes)
    for label, name in enumerate(classes):
        save(folder / name.lstrip("/") / f"sun_aabb{label}.jpg", label)
    return Copy(("airplane cabin", "apse indoor", "zen garden"), [0, 1, 2])


def country211(root: Path, _) -> Copy:
    for label, code in enumerate(["AD", "CI", "XK"]):
        save(root / "country211" / "test" / code / f"{label}.jpg", label)
        for split in ("train", "valid"):
            save(root / "country211" / split / code / f"{label}.jpg", label + 1)
    return Copy(("Andorra", "Ivory Coast", "Kosovo"), [0, 1, 2])


def food101(root: Path, _) -> Copy:
    folder = root / "food-101"
    splits = {
        "test": {"sushi": [1, 2], "fish_and_chips": [5]},
        "train": {"sushi": [3], "fish_and_chips": [4]},
    }
    for split, classes in splits.items():
        listed = {name: [f"{name}/{i}" for i in ids] for name, ids in classes.items()}
        text(folder / "meta" / f"{split}.json", json.dumps(listed))
        for name, ids in classes.items():
            for i in ids:
                save(folder / "images" / name / f"{i}.jpg", (name == "sushi") + (split == "train"))
    return Copy(("fish and chips", "sushi"), [0, 1, 1])


def eurosat(root: Path, _) -> Copy:
    names = ["AnnualCrop", "Forest", "HerbaceousVegetation", "SeaLake"]
    for label, name in enumerate(names):
        save(root / "eurosat" / "2750" / name / f"{name}_1.jpg", label)
    return Copy(("annual crop", "forest", "herbaceous vegetation", "sea lake"), [0, 1, 2, 3])


def dtd(root: Path, _) -> Copy:
    folder = root / "dtd" / "dtd"
    names = ["banded", "polka-dotted"]
    for part, split in enumerate(("test", "train", "val")):
        for partition in range(1, 11):
            files = [f"{name}/{name}_000{part}.jpg" for name in names]
            text(folder / "labels" / f"{split}{partition}.txt", *files)
        for label, name in enumerate(names):
            save(folder / "images" / name / f"{name}_000{part}.jpg", label + (split != "test"))
    return Copy(("banded", "polka-dotted"), [0, 1])


def pcam(root: Path, _) -> Copy:
    import h5py

    labels = [1, 0, 1]
    (root / "pcam").mkdir()
    for split, shift in {"test": 0, "train": 1, "valid": 1}.items():
        pictures = np.stack([flat(label + shift, 96) for label in labels])
        truth = np.array(labels, np.uint8)[:, None, None, None]
        for letter, values in {"x": pictures, "y": truth}.items():
            path = root / "pcam" / f"camelyonpatch_level_2_split_{split}_{letter}.h5"
            with h5py.File(path, "w") as file:
                file[letter] = values
    return Copy(("healthy lymph node tissue", "lymph node tumor tissue"), labels)


def imagenette(root: Path, _) -> Copy:
    wnids = ["n01440764", "n03028079", "n03888257"]
    for label, wnid in enumerate(wnids):
        save(root / "imagenette2" / "val" / wnid / f"{wnid}_10.JPEG", label)
        save(root / "imagenette2" / "train" / wnid / f"{wnid}_11.JPEG", label + 1)
    return Copy(("tench", "church", "parachute"), [0, 1, 2])


def tiny_imagenet(root: Path, _) -> Copy:
    folder = root / "tiny-imagenet-200"
    text(folder / "wnids.txt", "n02124075", "n01443537", "n04067472")
    text(
        folder / "words.txt",
        "n00001740\tentity",
        "n01443537\tgoldfish, Carassius auratus",
        "n02124075\tEgyptian cat",
        "n04067472\treel",
    )
    text(
        folder / "val" / "val_annotations.txt",
        "val_0.JPEG\tn02124075\t0\t32\t44\t62",
        "val_1.JPEG\tn04067472\t52\t55\t57\t59",
        "val_2.JPEG\tn01443537\t4\t0\t60\t55",
    )
    labels = [1, 2, 0]
    for i, label in enumerate(labels):
        save(folder / "val" / "images" / f"val_{i}.JPEG", label)
    return Copy(("goldfish", "Egyptian cat", "reel"), labels)


COPIES: dict[str, Callable[[Path, object], Copy]] = {
    "cifar10": cifar10,
    "cifar100": cifar100,
    "stl10": stl10,
    "imagenet": imagenet,
    "caltech101": caltech101,
    "caltech256": caltech256,
    "oxford-iiit-pet": pets,
    "flowers102": flowers,
    "fgvc-aircraft": aircraft,
    "stanford-cars": cars,
    "sun397": sun397,
    "country211": country211,
    "food101": food101,
    "eurosat": eurosat,
    "dtd": dtd,
    "pcam": pcam,
    "imagenette": imagenette,
    "tiny-imagenet": tiny_imagenet,
}
