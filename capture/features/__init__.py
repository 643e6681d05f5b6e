"""Features: the same code for a live frame and for a training clip."""
