"""Runtime: the live application; no PyTorch is needed to run it."""

import os

# ONNX Runtime from 1.29 on reports to its maker and keeps an identifier on disk, unless it is told not to.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
