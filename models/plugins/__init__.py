"""The GD-Unit as a GPU kernel, and as plugins of TensorRT that launch it."""
