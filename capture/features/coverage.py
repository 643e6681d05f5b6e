"""Coverage: how much of a stretch of time was observed, whatever the rate of its samples."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

HOLE_NS = 200_000_000  # longer than this without a sample: nobody looked, or listened


def coverage(times_ns: npt.NDArray[np.int64], start_ns: int, end_ns: int) -> float:
    """The share of ``start_ns`` to ``end_ns`` that is no hole, 0..1; ``times_ns`` (T,) lie inside.

    A camera of five pictures a second covers all of its time, and so does a faster one from which some are
    taken away.
    """
    if not len(times_ns):
        return 0.0
    apart_ns = np.diff(np.sort(times_ns), prepend=start_ns, append=end_ns)
    return 1 - float(apart_ns[apart_ns > HOLE_NS].sum()) / (end_ns - start_ns)
