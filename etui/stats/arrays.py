"""Name the array types of the arithmetic.

Importing this module loads numpy; where it must stay unloaded until it is needed, the names are
imported under ``TYPE_CHECKING``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Whole = NDArray[np.int64]
