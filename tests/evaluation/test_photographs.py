"""Real photographs where they are at hand: CIFAR-10 as an archive of class folders beside the project."""

from __future__ import annotations

import tarfile
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from small_copies import CIFAR10

from clipfast import DefendedClassifier
from clipfast.evaluation.datasets import find_dataset
from clipfast.evaluation.results import Results
from clipfast.preprocess import Preprocess

ARCHIVE = Path(__file__).parents[3] / "shared" / "data" / "cifar10.tar"
EACH = 20

pytestmark = pytest.mark.skipif(not ARCHIVE.exists(), reason="no photographs beside the project")


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A few of each class of the test split, unpacked."""
    root = tmp_path_factory.mktemp("cifar10")
    taken = dict.fromkeys(CIFAR10, 0)
    with tarfile.open(ARCHIVE) as archive:
        for member in archive:
            split, *rest = Path(member.name).parts
            if split == "test" and len(rest) == 2 and taken[rest[0]] < EACH:
                taken[rest[0]] += 1
                archive.extract(member, root, filter="data")
            if min(taken.values()) == EACH:
                break
    return root


def test_the_archive_is_cifar10_in_class_folders(root):
    dataset = find_dataset("cifar10", root=root)
    assert dataset.classnames == tuple(CIFAR10)
    taken = dataset.take(Preprocess(size=(32, 32)))
    assert taken.labels.bincount().tolist() == [EACH] * 10
    assert taken.pixels.float().std() > 30


@pytest.mark.usefixtures("registered")
def test_eval_runs_on_it(run, root, tmp_path):
    torch.manual_seed(0)
    save_file(open_clip.create_model("tiny-test").state_dict(), tmp_path / "tiny.safetensors")
    named = ["--model", "tiny-test", "--pretrained", tmp_path / "tiny.safetensors"]
    options = ["--attacks", "pgd-10", "--defences", "none,recommended", "--images", 12]
    code, _, err = run("eval", "--data", "cifar10", "--root", root, *named, *options, "-o", tmp_path / "out")
    assert code == 0, err
    results = Results.from_json((tmp_path / "out" / "results.json").read_text())
    assert (results.run["data"], results.run["images"]) == ("cifar10", 12)
    assert {system.name for system in results.systems} == {"undefended", "recommended"}


def test_the_bundled_model_names_photographs_that_it_never_saw(root):
    classifier = DefendedClassifier.bundled("photographs")
    taken = find_dataset("cifar10", root=root).take(classifier.preprocess)
    right = (classifier.undefended(taken.pixels).argmax(1) == taken.labels).double().mean().item()
    # Three standard errors of 200 pictures below what is promised.
    assert right > 0.85 - 3 * (0.85 * 0.15 / len(taken)) ** 0.5
