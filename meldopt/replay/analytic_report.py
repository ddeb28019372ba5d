"""From the times of the analytic mode to a report."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from meldopt.score import score

from .match import trace_problem
from .report import AnalyticReport, Load, Spread, TokenReport
from .steady import known

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from meldopt.plan import Plan
    from meldopt.problem import Problem
    from meldopt.trace import Trace

    from .analytic import Analytic
    from .backbone import Backbone
    from .match import Match


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
