"""Radnode: a DICOM inference node. Read `workflow.py` first."""

__version__ = "0.1.0"
