"""Engines: one module per way to run the network."""
