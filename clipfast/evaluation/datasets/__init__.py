"""Data sets to evaluate on: the paper's by name, folders of class folders, and the bundled renderer."""

from .dataset import Dataset, Images, Skipped
from .finding import BUNDLED_DATA, dataset_names, find_dataset
from .registry import PAPER

__all__ = ["BUNDLED_DATA", "PAPER", "Dataset", "Images", "Skipped", "dataset_names", "find_dataset"]
