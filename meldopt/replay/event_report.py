"""From the records of the event mode to a report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from .event_state import FATES
from .records import CAUSES
from .report import (
    Energy,
    EventReport,
    Goodput,
    GroupReport,
    LinkReport,
    OverTime,
    ProcessorReport,
    Spread,
    Throughput,
    WarmUp,
)
from .steady import GROUP, LEAST_GROUPS, interval, known, mser

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from meldopt.problem import Problem

    from .records import Records

KEPT_UP = 0.9
"""Share of the output that was asked for below which a run is called overloaded."""


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
