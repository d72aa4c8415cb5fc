"""
Metrics, read only when Prometheus asks.

Hot paths increment plain integers that they own; here it is only written down where to read them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

Value = float | Mapping[str, float] | None
"""One number, or a number per value of the label; None where there is nothing to tell now."""

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Buckets for latencies."""
SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
"""Buckets for group sizes."""


class Histogram:
    """
    Counts of values by size; observing costs a bisection.

    Args:
        bounds: upper bounds of the buckets, ascending; one for everything above is added.
    """

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float] = SECONDS) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def observe_many(self, values: Iterable[float]) -> None:
        """Count several values."""
        counts, bounds = self._counts, self._bounds
        for value in values:
            counts[bisect_left(bounds, value)] += 1
            self._sum += value

    @property
    def count(self) -> int:
        """How many values were counted."""
        return sum(self._counts)

    @property
    def sum(self) -> float:
        """The sum of all values."""
        return self._sum

    def cumulative(self) -> list[tuple[str, float]]:
        """Return (upper bound, values up to it) of each bucket, as Prometheus wants it."""
        total = 0
        buckets: list[tuple[str, float]] = []
        for bound, count in zip((*map(str, map(float, self._bounds)), "+Inf"), self._counts, strict=True):
            total += count
            buckets.append((bound, total))
        return buckets


@dataclass(frozen=True)
class _Entry:
    name: str
    help: str
    kind: Literal["counter", "gauge"]
    read: Callable[[], Value]
    label: str | None


class Metrics(Collector):
    """Every metric of this process, each with its full name (`account_socket_…`, with the unit at its end)."""

    content_type = CONTENT_TYPE_PLAIN_0_0_4

    def __init__(self) -> None:
        self._entries: list[_Entry] = []
        self._histograms: list[tuple[str, str, Histogram]] = []
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def add(
        self,
        name: str,
        help: str,
        kind: Literal["counter", "gauge"],
        read: Callable[[], Value],
        *,
        label: str | None = None,
    ) -> None:
        """
        Tell of a metric.

        Args:
            name: a counter's gets `_total` at its end by itself.
            read: called at each scrape; returns a number, or with `label` a mapping from its values to numbers.
        """
        self._entries.append(_Entry(name, help, kind, read, label))

    def add_histogram(self, name: str, help: str, histogram: Histogram) -> None:
        """Tell of a histogram."""
        self._histograms.append((name, help, histogram))

    def render(self) -> bytes:
        """Return the text that Prometheus scrapes; its type is `content_type`."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Read everything (prometheus_client)."""
        for entry in self._entries:
            value = entry.read()
            if value is not None:
                yield _family(entry, value)
        for name, text, histogram in self._histograms:
            family = HistogramMetricFamily(name, text)
            family.add_metric([], buckets=histogram.cumulative(), sum_value=histogram.sum)
            yield family


def _family(entry: _Entry, value: float | Mapping[str, float]) -> Metric:
    make = CounterMetricFamily if entry.kind == "counter" else GaugeMetricFamily
    if entry.label is None:
        assert not isinstance(value, Mapping)
        family = make(entry.name, entry.help)
        family.add_metric([], value)
        return family
    assert isinstance(value, Mapping)
    family = make(entry.name, entry.help, labels=[entry.label])
    for label_value, number in dict(value).items():
        family.add_metric([label_value], number)
    return family
