"""What a replay means for people: latencies, throughput, loads, losses, energy.

Latencies, throughput and mean loads are those of a window: from the end of the warm-up
to the last arrival. Requests count by their arrival. Bytes, calls, losses and energy
are of the whole run. A number that is not known is None.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from meldopt.score import score

from .event_state import FATES
from .match import trace_problem
from .records import CAUSES
from .steady import GROUP, LEAST_GROUPS, interval, known, mser, sample

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from meldopt.plan import Plan
    from meldopt.problem import Problem
    from meldopt.trace import Trace

    from .analytic import Analytic
    from .backbone import Backbone
    from .match import Match
    from .records import Records


KEPT_UP = 0.9
"""Share of the output that was asked for below which a run is called overloaded."""


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
    than `KEPT_UP` of the output tokens that the window's requests asked for came out in
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


# -- event mode ------------------------------------------------------------------------


def report_events(
    problem: Problem,
    records: Records,
    *,
    warm_up: float | None = None,
    ttft_s: float | None = None,
    tpot_s: float | None = None,
) -> EventReport:
    """Summarise a run of the event mode.

    Parameters
    ----------
    problem
        That was replayed; says budgets and targets.
    records
        From `replay_events`.
    warm_up
        Share of the requests to leave out at the start; by MSER-5 on the times to
        first token if None.
    ttft_s, tpot_s
        Targets of every request. Without either, an application's ``latency_target``
        is its target for the time per output token.

    Raises
    ------
    ValueError
        If the share is not in [0, 1).
    """
    return _Events(problem, records, ttft_s, tpot_s).report(warm_up)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Window:
    """Which part of each bin of time counts, (T,), and how long that is; 0: unknown."""

    part: NDArray[np.float64]
    length_s: float


class _Events:
    """The parts of a report share the window and the targets."""

    def __init__(
        self,
        problem: Problem,
        records: Records,
        ttft_s: float | None,
        tpot_s: float | None,
    ) -> None:
        self.problem, self.records = problem, records
        num_g = problem.num_applications
        own = problem.latency_target
        if ttft_s is not None or tpot_s is not None:
            own = np.full(num_g, np.inf if tpot_s is None else tpot_s)
        self.tpot_target = own
        self.ttft_target = np.full(num_g, np.inf if ttft_s is None else ttft_s)
        self.start, self.stop = 0.0, records.end_s

    def report(self, share: float | None) -> EventReport:
        problem, records = self.problem, self.records
        warm_up = self.cut(share)
        inside = records.arrival_s >= self.start
        bins = self.overlap()
        if not self.kept_up(bins):
            warm_up = msgspec.structs.replace(warm_up, settled=False)
        processors = self.processors(bins)
        links = self.links(bins)
        tokens = int(records.tokens.sum())
        joule = records.energy_joule
        return EventReport(
            requests=records.num_requests,
            tokens=tokens,
            warm_up=warm_up,
            window_s=(self.start, self.stop),
            end_s=records.end_s,
            all=self.group("all", inside, None),
            applications=[
                self.group(name, inside & (records.application == g), g)
                for g, name in enumerate(problem.labels.applications)
            ],
            throughput=self.throughput(bins),
            processors=processors,
            links=links,
            bytes_by_cause=_by_cause(records.link_bytes.sum(axis=0)),
            calls={name: int(records.fate(name).sum()) for name in FATES},
            lost_calls=int(records.lost_calls.sum()),
            energy=Energy(
                experts_joule=float(records.place_joule.sum()),
                backbone_joule=float(records.backbone_joule.sum()),
                links_joule=float(records.link_joule.sum()),
                joule=joule,
                joule_per_token=joule / tokens if tokens else None,
            ),
            steps=records.steps,
            events=records.events,
            fuse_short=records.fuse_short,
            fuse_distance=known(records.fuse_distance),
            over_time=OverTime(
                bin_s=records.bin_s,
                processors=records.processor_utilisation.tolist(),
                links=records.link_utilisation.tolist(),
                prompt_tokens_per_s=(records.bin_tokens[0] / records.bin_s).tolist(),
                output_tokens_per_s=(records.bin_tokens[1] / records.bin_s).tolist(),
            ),
        )

    def cut(self, share: float | None) -> WarmUp:
        """Find the window; says what was left out before it."""
        records = self.records
        size = records.num_requests
        settled = True
        if share is None:
            first = records.ttft_s
            index = np.flatnonzero(np.isfinite(first))
            dropped = mser(first[index])
            rule = "mser-5"
            if dropped:
                settled = dropped // GROUP < len(index) // GROUP // 2
                dropped = int(index[dropped])
            elif len(index) < GROUP * LEAST_GROUPS:
                rule = "none: too few requests"
        else:
            if not 0 <= share < 1:
                raise ValueError(f"warm-up: got {share}, expected 0 to less than 1")
            dropped, rule = int(share * size), f"share {share:g}"
        if size:
            # Requests that came at the same time are all in or all out.
            self.start = float(records.arrival_s[dropped])
            dropped = int((records.arrival_s < self.start).sum())
            last = float(records.arrival_s[-1])
            # If all came at once there is no time of arrivals: take the whole run.
            if last - self.start >= records.bin_s:
                self.stop = last
        return WarmUp(rule=rule, requests=dropped, until_s=self.start, settled=settled)

    def overlap(self) -> _Window:
        """Return which part of each bin of time is in the window."""
        records = self.records
        low = records.bin_start_s
        high = np.minimum(low + records.bin_s, records.end_s)  # the last one is open
        inside = np.minimum(high, self.stop) - np.maximum(low, self.start)
        inside = np.maximum(inside, 0.0)
        whole = np.where(high > low, high - low, 1.0)
        # A window within a bin or two says nothing: who knows when in them it was.
        long = self.stop - self.start >= 2 * records.bin_s or (
            self.start <= low[0] and self.stop >= records.end_s > 0
        )
        return _Window(
            part=inside / whole, length_s=float(inside.sum()) if long else 0.0
        )

    def mean_load(
        self, busy_s: NDArray[np.float64], window: _Window
    ) -> list[float | None]:
        """Return the busy share of each row within the window."""
        if window.length_s <= 0:
            return [None] * len(busy_s)
        shares: list[float | None] = (busy_s @ window.part / window.length_s).tolist()
        return shares

    def kept_up(self, window: _Window) -> bool:
        """Say whether what came out is near what was asked for; True if unknown."""
        records = self.records
        inside = (records.arrival_s >= self.start) & (records.arrival_s < self.stop)
        asked = float(records.output_tokens[inside].sum())
        if window.length_s <= 0 or self.stop >= records.end_s:
            return True
        made = float(records.bin_tokens[1] @ window.part)
        return made >= KEPT_UP * asked

    def group(self, name: str, mine: NDArray[np.bool_], g: int | None) -> GroupReport:
        """Report the requests of a mask; ``g`` is the application of all of them."""
        records, problem = self.records, self.problem
        loss, budget = None, None
        if g is not None:
            loss = known(float(records.quality_loss[g]))
            budget = known(float(problem.quality_budget[g]))
            tokens = int(records.application_tokens[g])
            lost = int(records.lost_calls[records.application == g].sum())
        else:
            tokens = int(records.application_tokens.sum())
            lost = int(records.lost_calls.sum())
            if tokens:
                loss = float(records.loss_nats.sum()) / tokens
        return GroupReport(
            name=name,
            requests=int(mine.sum()),
            unfinished=int((mine & ~records.finished).sum()),
            failed=int((mine & records.failed).sum()),
            ttft_s=Spread.of(records.ttft_s[mine]),
            tpot_s=Spread.of(records.tpot_s[mine]),
            latency_s=Spread.of(records.latency_s[mine]),
            goodput=self.goodput(mine, g),
            tokens=tokens,
            quality_loss=loss,
            quality_budget=budget,
            lost_calls=lost,
        )

    def goodput(self, mine: NDArray[np.bool_], g: int | None) -> Goodput | None:
        """Count the requests within their targets; None without any target."""
        records = self.records
        asked = [g] if g is not None else np.unique(records.application).tolist()
        targets = self.ttft_target[asked], self.tpot_target[asked]
        if not any(np.isfinite(target).any() for target in targets):
            return None
        of = records.application[mine]
        tpot = records.tpot_s[mine]
        good = (
            records.finished[mine]
            & (records.ttft_s[mine] <= self.ttft_target[of])
            & (np.isnan(tpot) | (tpot <= self.tpot_target[of]))
        )
        low, high = interval(good.astype(np.float64))
        length = self.stop - self.start
        made = int(records.output_tokens[mine][good].sum())
        one_ttft, one_tpot = (
            known(float(target[0])) if len(set(target.tolist())) == 1 else None
            for target in targets
        )
        return Goodput(
            ttft_s=one_ttft,
            tpot_s=one_tpot,
            share=float(good.mean()) if len(good) else None,
            low=known(max(low, 0.0)),
            high=known(min(high, 1.0)),
            requests_per_s=int(good.sum()) / length if length > 0 else None,
            output_tokens_per_s=made / length if length > 0 else None,
        )

    def throughput(self, bins: _Window) -> Throughput:
        """Count what came out within the window."""
        records = self.records
        length = self.stop - self.start
        if length <= 0:
            return Throughput(
                requests_per_s=None, prompt_tokens_per_s=None, output_tokens_per_s=None
            )
        ended = records.finish_s
        count = int(((ended >= self.start) & (ended <= self.stop)).sum())
        prompt, output = self.mean_load(records.bin_tokens, bins)
        return Throughput(
            requests_per_s=count / length,
            prompt_tokens_per_s=prompt,
            output_tokens_per_s=output,
        )

    def processors(self, bins: _Window) -> list[ProcessorReport]:
        """Report each processor; places that share one are added up."""
        records, labels = self.records, self.problem.labels
        of = records.processor_of
        size = len(labels.processors)
        expert, backbone, saved, joule = (
            np.bincount(of, weights=values, minlength=size).tolist()
            for values in (
                records.place_busy_s,
                records.backbone_busy_s,
                records.place_saved_s,
                records.place_joule + records.backbone_joule,
            )
        )
        mean = self.mean_load(records.processor_busy_s, bins)
        peak = _peaks(records.processor_utilisation)
        return [
            ProcessorReport(
                name=name,
                server=labels.servers[int(self.problem.processor_server[p])],
                utilisation=mean[p],
                peak=peak[p],
                expert_s=expert[p],
                backbone_s=backbone[p],
                saved_s=saved[p],
                joule=joule[p],
            )
            for p, name in enumerate(labels.processors)
        ]

    def links(self, bins: _Window) -> list[LinkReport]:
        """Report each directed link."""
        records = self.records
        mean = self.mean_load(records.link_busy_s, bins)
        peak = _peaks(records.link_utilisation)
        return [
            LinkReport(
                source=source,
                target=target,
                utilisation=mean[k],
                peak=peak[k],
                busy_s=float(records.link_busy_total_s[k]),
                bytes=float(records.link_bytes[k].sum()),
                bytes_by_cause=_by_cause(records.link_bytes[k]),
                call_bytes=float(records.link_call_bytes[k]),
                saved_bytes=float(records.link_saved_bytes[k]),
                joule=float(records.link_joule[k]),
            )
            for k, (source, target) in enumerate(self.problem.labels.links)
        ]


def _by_cause(values: NDArray[np.float64]) -> dict[str, float]:
    return dict(zip(CAUSES, values.tolist(), strict=True))


def _peaks(load: NDArray[np.float64]) -> list[float | None]:
    if not load.shape[1]:
        return [None] * len(load)
    peaks: list[float | None] = load.max(axis=1).tolist()
    return peaks


# -- analytic mode ---------------------------------------------------------------------


def report_analytic(
    problem: Problem,
    plan: Plan,
    trace: Trace,
    found: Match,
    times: Analytic,
    backbone: Backbone | None = None,
) -> AnalyticReport:
    """Summarise a run of the analytic mode.

    Parameters
    ----------
    problem, plan, trace, found
        As for `replay_analytic`; the trace is streamed once more.
    times
        From `replay_analytic`.
    backbone
        From `backbone_of`; it takes no time if None.
    """
    # Limits of 0 make `score` print every row; whether they hold is not asked here.
    none = np.zeros(problem.num_applications)
    judged = score(
        trace_problem(problem.replace(quality_budget=none), trace, found), plan
    )
    rows = {
        kind: [row.value for row in judged.rows if row.row == kind]
        for kind in ("compute", "link", "quality")
    }
    tokens = np.bincount(times.demand, minlength=problem.num_demands)
    each = _backbone(problem, backbone)
    every = np.arange(problem.num_demands)
    group = _Tokens(times, tokens, np.array(rows["quality"]), each)
    labels = problem.labels
    return AnalyticReport(
        requests=trace.num_requests,
        tokens=times.num_tokens,
        expert_calls=times.num_calls,
        all=group.report("all", every, None),
        applications=[
            group.report(
                name,
                np.flatnonzero(problem.application_of == g),
                known(float(problem.quality_budget[g])),
            )
            for g, name in enumerate(labels.applications)
        ],
        terms=_terms(judged.terms, times),
        processors=[
            Load(
                name=name,
                source=labels.servers[int(problem.processor_server[p])],
                target="",
                utilisation=rows["compute"][p],
                bytes_per_s=None,
            )
            for p, name in enumerate(labels.processors)
        ],
        links=[
            Load(
                name=" -> ".join(link),
                source=link[0],
                target=link[1],
                utilisation=rows["link"][k] / float(problem.link_bandwidth[k]),
                bytes_per_s=rows["link"][k],
            )
            for k, link in enumerate(labels.links)
        ],
    )


def _terms(judged: Mapping[str, float], times: Analytic) -> dict[str, float]:
    """Return the terms of the trace; those of the instance's own sample are not."""
    terms = {name: value for name, value in judged.items() if name != "fluid"}
    if times.num_tokens:
        terms["parallel"] = times.mean("parallel")
    return terms


