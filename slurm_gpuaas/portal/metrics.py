"""`gpuaas_portal_*` metrics."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from slurm_gpuaas import __version__

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
METHODS = frozenset({"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"})


class Metrics:
    """One registry a server."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "gpuaas_portal_requests", "Requests answered.", ["method", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "gpuaas_portal_request_seconds",
            "Time from a request's beginning to the end of its answer; streams last as long as they are read.",
            buckets=BUCKETS,
            registry=self._registry,
        )
        self.anchored = Gauge(
            "gpuaas_portal_audit_anchor_timestamp_seconds",
            "When the audit trail was anchored last.",
            registry=self._registry,
        )
        self.mails = Gauge(
            "gpuaas_portal_mails",
            "Mails that no server has taken: waiting for the first try, failing, given up.",
            ["state"],
            registry=self._registry,
        )
        self.mails_sent = Counter(
            "gpuaas_portal_mails_sent", "Mails that the mail server took.", registry=self._registry
        )
        self.mail_failures = Counter(
            "gpuaas_portal_mail_failures",
            "Tries to send that failed: of one mail, or of the whole server.",
            registry=self._registry,
        )
        build = Gauge("gpuaas_portal_build_info", "Version of the portal.", ["version"], registry=self._registry)
        build.labels(__version__).set(1)

    def observe(self, method: str, status: int, seconds: float) -> None:
        # Clients choose the method's text: anything may come, and each would be a series of its own.
        self._requests.labels(method if method in METHODS else "other", f"{status // 100}xx").inc()
        self._seconds.observe(seconds)

    def page(self) -> bytes:
        return generate_latest(self._registry)
