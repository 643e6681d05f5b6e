"""Scale: where a sentiment lies between the ends of its scale, for everything that draws it."""

from __future__ import annotations


def on_scale(value: float, scale: tuple[float, float]) -> float:
    """0 at the low end, 1 at the high end, never outside."""
    low, high = scale
    return min(max((value - low) / (high - low), 0.0), 1.0)
