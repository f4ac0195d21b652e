"""What the server counts, in the text format of Prometheus."""

from collections.abc import Callable, Sequence
from pathlib import Path

import prometheus_client as prometheus

from symm_jax.serve.engine import SIZES

CONTENT_TYPE = prometheus.CONTENT_TYPE_LATEST
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """Counters of one server."""

    def __init__(
        self, waiting: Callable[[], float], restarts: Callable[[], float], pids: Callable[[], Sequence[int]]
    ) -> None:
        """The functions give the number of queries that wait, of processes that were replaced, and the processes."""
        self._registry = prometheus.CollectorRegistry()
        self._requests = prometheus.Counter(
            "symm_jax_requests", "Requests that were answered.", ("route", "status"), registry=self._registry
        )
        self._seconds = prometheus.Histogram(
            "symm_jax_request_seconds", "Time to answer.", ("route",), registry=self._registry, buckets=_SECONDS
        )
        self._batches = prometheus.Histogram(
            "symm_jax_batch_size", "Queries answered as one batch.", registry=self._registry, buckets=(*SIZES, 64)
        )
        gauges: dict[str, tuple[str, Callable[[], float]]] = {
            "symm_jax_queue_length": ("Queries that wait or are being answered.", waiting),
            "symm_jax_worker_restarts": ("Decoding processes that were replaced.", restarts),
            "symm_jax_workers": ("Decoding processes.", lambda: len(pids())),
            "symm_jax_worker_resident_memory_bytes": (
                "Resident memory of all decoding processes.",
                lambda: sum(map(_resident, pids())),
            ),
        }
        for name, (meaning, value) in gauges.items():
            prometheus.Gauge(name, meaning, registry=self._registry).set_function(value)
        prometheus.ProcessCollector(registry=self._registry)  # process_resident_memory_bytes and others

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Counts a request."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def batch(self, size: int) -> None:
        """Counts a batch."""
        self._batches.observe(size)

    def text(self) -> bytes:
        """All of it."""
        return prometheus.generate_latest(self._registry)


def _resident(pid: int) -> int:
    """The resident memory of a process in bytes; 0 where it has ended or the system has no /proc."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in text.splitlines() if line.startswith("VmRSS:")), 0)
