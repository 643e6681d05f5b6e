"""Files of NumPy arrays (``.npz``), also damaged ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from models.data import DataError


def read(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Every array of a file, by its name.

    Raises FileNotFoundError, or DataError where the file is damaged or of another kind.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: np.asarray(stored[name]) for name in stored.files}  # damaged, one may be bytes
    except FileNotFoundError:
        raise
    except Exception as error:  # a damaged zip file raises of many kinds
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(f"{path} is no file of arrays, or it is damaged ({reason})") from None
