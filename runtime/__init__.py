"""Runtime: the live application; no PyTorch is needed to run it."""
