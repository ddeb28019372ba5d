"""What happens while a trace is replayed: bandwidths change, servers fail, users move.

A scenario is a small JSON file, read strictly. It changes neither the plan nor the
trace: requests come when the trace says, and the plan answers them as it can.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, dataclass_transform

import msgspec
import numpy as np

from meldopt.errors import FileFormatError
from meldopt.files import FORMAT_VERSION, decode, read_bytes
from meldopt.units import parse_quantity

from .event_state import FAILURE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from meldopt.problem import Problem

Quantity = float | str

_GOLDEN = (5**0.5 - 1) / 2


@dataclass_transform(
    frozen_default=True, kw_only_default=True, field_specifiers=(msgspec.field,)
)
class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of everything in a scenario."""


class BandwidthChange(
    _File, kw_only=True, omit_defaults=True, rename={"from_": "from"}
):
    """Bandwidth of a link from given times on; before the first it is the instance's.

    ``between`` stands for both directions. With ``repeat`` the table starts again
    after so much time.
    """

    between: tuple[str, str] | None = None
    from_: str | None = None
    to: str | None = None
    times: list[Quantity]
    bandwidth: list[Quantity]
    repeat: Quantity | None = None


class Failure(_File, kw_only=True, omit_defaults=True):
    """A server that fails, and returns unless ``until`` is left out."""

    server: str
    at: Quantity
    until: Quantity | None = None


class Drift(_File, kw_only=True):
    """From ``at`` on, requests are of these applications in these proportions."""

    at: Quantity
    mix: dict[str, float]


class Move(_File, kw_only=True, omit_defaults=True, rename={"from_": "from"}):
    """From ``at`` on, a share of the requests of one home enters at another."""

    at: Quantity
    from_: str
    to: str
    application: str | None = None
    share: float = 1.0


class Scenario(_File, kw_only=True):
    """The JSON document of a scenario."""

    format_version: int = FORMAT_VERSION
    about: dict[str, Any] = {}
    bandwidth: list[BandwidthChange] = []
    failures: list[Failure] = []
    drift: list[Drift] = []
    moves: list[Move] = []


def read_scenario(path: str | Path) -> Scenario:
    """Read a scenario file strictly.

    Raises
    ------
    FileFormatError
        If it is missing, malformed, or newer than this release.
    """
    path = Path(path)
    return decode(read_bytes(path), Scenario, str(path))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Course:
    """A scenario indexed by a problem.

    Attributes
    ----------
    problem
        With a demand of rate 0 for each pair of application and home that only the
        scenario makes.
    demand
        Of each request, (R,).
    body
        Request of the trace whose tokens and lengths each arrival has, (R,).
    failures
        Sorted by time; records of server, start and end.
    table_time, table_rate
        Tables of bandwidths, s and bytes/s, one after the other.
    table_of
        First entry, number of entries and period of the table of each link, (K, 3).
    """

    problem: Problem
    demand: NDArray[np.int64]
    body: NDArray[np.int64]
    failures: NDArray[np.void]
    table_time: NDArray[np.float64]
    table_rate: NDArray[np.float64]
    table_of: NDArray[np.float64]


def course_of(
    scenario: Scenario,
    problem: Problem,
    arrival_s: NDArray[np.float64],
    demand: NDArray[np.int64],
    *,
    source: str = "scenario",
) -> Course:
    """Index a scenario.

    Parameters
    ----------
    scenario, problem
        Names of the one are looked up in the other.
    arrival_s, demand
        Of the requests of a trace, (R,).
    source
        Starts every message.

    Raises
    ------
    FileFormatError
        In one line, if the scenario makes no sense with this problem.
    """
    return _Index(scenario, problem, source).course(arrival_s, demand)


