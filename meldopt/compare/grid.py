"""What is to be run: instances × methods × limits × seeds; what identifies a run."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from meldopt.files import canonical_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from .methods import Method
    from .records import SharesRule


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """An instance that is planned or judged on.

    Attributes
    ----------
    name
        What tables call it.
    digest
        Of the instance; a copy of it is in the folder of the comparison.
    """

    name: str
    digest: str

    @property
    def family(self) -> str:
        """The name before the last ``/``, without the name of another workload."""
        return self.name.partition(" @ ")[0].rpartition("/")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """Where a plan is made, and where it is judged; mostly the same."""

    planned: Subject
    judged: tuple[Subject, ...]


@dataclass(frozen=True, kw_only=True)
class Limit:
    """When a run stops: seconds, deterministic work, or both; None is no limit."""

    time_limit_s: float | None
    work: float | None

    def __str__(self) -> str:
        parts = []
        if self.time_limit_s is not None:
            parts.append(f"time limit {self.time_limit_s:g} s")
        if self.work is not None:
            parts.append(f"work {self.work:g}")
        return ", ".join(parts) or "no limit"


@dataclass(frozen=True, kw_only=True)
class Run:
    """One solve, and the instances that its plan is judged on."""

    trial: Trial
    method: Method
    limit: Limit
    seed: int

    @cached_property
    def solve(self) -> str:
        """What decides the plan, as `RunRecord.solve`."""
        return key_of(
            {
                "instance": self.trial.planned.digest,
                "solver": self.method.solver,
                "options": dict(self.method.options),
                "seed": self.seed,
                "time_limit_s": self.limit.time_limit_s,
                "work": self.limit.work,
            }
        )

    def key(self, judged: Subject, shares: SharesRule) -> str:
        """Identify the judgement of the plan on an instance, as `RunRecord.key`."""
        return key_of({"solve": self.solve, "judged": judged.digest, "shares": shares})

    def rules(self, judged: Subject, *, reroute: bool) -> tuple[SharesRule, ...]:
        """Return where the shares come from when the plan is judged on an instance."""
        if judged.digest == self.trial.planned.digest:
            return ("own",)
        return ("default", "best") if reroute else ("default",)


def key_of(identity: Mapping[str, Any]) -> str:
    """Return ``sha256:`` of the canonical JSON."""
    return f"sha256:{hashlib.sha256(canonical_json(identity)).hexdigest()}"


def grid(
    trials: Iterable[Trial],
    methods: Sequence[Method],
    limits: Sequence[Limit],
    seeds: Sequence[int],
) -> list[Run]:
    """Return all runs; whole rounds of instances and methods come early.

    A comparison that is stopped half-way then has every method on every instance, with
    fewer seeds. What stands twice is run once.
    """
    runs: dict[str, Run] = {}
    trials = list(trials)
    for seed, limit, trial, method in itertools.product(seeds, limits, trials, methods):
        run = Run(trial=trial, method=method, limit=limit, seed=seed)
        twin = runs.get(run.solve)
        if twin is not None:  # one plan, judged on the instances of both
            judged = dict.fromkeys([*twin.trial.judged, *trial.judged])
            both = Trial(planned=trial.planned, judged=tuple(judged))
            run = Run(trial=both, method=twin.method, limit=limit, seed=seed)
        runs[run.solve] = run
    return list(runs.values())
