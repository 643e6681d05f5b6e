"""Bridges: the emotion stream in the languages that laboratories, robots, pages and homes already speak."""
