"""ECG-FM, a foundation model for the 12-lead ECG, over whole datasets."""

__version__ = "0.1.0"
