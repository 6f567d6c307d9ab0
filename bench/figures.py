"""Numbers from repeated measurements: percentiles, a line through points, and how they are written."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

MEBIBYTE = 1024 * 1024


@dataclass(frozen=True)
class Sample:
    """Values measured one after another, in seconds unless said otherwise."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle value."""
        return statistics.median(self.values)

    def percentile(self, share: float) -> float:
        """The value that this share (0 to 1) of the values does not exceed."""
        ordered = sorted(self.values)
        return ordered[min(len(ordered) - 1, max(0, round(share * len(ordered) + 0.5) - 1))]

    def spread(self, write: Callable[[float], str]) -> list[str]:
        """Least, median and largest value as cells."""
        return [write(min(self.values)), write(self.median), write(max(self.values))]


def sample(values: Sequence[float]) -> Sample:
    """The values as a sample."""
    return Sample(tuple(values))


@dataclass(frozen=True)
class Line:
    """The least-squares line through points, with the standard error of its slope."""

    slope: float
    error: float


def fit_line(points: Sequence[tuple[float, float]]) -> Line:
    """The line that fits best; needs three points."""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    slope, start = statistics.linear_regression(xs, ys)
    rest = sum((y - start - slope * x) ** 2 for x, y in points) / (len(points) - 2)
    width = sum((x - statistics.fmean(xs)) ** 2 for x in xs)
    return Line(slope, (rest / width) ** 0.5)


def milliseconds(seconds: float) -> str:
    """``4.31 ms``, with fewer digits as it grows."""
    value = seconds * 1000
    return f"{value:.2f} ms" if value < 10 else f"{value:.1f} ms" if value < 100 else f"{value:.0f} ms"


def seconds(value: float) -> str:
    """``1.24 s``."""
    return f"{value:.2f} s"


def mebibytes(size: float) -> str:
    """``12.3 MiB`` of a number of bytes."""
    return f"{size / MEBIBYTE:.1f} MiB"


def megabytes(size: float) -> str:
    """``12.3 MB`` (millions) of a number of bytes."""
    return f"{size / 1e6:.1f} MB"


def times(ratio: float) -> str:
    """``3.1 ×``."""
    return f"{ratio:.2f} ×" if ratio < 10 else f"{ratio:.0f} ×"


def held(good: bool) -> str:
    """Whether a goal is met, in a word."""
    return "yes" if good else "**no**"
