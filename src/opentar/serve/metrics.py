"""What the service counts, for Prometheus. Names of models come from the command line, never from a request."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)


class Metrics:
    """Counters of one service, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.ended = Counter(
            "opentar_answers", "Answers that ended, by model, kind and how.", ("model", "kind", "how"),
            registry=self.registry,
        )  # fmt: skip
        self.tokens = Counter(
            "opentar_tokens", "Tokens: read (prompt), said (text) and drawn (codes).", ("model", "kind"),
            registry=self.registry,
        )  # fmt: skip
        self.cut_texts = Counter(
            "opentar_cut_texts", "Texts that a model did not end itself: cut at their limit.", ("model",),
            registry=self.registry,
        )  # fmt: skip
        self.refused = Counter(
            "opentar_refusals", "Requests that were not taken on, by reason.", ("reason",), registry=self.registry
        )
        self.failures = Counter(
            "opentar_failures", "Faults of engines and de-tokenizers, by kind.", ("kind",), registry=self.registry
        )
        self.first = Histogram(
            "opentar_first_seconds", "Seconds to the first token, code, preview or picture.", ("what",),
            buckets=_SECONDS, registry=self.registry,
        )  # fmt: skip
        self.seconds = Histogram(
            "opentar_request_seconds", "Seconds of whole requests, waiting included.", ("model",),
            buckets=_SECONDS, registry=self.registry,
        )  # fmt: skip
        self.responses = Counter(
            "opentar_http_responses", "Responses by route and status.", ("route", "status"), registry=self.registry
        )

    def watch(self, name: str, text: str, value: Callable[[], float]) -> None:
        """A number that is asked for when the metrics are read."""
        Gauge(name, text, registry=self.registry).set_function(value)

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self.registry)
