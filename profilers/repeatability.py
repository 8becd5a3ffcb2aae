"""What differences a machine can resolve: the same networks, measured again and again (an A/A check)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .profiler import Profiler

__all__ = ["Repeatability", "measure_again"]


@dataclass(frozen=True)
class Repeatability:
    """Medians of the same networks in several passes.

    Attributes:
        medians_ms: a row for each pass, a value for each network, in ms.
        noisy: number of measurements that were marked noisy.

    >>> again = Repeatability(((1.0, 2.0, 4.0), (1.01, 2.0, 4.0)))
    >>> again.kendall, round(again.worst, 4)
    (1.0, 0.01)
    """

    medians_ms: tuple[tuple[float, ...], ...]
    noisy: int = 0

    @cached_property
    def differences(self) -> NDArray[np.float64]:
        """Relative differences of the same network between two passes, (pairs of passes x networks,), ascending."""
        import numpy as np

        pairs = [abs(np.log(np.divide(a, b))) for a, b in itertools.combinations(self.medians_ms, 2)]
        ascending: NDArray[np.float64] = np.sort(np.expm1(np.concatenate(pairs)))
        return ascending

    @property
    def median(self) -> float:
        """Median of the differences."""
        import numpy as np

        return float(np.median(self.differences))

    @property
    def resolvable(self) -> float:
        """The difference that 95 % of all pairs of measurements of one network stay below: less is noise."""
        import numpy as np

        return float(np.quantile(self.differences, 0.95, method="higher"))

    @property
    def worst(self) -> float:
        """Largest of the differences."""
        return float(self.differences[-1])

    @property
    def kendall(self) -> float:
        """Mean rank correlation (Kendall's tau-a) between two passes; 1 when every pair of networks keeps its order."""
        import numpy as np

        found = []
        for one, other in itertools.combinations(np.array(self.medians_ms), 2):
            upper = np.triu_indices(len(one), 1)
            agree = np.sign(one[upper[0]] - one[upper[1]]) * np.sign(other[upper[0]] - other[upper[1]])
            found.append(float(agree.mean()))
        return float(np.mean(found))

    def to_json(self) -> dict[str, Any]:
        """A JSON-plain dictionary, with shares as fractions."""
        return {
            "networks": len(self.medians_ms[0]),
            "passes": len(self.medians_ms),
            "median_difference": self.median,
            "resolvable_difference": self.resolvable,
            "worst_difference": self.worst,
            "kendall": self.kendall,
            "noisy": self.noisy,
        }


def measure_again(profiler: Profiler, models: Sequence[Path], passes: int = 2) -> Repeatability:
    """Measures every model in each pass, each second pass in the opposite order.

    Raises:
        CandidateError, DeviceError: as `Profiler.measure`.
    """
    medians, noisy = [], 0
    for turn in range(passes):
        order = models if turn % 2 == 0 else models[::-1]
        taken = {model: profiler.measure(model) for model in order}
        noisy += sum(measurement.quality == "noisy" for measurement in taken.values())
        medians.append(tuple(taken[model].latency_ms for model in models))
    return Repeatability(tuple(medians), noisy)
