"""`/metrics` as Prometheus reads it, with the parser of its own client library."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as plain

from tests.gateways import Gateway, until

OPEN_METRICS = "application/openmetrics-text; version=1.0.0"


class Page(NamedTuple):
    """One scrape: the value of each series by its name and labels, and the kind of each family."""

    series: dict[tuple[str, frozenset[tuple[str, str]]], float]
    kinds: dict[str, str]
    text: str

    def value(self, name: str, **labels: str) -> float:
        """The sum of the series that have these labels."""
        wanted = set(labels.items())
        return sum(value for (found, has), value in self.series.items() if found == name and wanted <= has)


def scrape(gateway: Gateway, *, accept: str | None = None) -> Page:
    """Ask once."""
    headers = [] if accept is None else [f"Accept: {accept}"]
    answer = gateway.ask("GET", "/metrics", *headers, admin=True)
    assert answer.status == 200, answer
    is_open = answer["content-type"].startswith("application/openmetrics-text")
    assert is_open == (accept == OPEN_METRICS)
    text = answer.body.decode()
    parse: Callable[[str], Iterable[Metric]] = open_metrics if is_open else plain
    families = list(parse(text))
    series = {
        (sample.name, frozenset(sample.labels.items())): sample.value for each in families for sample in each.samples
    }
    assert len(series) == sum(len(each.samples) for each in families)
    return Page(series, {each.name: each.type for each in families}, text)


def scraped(gateway: Gateway, condition: Callable[[Page], bool]) -> Page:
    """Ask until the workers have told what they counted."""
    pages: list[Page] = []

    def look() -> bool:
        pages.append(scrape(gateway))
        return condition(pages[-1])

    until(look, "the workers have told what they counted")
    return pages[-1]
