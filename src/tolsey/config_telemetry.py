"""What in `tolsey.toml` is about OpenTelemetry."""

from dataclasses import dataclass

from tolsey import config_lines as lines
from tolsey.config_lines import Table
from tolsey.config_secrets import Secret


@dataclass(frozen=True, slots=True)
class Telemetry:
    """Where OpenTelemetry goes: the base URL of a collector (None: nowhere), what is sent to it with everything, and
    the share of traces begun here that are sampled.
    """

    endpoint: str | None
    headers: tuple[tuple[str, Secret], ...]
    sample_ratio: float


def read_telemetry(table: Table, headers: tuple[tuple[str, Secret], ...]) -> Telemetry:
    """Read the section, whose `headers` were read before."""
    telemetry = Telemetry(
        endpoint=table.read("endpoint", lambda value: lines.http_url(value)[0], None),
        headers=headers,
        sample_ratio=table.read("sample_ratio", _ratio, 1.0),
    )
    table.done()
    return telemetry


def _ratio(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 1:
        raise ValueError("must be a number from 0 to 1")
    return float(value)
