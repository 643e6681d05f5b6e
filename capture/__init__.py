"""Capture: one process per sense; knows devices and features, nothing of windows or networks."""