class _Index:
    """Look-ups that fail in one line."""

    def __init__(self, scenario: Scenario, problem: Problem, source: str) -> None:
        self.scenario, self.problem, self.source = scenario, problem, source

    def fail(self, where: str, message: str) -> NoReturn:
        raise FileFormatError(f"{self.source}: $.{where}: {message}")

    def number(self, value: Quantity, unit: str, where: str) -> float:
        try:
            number = parse_quantity(value, unit)
        except ValueError as exc:
            self.fail(where, str(exc))
        if number < 0:
            self.fail(where, f"got {value!r}, expected 0 or more")
        return number

    def server(self, name: str, where: str) -> int:
        names = self.problem.labels.servers
        if name not in names:
            self.fail(where, f"got {name!r}, expected a server: {', '.join(names)}")
        return names.index(name)

    def application(self, name: str, where: str) -> int:
        names = self.problem.labels.applications
        if name not in names:
            self.fail(where, f"got {name!r}, expected one of {', '.join(names)}")
        return names.index(name)

    def course(
        self, arrival_s: NDArray[np.float64], demand: NDArray[np.int64]
    ) -> Course:
        time, rate, of = self.tables()
        failures = self.failures()
        body = np.arange(len(demand), dtype=np.int64)
        application = self.problem.application_of[demand]
        home = self.problem.home_of[demand]
        if self.scenario.drift:
            application, body = self.drifted(arrival_s, application)
        home = self.moved(arrival_s, application, home)
        problem, demand = self.demands(application, home)
        return Course(
            problem=problem,
            demand=demand,
            body=body,
            failures=failures,
            table_time=time,
            table_rate=rate,
            table_of=of,
        )

    def tables(
        self,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Return the tables of bandwidths, and which each link has."""
        links = {name: k for k, name in enumerate(self.problem.labels.links)}
        of = np.zeros((len(links), 3))
        times: list[float] = []
        rates: list[float] = []
        for n, change in enumerate(self.scenario.bandwidth):
            where = f"bandwidth[{n}]"
            if change.between is not None and change.from_ is None and not change.to:
                ends = [change.between, change.between[::-1]]
            elif change.between is None and change.from_ and change.to:
                ends = [(change.from_, change.to)]
            else:
                self.fail(where, "got no link, expected either between, or from and to")
            own = [
                self.number(t, "s", f"{where}.times[{m}]")
                for m, t in enumerate(change.times)
            ]
            new = [
                self.number(b, "bytes/s", f"{where}.bandwidth[{m}]")
                for m, b in enumerate(change.bandwidth)
            ]
            if not own or len(own) != len(new):
                self.fail(
                    where,
                    f"got {len(own)} times and {len(new)} bandwidths, expected as many "
                    "of both, at least one",
                )
            for one, other in pairwise(own):
                if not one < other:
                    self.fail(f"{where}.times", f"got {other} after {one}, expected >")
            period = 0.0
            if change.repeat is not None:
                period = self.number(change.repeat, "s", f"{where}.repeat")
                if period <= own[-1] or own[0] > 0:
                    self.fail(
                        f"{where}.repeat",
                        f"got {period}, expected more than the last time, and a first "
                        "time of 0",
                    )
            if (max(new) if period else new[-1]) <= 0:
                self.fail(f"{where}.bandwidth", "got 0 for ever, expected more")
            for pair in ends:
                k = links.get(pair)
                if k is None:
                    self.fail(where, f"got {' -> '.join(pair)}, expected a link")
                if of[k, 1]:
                    self.fail(where, f"got {' -> '.join(pair)} twice, expected it once")
                of[k] = len(times), len(own), period
            times += own
            rates += new
        return np.array(times), np.array(rates), of

    def failures(self) -> NDArray[np.void]:
        """Return the failures, sorted by time."""
        rows = []
        for n, failure in enumerate(self.scenario.failures):
            where = f"failures[{n}]"
            s = self.server(failure.server, f"{where}.server")
            at = self.number(failure.at, "s", f"{where}.at")
            until = np.inf
            if failure.until is not None:
                until = self.number(failure.until, "s", f"{where}.until")
            if until <= at:
                self.fail(
                    f"{where}.until",
                    f"got {until}, expected later than {at}, the start",
                )
            hosted = self.problem.source != self.problem.home_of[:, None]
            if (self.problem.source[hosted] == s).any():
                self.fail(
                    f"{where}.server",
                    f"got {failure.server!r}, a host of layers, expected another: "
                    "failing hosts are not simulated",
                )
            rows.append((s, at, until))
        rows.sort(key=lambda row: (row[1], row[0]))
        for s in {row[0] for row in rows}:
            for one, other in pairwise(row for row in rows if row[0] == s):
                if other[1] < one[2]:
                    self.fail(
                        "failures",
                        f"got {self.problem.labels.servers[s]!r} failing at "
                        f"{other[1]} s, expected it to be back by then",
                    )
        return np.array(rows, dtype=FAILURE)

    def drifted(
        self, arrival_s: NDArray[np.float64], application: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Deal applications to arrivals anew; their requests are taken in order."""
        wanted = application.copy()
        body = np.arange(len(application), dtype=np.int64)
        starts = [
            self.number(drift.at, "s", f"drift[{n}].at")
            for n, drift in enumerate(self.scenario.drift)
        ]
        for one, other in pairwise(starts):
            if not one < other:
                self.fail("drift", f"got {other} s after {one} s, expected >")
        pools = {
            int(g): np.flatnonzero(application == g) for g in np.unique(application)
        }
        taken = dict.fromkeys(pools, 0)
        for n, drift in enumerate(self.scenario.drift):
            last = n + 1 == len(starts)
            inside = (arrival_s >= starts[n]) & (last or arrival_s < starts[n + 1])
            names = sorted(drift.mix)
            apps = [self.application(name, f"drift[{n}].mix") for name in names]
            weight = np.array([drift.mix[name] for name in names])
            if not len(weight) or not (weight >= 0).all() or not weight.sum() > 0:
                self.fail(f"drift[{n}].mix", "got no weights, expected some above 0")
            for g, name, w in zip(apps, names, weight.tolist(), strict=True):
                if w > 0 and g not in pools:
                    self.fail(
                        f"drift[{n}].mix", f"got {name!r}, of which the trace has none"
                    )
            mine = np.flatnonzero(inside)
            draw = np.mod((np.arange(len(mine)) + 0.5) * _GOLDEN, 1.0)
            edge = np.cumsum(weight / weight.sum())
            pick = np.minimum(np.searchsorted(edge, draw, "right"), len(apps) - 1)
            wanted[mine] = np.array(apps)[pick]
        start = starts[0] if starts else np.inf
        for g in np.unique(wanted[arrival_s >= start]).tolist():
            mine = np.flatnonzero((wanted == g) & (arrival_s >= start))
            pool = pools[g]
            taken[g] = int((arrival_s[pool] < start).sum())
            body[mine] = pool[(taken[g] + np.arange(len(mine))) % len(pool)]
        return wanted, body

    def moved(
        self,
        arrival_s: NDArray[np.float64],
        application: NDArray[np.int64],
        home: NDArray[np.int64],
    ) -> NDArray[np.int64]:
        """Return the home of each request after the moves, in their order."""
        home = home.copy()
        for n, move in enumerate(self.scenario.moves):
            where = f"moves[{n}]"
            mine = arrival_s >= self.number(move.at, "s", f"{where}.at")
            mine &= home == self.server(move.from_, f"{where}.from")
            target = self.server(move.to, f"{where}.to")
            if move.application is not None:
                g = self.application(move.application, f"{where}.application")
                mine &= application == g
            if not 0 <= move.share <= 1:
                self.fail(f"{where}.share", f"got {move.share}, expected 0 to 1")
            index = np.flatnonzero(mine)
            # Whole steps of a sum of shares: as many as the share says, evenly.
            steps = np.floor((np.arange(len(index) + 1)) * move.share + 1e-9)
            home[index[np.diff(steps) > 0]] = target
        return home

    def demands(
        self, application: NDArray[np.int64], home: NDArray[np.int64]
    ) -> tuple[Problem, NDArray[np.int64]]:
        """Return the demand of each request, and a problem that has all of them."""
        problem = self.problem
        num_s = problem.num_servers
        known = {
            int(g) * num_s + int(h): q
            for q, (g, h) in reversed(
                list(
                    enumerate(zip(problem.application_of, problem.home_of, strict=True))
                )
            )
        }
        key = application * num_s + home
        new = [k for k in np.unique(key).tolist() if k not in known]
        for k in new:
            known[k] = problem.num_demands + new.index(k)
        demand = np.array([known[k] for k in key.tolist()], dtype=np.int64)
        if not new:
            return problem, demand
        return self.extended([divmod(k, num_s) for k in new]), demand

    def extended(self, pairs: list[tuple[int, int]]) -> Problem:
        """Return the problem with more demands, of rate 0."""
        problem = self.problem
        labels = problem.labels
        hosted = (problem.source != problem.home_of[:, None]).any()
        returns = (problem.sink[:, -1] == problem.home_of).all()
        source, sink = [problem.source], [problem.sink]
        for g, h in pairs:
            if not problem.trusted[g, h]:
                self.fail(
                    "moves",
                    f"got {labels.servers[h]!r} as a home of "
                    f"{labels.applications[g]!r}, which does not trust it",
                )
            own = np.full((1, problem.num_layers), h, dtype=np.int64)
            there, back = own, own.copy()
            if hosted:
                there, back = problem.source[:1], problem.sink[:1].copy()
                if returns:
                    back[0, -1] = h
            source.append(there)
            sink.append(back)
        names = [(labels.applications[g], labels.servers[h]) for g, h in pairs]
        return problem.replace(
            labels=replace(labels, demands=(*labels.demands, *names)),
            rate=np.append(problem.rate, np.zeros(len(pairs))),
            application_of=np.append(problem.application_of, [g for g, _ in pairs]),
            home_of=np.append(problem.home_of, [h for _, h in pairs]),
            source=np.concatenate(source),
            sink=np.concatenate(sink),
        )
