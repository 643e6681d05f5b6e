"""Capture: one process per sense; knows devices and features, nothing of windows or networks."""

import os

# ONNX Runtime from 1.29 on reports to its maker and keeps an identifier on disk, unless it is told not to.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # what fetches Whisper's weights
