"""Data sets to evaluate on: the paper's by name, folders of class folders, and the bundled renderer."""

from .dataset import Dataset, Images, Skipped
from .finding import BUNDLED, dataset_names, find_dataset
from .table import PAPER

__all__ = ["BUNDLED", "PAPER", "Dataset", "Images", "Skipped", "dataset_names", "find_dataset"]
