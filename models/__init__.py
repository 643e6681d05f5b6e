"""Models: the DMD network — PyTorch; no capture process, no ZeroMQ."""
