"""What Prometheus reads."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from account_socket.metrics import Histogram, Metrics


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
    }


def test_values_are_read_at_scrape_time() -> None:
    """A metric is what its callable returns now; one that has nothing to tell is left out."""
    metrics = Metrics()
    values: dict[str, float] = {}
    numbers = iter([None, 5])
    metrics.add("account_socket_things", "Things", "gauge", lambda: next(numbers))
    metrics.add("account_socket_closes", "Closes", "counter", lambda: values, label="code")
    assert samples(metrics) == {}
    values["1000"] = 3
    assert samples(metrics) == {
        ("account_socket_things", ()): 5,
        ("account_socket_closes_total", (("code", "1000"),)): 3,
    }


def test_histogram() -> None:
    """A value counts in the bucket whose upper bound it does not exceed, and in all above."""
    histogram = Histogram((1, 2, 5))
    histogram.observe(1)
    histogram.observe_many([1.5, 2.0, 5.1, 100])
    assert histogram.cumulative() == [("1.0", 1), ("2.0", 3), ("5.0", 3), ("+Inf", 5)]
    assert (histogram.count, histogram.sum) == (5, 109.6)
    metrics = Metrics()
    metrics.add_histogram("account_socket_wait_seconds", "Wait", histogram)
    shown = samples(metrics)
    assert shown["account_socket_wait_seconds_bucket", (("le", "2.0"),)] == 3
    assert shown["account_socket_wait_seconds_count", ()] == 5
    assert shown["account_socket_wait_seconds_sum", ()] == 109.6