class _Tokens:
    """Tokens by demand: (Q,) counts, losses and seconds of the backbone."""

    def __init__(
        self,
        times: Analytic,
        tokens: NDArray[np.int64],
        loss: NDArray[np.float64],
        backbone_s: NDArray[np.float64],
    ) -> None:
        self.times, self.tokens = times, tokens
        self.loss, self.backbone_s = loss, backbone_s

    def report(
        self, name: str, demands: NDArray[np.int64], budget: float | None
    ) -> TokenReport:
        """Report the tokens of some demands."""
        times, weight = self.times, self.tokens[demands]
        count = int(weight.sum())
        if len(demands) == len(self.tokens):
            serial, parallel = times.serial_s, times.parallel_s
        else:
            mine = np.isin(times.demand, demands)
            serial, parallel = times.serial_s[mine], times.parallel_s[mine]
        return TokenReport(
            name=name,
            tokens=count,
            serial_s=Spread.of(serial),
            parallel_s=Spread.of(parallel),
            backbone_s=_weighted(self.backbone_s[demands], weight),
            quality_loss=_weighted(self.loss[demands], weight),
            quality_budget=budget,
        )


def _weighted(values: NDArray[np.float64], weight: NDArray[np.int64]) -> float | None:
    total = float(weight.sum())
    return float(values @ weight) / total if total else None


def _backbone(problem: Problem, backbone: Backbone | None) -> NDArray[np.float64]:
    """Return the seconds of the backbone for a token of each demand alone, (Q,)."""
    if backbone is None:
        return np.zeros(problem.num_demands)
    once = backbone.step_s + backbone.token_s
    total: NDArray[np.float64] = once[problem.source].sum(axis=1)
    return total


def to_document(report: Report) -> dict[str, object]:
    """Return the report as what JSON knows: no nan, no infinity."""
    document: dict[str, object] = msgspec.to_builtins(report)
    return document


def busiest(loads: Sequence[ProcessorReport | LinkReport | Load]) -> list[int]:
    """Return the order of processors or links from the busiest on."""
    return sorted(range(len(loads)), key=lambda n: (-(loads[n].utilisation or 0.0), n))
