"""Data sets to evaluate on: the paper's by name, folders of class folders, and the bundled renderer."""

from .dataset import Dataset, Files, Images, Skipped
from .finding import dataset_names, find_dataset
from .registry import PAPER, PAPER_TEMPLATES

__all__ = [
    "PAPER",
    "PAPER_TEMPLATES",
    "Dataset",
    "Files",
    "Images",
    "Skipped",
    "dataset_names",
    "find_dataset",
]
