"""The data sets that are known by name: the sixteen of the paper (arXiv 2503.03613), and others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .class_folders import ClassFolders
from .class_words import (
    aircraft,
    caltech101,
    caltech256,
    camel_case,
    flower,
    imagenet,
    imagenette,
    spaced,
)
from .countries import country
from .dataset import Contents
from .tiny_imagenet import read_tiny_imagenet
from .torchvision_reader import TorchvisionReader, named, train_argument, without_split

__all__ = ["DATASETS", "PAPER", "PAPER_TEMPLATES", "KnownDataset"]

# The paper's prompt, for all of its data sets.
PAPER_TEMPLATES = ("This is a photo of a {}.",)

# PCAM's classes in the words of the paper's code.
_PCAM = ("healthy lymph node tissue", "lymph node tumor tissue")


@dataclass(frozen=True, kw_only=True)
class KnownDataset:
    """A data set that is known by name.

    Attributes:
        title: Its name as papers write it.
        folder: What must be there below the root.
        read: (root, split, download) -> what it holds.
        splits: Its splits, of which the first is evaluated; "all" if there are no others.
        get: How users come by it, if torchvision cannot download it.
        needs: A package that torchvision needs to read it.
        class_folders: Another form that it is read in if torchvision's is not there.
    """

    title: str
    folder: str
    read: Callable[[Path, str, bool], Contents]
    splits: tuple[str, ...] = ("all",)
    get: str | None = None
    needs: str | None = None
    class_folders: ClassFolders | None = None


# The data sets of the paper's tables.
_PAPER = {
    "cifar10": KnownDataset(
        title="CIFAR-10",
        folder="cifar-10-batches-py",
        read=TorchvisionReader(name="CIFAR10", classnames=named(), arguments=train_argument, paths=False),
        splits=("test", "train"),
        class_folders=ClassFolders(places=("cifar10/{split}", "{split}")),
    ),
    "cifar100": KnownDataset(
        title="CIFAR-100",
        folder="cifar-100-python",
        read=TorchvisionReader(
            name="CIFAR100", classnames=named(spaced), arguments=train_argument, paths=False
        ),
        splits=("test", "train"),
    ),
    "stl10": KnownDataset(
        title="STL-10",
        folder="stl10_binary/class_names.txt",
        read=TorchvisionReader(name="STL10", classnames=named(), paths=False),
        splits=("test", "train"),
    ),
    "imagenet": KnownDataset(
        title="ImageNet",
        folder=".",
        read=TorchvisionReader(
            name="ImageNet", classnames=lambda dataset: imagenet(dataset.classes), downloads=False
        ),
        splits=("val", "train"),
        get="register at image-net.org, put ILSVRC2012_devkit_t12.tar.gz and ILSVRC2012_img_val.tar there",
    ),
    "caltech101": KnownDataset(
        title="Caltech-101",
        folder="caltech101/101_ObjectCategories",
        read=TorchvisionReader(
            name="Caltech101",
            classnames=named(caltech101, attribute="categories"),
            arguments=without_split,
            paths=False,
        ),
        needs="scipy",
        class_folders=ClassFolders(
            places=("caltech-101/101_ObjectCategories", "101_ObjectCategories", "caltech_101"),
            words=caltech101,
            left_out=("BACKGROUND_Google",),
        ),
    ),
    "caltech256": KnownDataset(
        title="Caltech-256",
        folder="caltech256/256_ObjectCategories",
        read=TorchvisionReader(
            name="Caltech256",
            classnames=named(caltech256, attribute="categories"),
            arguments=without_split,
            paths=False,
        ),
    ),
    "oxford-iiit-pet": KnownDataset(
        title="Oxford-IIIT Pet",
        folder="oxford-iiit-pet",
        read=TorchvisionReader(name="OxfordIIITPet", classnames=named(), paths=False),
        splits=("test", "trainval"),
    ),
    "flowers102": KnownDataset(
        title="Flowers-102",
        folder="flowers-102",
        read=TorchvisionReader(name="Flowers102", classnames=named(flower)),
        splits=("test", "val", "train"),
        needs="scipy",
    ),
    "fgvc-aircraft": KnownDataset(
        title="FGVC Aircraft",
        folder="fgvc-aircraft-2013b",
        read=TorchvisionReader(name="FGVCAircraft", classnames=named(aircraft)),
        splits=("test", "val", "trainval", "train"),
    ),
    "stanford-cars": KnownDataset(
        title="Stanford Cars",
        folder="stanford_cars",
        read=TorchvisionReader(name="StanfordCars", classnames=named(), downloads=False),
        splits=("test", "train"),
        get="its site is gone: unpack a mirror's devkit, cars_test and cars_test_annos_withlabels.mat there",
        needs="scipy",
    ),
    "sun397": KnownDataset(
        title="SUN397",
        folder="SUN397",
        read=TorchvisionReader(name="SUN397", classnames=named(spaced), arguments=without_split),
    ),
    "country211": KnownDataset(
        title="Country211",
        folder="country211",
        read=TorchvisionReader(name="Country211", classnames=named(country)),
        splits=("test", "valid", "train"),
    ),
    "food101": KnownDataset(
        title="Food-101",
        folder="food-101",
        read=TorchvisionReader(name="Food101", classnames=named(spaced)),
        splits=("test", "train"),
    ),
    "eurosat": KnownDataset(
        title="EuroSAT",
        folder="eurosat/2750",
        read=TorchvisionReader(name="EuroSAT", classnames=named(camel_case), arguments=without_split),
    ),
    "dtd": KnownDataset(
        title="DTD",
        folder="dtd/dtd",
        read=TorchvisionReader(name="DTD", classnames=named(spaced)),
        splits=("test", "val", "train"),
        class_folders=ClassFolders(places=("dtd/images", "images"), lists="../labels/{split}1.txt"),
    ),
    "pcam": KnownDataset(
        title="PCAM",
        folder="pcam",
        read=TorchvisionReader(name="PCAM", classnames=lambda _: _PCAM, paths=False),
        splits=("test", "val", "train"),
        needs="h5py",
    ),
}

# The fine-tuned towers were trained on Tiny ImageNet.
_OTHERS = {
    "imagenette": KnownDataset(
        title="Imagenette",
        folder="imagenette2",
        read=TorchvisionReader(
            name="Imagenette",
            classnames=lambda dataset: map(imagenette, dataset.wnids),
        ),
        splits=("val", "train"),
        class_folders=ClassFolders(
            places=("imagenette2-320/{split}", "imagenette2-160/{split}", "{split}"), words=imagenette
        ),
    ),
    "tiny-imagenet": KnownDataset(
        title="Tiny ImageNet",
        folder="tiny-imagenet-200",
        read=read_tiny_imagenet,
        splits=("val",),
        get="unpack tiny-imagenet-200.zip of Stanford's course CS231n there",
    ),
}

DATASETS = _PAPER | _OTHERS
PAPER = tuple(_PAPER)
