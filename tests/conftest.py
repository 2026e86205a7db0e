"""How Hypothesis runs: no test depends on speed, and CI draws the same examples every time."""

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "tolsey",
    deadline=None,
    derandomize=os.environ.get("CI") == "true",
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("tolsey")
