"""Data sets of any origin as arrays in three splits, and the pipelines that feed them."""

from tfcompress.data.dataset import Dataset
from tfcompress.data.sources import check_fits, load_data
from tfcompress.data.split import Split

__all__ = ["Dataset", "Split", "check_fits", "load_data"]
