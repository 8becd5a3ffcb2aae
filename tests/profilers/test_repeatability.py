"""What differences a machine can resolve, from recorded passes."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwnas.profilers import LocalProfiler, Measurement, Repeatability, measure_again

PASSES = ((1.00, 2.00, 3.00, 4.00), (1.01, 2.04, 2.97, 4.00))


class Recorded(LocalProfiler):
    """Says what was recorded, file by file."""

    def __init__(self, values: dict[str, list[float]]) -> None:
        self.values = {name: list(said) for name, said in values.items()}
        self.asked: list[str] = []

    def measure(self, path: Path, inputs: Path | None = None) -> Measurement:
        self.asked.append(path.name)
        value = self.values[path.name].pop(0)
        return Measurement(((value, value, value),) * 20, disturbance=(1.0,) * 20)


def test_differences_are_of_the_same_network() -> None:
    again = Repeatability(PASSES)
    assert list(again.differences) == pytest.approx([0.0, 0.01, 3.00 / 2.97 - 1, 0.02])
    assert again.median == pytest.approx((0.01 + 3.00 / 2.97 - 1) / 2)
    assert again.worst == again.resolvable == pytest.approx(0.02)
    assert again.kendall == 1.0


@pytest.mark.parametrize(
    ("second", "kendall"), [((1, 2, 3, 4), 1.0), ((4, 3, 2, 1), -1.0), ((2, 1, 3, 4), 4 / 6), ((1, 1, 3, 4), 5 / 6)]
)
def test_kendall(second: tuple[float, ...], kendall: float) -> None:
    assert Repeatability(((1, 2, 3, 4), second)).kendall == pytest.approx(kendall)
    third = Repeatability(((1, 2, 3, 4), (1, 2, 3, 4), second))
    assert third.kendall == pytest.approx((1 + 2 * kendall) / 3), "the mean over all pairs of passes"


def test_passes_go_forth_and_back() -> None:
    profiler = Recorded({str(place): [PASSES[0][place], PASSES[1][place]] for place in range(4)})
    again = measure_again(profiler, [Path(str(place)) for place in range(4)])
    assert profiler.asked == ["0", "1", "2", "3", "3", "2", "1", "0"]
    assert again == Repeatability(PASSES)
    assert again.to_json()["networks"] == 4 and again.to_json()["noisy"] == 0
