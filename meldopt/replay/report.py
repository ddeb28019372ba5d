"""What a replay means for people: latencies, throughput, loads, losses, energy.

Latencies, throughput and mean loads are those of a window: from the end of the warm-up
to the last arrival. Requests count by their arrival. Bytes, calls, losses and energy
are of the whole run. A number that is not known is None.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from .steady import known, sample

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """Distribution of a time in seconds.

    ``low`` and ``high`` are the 95 % interval of the mean by batch means, None if there
    are fewer than 25 values.
    """

    count: int
    mean: float | None
    low: float | None
    high: float | None
    p50: float | None
    p95: float | None
    p99: float | None

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> Spread:
        """Summarise values in order of arrival; what is not finite does not count."""
        found = sample(values)
        p50, p95, p99 = map(known, found.quantiles)
        return cls(
            count=found.count,
            mean=known(found.mean),
            low=known(found.low),
            high=known(found.high),
            p50=p50,
            p95=p95,
            p99=p99,
        )


class Goodput(msgspec.Struct, frozen=True, kw_only=True):
    """Requests of the window that finished within their targets.

    Attributes
    ----------
    ttft_s, tpot_s
        The targets; None: that time is free. Of ``all``, None where applications
        differ.
    share
        Of the requests that came, with its 95 % interval.
    requests_per_s, output_tokens_per_s
        Of those requests, per second of the window.
    """

    ttft_s: float | None
    tpot_s: float | None
    share: float | None
    low: float | None
    high: float | None
    requests_per_s: float | None
    output_tokens_per_s: float | None


class GroupReport(msgspec.Struct, frozen=True, kw_only=True):
    """What one application saw, or all of them.

    Attributes
    ----------
    requests, unfinished, failed
        Of the window; those without an end, and among them those lost with their home.
    ttft_s, tpot_s, latency_s
        Time to first token, mean time per output token after it, time to the end.
    goodput
        None if no target was set.
    tokens, quality_loss, quality_budget, lost_calls
        Of the whole run: prompt and output tokens; estimated nats per token, and what
        the instance allows (None: no limit); calls that nobody answered.
    """

    name: str
    requests: int
    unfinished: int
    failed: int
    ttft_s: Spread
    tpot_s: Spread
    latency_s: Spread
    goodput: Goodput | None
    tokens: int
    quality_loss: float | None
    quality_budget: float | None
    lost_calls: int


class WarmUp(msgspec.Struct, frozen=True, kw_only=True):
    """What was cut at the start.

    ``settled`` is False if the rule wanted to cut half of the run or more, or if less
    than 90 % of the output tokens that the window's requests asked for came out in
    it: the run is too short, or overloaded, and its means are of no steady state.
    """

    rule: str
    requests: int
    until_s: float
    settled: bool


class Throughput(msgspec.Struct, frozen=True, kw_only=True):
    """Per second of the window."""

    requests_per_s: float | None
    prompt_tokens_per_s: float | None
    output_tokens_per_s: float | None


class ProcessorReport(msgspec.Struct, frozen=True, kw_only=True):
    """Load of a processor of a server.

    ``utilisation`` is the mean of the window, ``peak`` the busiest bin of time of the
    run. ``saved_s`` is arithmetic of fused calls within ``expert_s`` that an engine
    which computes them once would not spend.
    """

    name: str
    server: str
    utilisation: float | None
    peak: float | None
    expert_s: float
    backbone_s: float
    saved_s: float
    joule: float


class LinkReport(msgspec.Struct, frozen=True, kw_only=True):
    """Load of a directed link.

    ``bytes_by_cause`` adds up to ``bytes``: a token goes once to a server, whatever it
    calls there. ``call_bytes`` is one transfer for each call, as `score` counts.
    ``saved_bytes`` is what fusion kept off the link.
    """

    source: str
    target: str
    utilisation: float | None
    peak: float | None
    busy_s: float
    bytes: float
    bytes_by_cause: dict[str, float]
    call_bytes: float
    saved_bytes: float
    joule: float


class Energy(msgspec.Struct, frozen=True, kw_only=True):
    """Joules of busy processors and of bytes on links, in the whole run."""

    experts_joule: float
    backbone_joule: float
    links_joule: float
    joule: float
    joule_per_token: float | None


class OverTime(msgspec.Struct, frozen=True, kw_only=True):
    """Load by bin of time; processors and links in the order of the report."""

    bin_s: float
    processors: list[list[float]]
    links: list[list[float]]
    prompt_tokens_per_s: list[float]
    output_tokens_per_s: list[float]


class EventReport(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="mode", tag="events"
):
    """A run of the event mode.

    Attributes
    ----------
    window_s
        Start and end of the window.
    end_s
        When the last event was.
    calls
        By fate; they add up to all expert calls. ``served`` is without ``fused``.
    bytes_by_cause
        Summed over links.
    fuse_short, fuse_distance
        Calls that the budgets would fuse but that had no partner, and the mean
        distance in bits of the signatures of those that had one.
    """

    requests: int
    tokens: int
    warm_up: WarmUp
    window_s: tuple[float, float]
    end_s: float
    all: GroupReport
    applications: list[GroupReport]
    throughput: Throughput
    processors: list[ProcessorReport]
    links: list[LinkReport]
    bytes_by_cause: dict[str, float]
    calls: dict[str, int]
    lost_calls: int
    energy: Energy
    steps: int
    events: int
    fuse_short: int
    fuse_distance: float | None
    over_time: OverTime


class TokenReport(msgspec.Struct, frozen=True, kw_only=True):
    """What the tokens of one application, or of all, would take without contention.

    ``backbone_s`` is what the home adds to each of them. Quality as in `GroupReport`.
    """

    name: str
    tokens: int
    serial_s: Spread
    parallel_s: Spread
    backbone_s: float | None
    quality_loss: float | None
    quality_budget: float | None


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """Load of a processor or link at the rates of the instance."""

    name: str
    source: str
    target: str
    utilisation: float
    bytes_per_s: float | None


class AnalyticReport(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="mode", tag="analytic"
):
    """A run of the analytic mode.

    ``terms`` and loads are what `score` says of the plan at the trace's own statistics
    and the rates of the instance; ``parallel`` is the mean over the trace.
    """

    requests: int
    tokens: int
    expert_calls: int
    all: TokenReport
    applications: list[TokenReport]
    terms: dict[str, float]
    processors: list[Load]
    links: list[Load]


Report = EventReport | AnalyticReport


def to_document(report: Report) -> dict[str, object]:
    """Return the report as what JSON knows: no nan, no infinity."""
    document: dict[str, object] = msgspec.to_builtins(report)
    return document


def busiest(loads: Sequence[ProcessorReport | LinkReport | Load]) -> list[int]:
    """Return the order of processors or links from the busiest on."""
    return sorted(range(len(loads)), key=lambda n: (-(loads[n].utilisation or 0.0), n))
