"""Data sets of any origin as arrays in three splits, and the pipelines that feed them."""

from tfcompress.data.dataset import Dataset, Split
from tfcompress.data.sources import check_fits, load_data

__all__ = ["Dataset", "Split", "check_fits", "load_data"]
