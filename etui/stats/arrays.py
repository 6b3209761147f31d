"""Array types for numeric code.

Importing this module loads numpy. Modules that must not load numpy at import time import the names
under ``TYPE_CHECKING``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Whole = NDArray[np.int64]
