"""What the builder counts, for `/metrics`."""

from typing import Final

from prometheus_client import Counter, Histogram

BUILDS: Final = Counter("wasmfn_builds", "Builds that ended.", ["state"])
STEP_SECONDS: Final = Histogram(
    "wasmfn_build_step_seconds",
    "How long each step of a build took.",
    ["step"],
    buckets=(0.001, 0.005, 0.02, 0.1, 0.5, 2, 10, 60, 300),
)
