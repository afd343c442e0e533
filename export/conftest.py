"""What the tests of all deployments share: the bundled model as files, and pictures to classify."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from attacked_pictures import write_pictures
from sharing import made_once
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from clipfast import DefendedClassifier
from clipfast.config import Preset
from clipfast.exporters import export
from clipfast.models.fingerprint import fingerprint

# Preset and options. In the published ones' answers each draw of noise shows.
EXPORTED: dict[str, tuple[Preset, dict[str, Any]]] = {
    "serving.onnx": ("published", {"profile": "serving", "pixels": "uint8"}),
    "lab.onnx": ("published", {"profile": "lab"}),
    "serving.pt2": ("published", {"profile": "serving", "format": "aotinductor"}),
    "lab.pt2": ("published", {"profile": "lab", "format": "aotinductor"}),
    "recommended.onnx": ("recommended", {"profile": "serving", "pixels": "uint8"}),
    "recommended-lab.onnx": ("recommended", {"profile": "lab"}),
    "recommended.pt2": ("recommended", {"profile": "lab", "format": "aotinductor"}),
}

# Whose tests take longest; they begin, one in each process.
LONGEST = ("export/cpp/", "export/web/")


class Deployments(LoadScopeScheduling):
    """Keeps the tests of a deployment in one process, as they share a build, ports and workers."""

    def _split_scope(self, nodeid: str) -> str:
        return nodeid.split("/")[1]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Deployments:
    """Takes the place of pytest-xdist's own, whatever --dist says."""
    return Deployments(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the longest first."""
    items.sort(key=lambda item: not item.nodeid.startswith(LONGEST))


def shortened(classifier: DefendedClassifier) -> DefendedClassifier:
    """One block of four, for a test in which any model will do: a compiler takes a minute less."""
    tower = classifier.image_tower
    del tower.model.visual.transformer.resblocks[1:]
    return classifier.with_config(classifier.config.calibrated(fingerprint(tower.model.visual)))


@pytest.fixture(scope="session")
def artifact(tmp_path_factory) -> Callable[[str], Path]:
    """The bundled model as one of the files in EXPORTED, made when it is first asked for."""

    def get(name: str) -> Path:
        def make(folder: Path) -> None:
            preset, options = EXPORTED[name]
            classifier = DefendedClassifier.bundled(preset=preset)
            if name == "serving.pt2":
                classifier = shortened(classifier)
            export(classifier, folder / name, verify=False, **options)

        return made_once(tmp_path_factory, f"artifact-{name}", make) / name

    return get


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> Path:
    """A folder with `clean` and `attacked`: 24 PNG files of 96 x 96 each, under the same names.

    Attacked by PGD on the undefended model, ten steps within 2/255.
    """
    folder = tmp_path_factory.mktemp("pictures")
    write_pictures(folder, DefendedClassifier.bundled(), 24, seed=(400, 1))
    return folder
