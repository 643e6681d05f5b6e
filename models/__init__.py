"""Models: the DMD network — PyTorch; no capture process, no ZeroMQ."""

import os

# ONNX Runtime from 1.29 on reports to its maker and keeps an identifier on disk, unless it is told not to.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
