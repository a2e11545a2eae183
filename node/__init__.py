"""Radnode: a DICOM inference node. Read `workflow.py` first."""

import sys

__version__ = "0.1.0"

# OpenVINO tells Google Analytics of every import and every network, unless this package of its own can't be imported. A node calls nobody.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
