"""SSIMBaD, reproduced: from raw anime faces to the tables of the study."""

__version__ = "0.1.0"
