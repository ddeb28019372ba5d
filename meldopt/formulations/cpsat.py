"""Problem -> CP-SAT, which has no continuous variables, with bounds that hold.

Both models are made from the arrays of `build_milp`, so that every row is there.

*Whole.* If an expert has one copy and nothing but copies answers calls, every share is
0 or 1 and equals its copy: the problem is a 0/1 programme and CP-SAT gets all of it.
The same goes for `roam`.

*Priced.* Otherwise CP-SAT decides on copies alone. Shares enter by prices: for any
non-negative prices of the rows that shares of different calls have in common (links,
processors, budgets, quality, latency, maxima), paying for what is used instead of
keeping the limits bounds the objective from below, and what remains falls apart into
one small problem for each (demand, expert): the cheapest answer that the copies offer.
Those are written down exactly, so one vector of prices bounds all placements at once;
the LP over shares says which prices make it tight at a given one. ``docs/cpsat.md`` has
the proof and the error of rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
from ortools.sat.python import cp_model
from scipy.sparse.csgraph import connected_components

from .integers import ROUNDING, SLACK, common_unit, whole_row
from .milp import TIGHTENINGS, build_milp

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from meldopt.plan import Plan
    from meldopt.problem import Problem

    from .linear import Block
    from .milp import Formulation

TIGHTEN = frozenset(TIGHTENINGS) - {"pruned"}
"""Those rows join copies and shares; prices of rows over shares are what is wanted."""

LIMITS = frozenset({"compute", "link", "budget", "quality", "latency"})
"""Families of rows with a limit, which forgive `integers.SLACK` of it."""

MAXIMA = frozenset({"bottleneck", "mean", "slowest", "used", "sent"})
"""Families of rows that make maxima of shares."""

OBJECTIVE_ROUNDING = 2e-8
"""All rounding of the objective together, relative to its magnitude."""

_LARGEST = 2.0**44
_WIDEST = 2**50


def is_whole(problem: Problem) -> bool:
    """Say whether every share is 0 or 1 and equals its copy."""
    if problem.dataflow == "roam":
        return True
    single = problem.max_copies == 1 or problem.num_servers == 1
    return (
        single
        and not len(problem.similar)
        and not (problem.prune_width > 0).any()
        and not (problem.fuse_width > 0).any()
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Unit:
    """What one integer of the objective stands for.

    ``size`` in the scale of the linear model, ``lost`` what a bound loses to rounding
    to the nearest instead of down.
    """

    size: float
    lost: float = 0.0


def build_cpsat(
    problem: Problem, *, magnitude: float | None = None
) -> WholeModel | PricedModel:
    """Formulate a problem for CP-SAT.

    Parameters
    ----------
    problem
        Of either dataflow; in `roam` with one copy of each expert.
    magnitude
        About the size of the objective, in the scale of the linear model: a bound of
        its relaxation, say. Units are chosen relative to it; the mean cost of all
        columns if none.

    Returns
    -------
    WholeModel or PricedModel
        The second has no prices yet: call `PricedModel.add_prices`.
    """
    form = build_milp(problem, tighten=TIGHTEN)
    return formulate(form, magnitude=magnitude)


def formulate(
    form: Formulation, *, magnitude: float | None = None
) -> WholeModel | PricedModel:
    """Make the CP-SAT model of a formulation; see `build_cpsat`."""
    size = abs(magnitude) if magnitude is not None else 1.0
    if is_whole(form.problem):
        return WholeModel(form, size)
    return PricedModel(form, size)


class _Model:
    """Copies, and the rows over copies."""

    def __init__(self, form: Formulation, magnitude: float) -> None:
        assert form.z is not None
        self.form = form
        self.model = cp_model.CpModel()
        # Far below the costs there is nothing to tell apart.
        cost = np.abs(form.model.objective)
        self.magnitude = max(magnitude, 1e-9 * float(cost.max(initial=0.0)), 1e-200)
        self._var: dict[int, Any] = {}
        self.z = [self.binary(n) for n in form.z.range.tolist()]
        decided = np.zeros(form.model.num_columns, dtype=bool)
        for block in form.model.columns:
            decided[block.range] = block.name in ("z", "y")
        touched = np.repeat(
            np.arange(form.model.num_rows), np.diff(form.model.matrix.indptr)
        )
        rest = ~decided[form.model.matrix.indices]
        self.on_copies = np.ones(form.model.num_rows, dtype=bool)
        self.on_copies[touched[rest]] = False  # these rows have more than copies

    def binary(self, column: int) -> Any:
        """Return the variable of a column whose value is 0 or 1 in a best solution."""
        found = self._var.get(column)
        if found is None:
            model = self.form.model
            low = int(np.ceil(model.col_lower[column] - 1e-9))
            high = int(np.floor(model.col_upper[column] + 1e-9))
            found = self._var[column] = self.model.new_int_var(
                max(low, 0), min(high, 1), ""
            )
        return found

    def columns(self, name: str) -> list[Block]:
        """Return the blocks of columns of one family."""
        return [block for block in self.form.model.columns if block.name == name]

    def row(self, index: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return columns and values of a row."""
        matrix = self.form.model.matrix
        part = slice(matrix.indptr[index], matrix.indptr[index + 1])
        return matrix.indices[part].astype(np.int64), matrix.data[part]

    def add_row(
        self,
        variables: list[Any],
        values: NDArray[np.float64],
        lower: float,
        upper: float,
    ) -> None:
        """Add a row over variables that are 0 or 1."""
        if not len(values):
            if lower > 1e-9 or upper < -1e-9:
                self.model.add_bool_or([])
            return
        above = below = None
        if np.isfinite(upper):
            above = whole_row(values, upper)
        if np.isfinite(lower):
            below = whole_row(-values, -lower)
        if above is not None and below is not None and (above[0] == -below[0]).all():
            self._add(variables, above[0], -below[1], above[1])
            return
        if above is not None:
            self._add(variables, above[0], None, above[1])
        if below is not None:
            self._add(variables, below[0], None, below[1])

    def _add(
        self,
        variables: list[Any],
        whole: NDArray[np.int64],
        lower: int | None,
        upper: int,
    ) -> None:
        expression = cp_model.LinearExpr.weighted_sum(variables, whole.tolist())
        if lower is None:
            self.model.add(expression <= upper)
        else:
            self.model.add_linear_constraint(expression, lower, upper)

    def copy_rows(self) -> None:
        """Add every row over copies (and formats of uniform groups)."""
        model = self.form.model
        for index in np.flatnonzero(self.on_copies).tolist():
            columns, values = self.row(index)
            self.add_row(
                [self.binary(n) for n in columns.tolist()],
                values,
                float(model.row_lower[index]),
                float(model.row_upper[index]),
            )

    def copies(self, z: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the copies of a solution; (C, 3)."""
        return self.form.candidates[z > 0]

    def encode(self, plan: Plan) -> NDArray[np.int64]:
        """Return the copies of a plan as values of ``z``."""
        assert self.form.z is not None
        values: NDArray[np.int64] = np.rint(
            self.form.encode(plan)[self.form.z.range]
        ).astype(np.int64)
        return values

    def hint(self, z: NDArray[np.int64]) -> None:
        """Start the search at given copies."""
        self.model.clear_hints()  # type: ignore[no-untyped-call]
        for variable, value in zip(self.z, z.tolist(), strict=True):
            self.model.add_hint(variable, value)


class WholeModel(_Model):
    """The whole problem as a 0/1 programme; its optimum is the optimum.

    Attributes
    ----------
    unit
        Of the objective of the CP-SAT model.
    """

    def __init__(self, form: Formulation, magnitude: float) -> None:
        super().__init__(form, magnitude)
        model = form.model
        tops = {
            n
            for name in ("max_bottleneck", "max_slowest")
            for block in self.columns(name)
            for n in block.range.tolist()
        }
        if form.problem.dataflow == "home":
            # r <= z and sums of r are one: with a single copy r equals z.
            (block,) = self.columns("r")
            for n, c in zip(block.range.tolist(), block.keys[1].tolist(), strict=True):
                self._var[n] = self.z[c]
        self.copy_rows()
        cost: dict[int, float] = {}
        plain = np.flatnonzero(model.objective)
        plain = plain[~np.isin(plain, list(tops))]
        variables: dict[int, Any] = {}
        for n in plain.tolist():
            variable = self.binary(n)
            variables[variable.index] = variable
            cost[variable.index] = cost.get(variable.index, 0.0) + model.objective[n]
        values = np.array([cost[key] for key in cost], dtype=np.float64)
        self.unit, whole = self._unit(values, bool(tops))
        maxima = self._maxima(tops)
        terms = [variables[key] for key in cost] + maxima
        self.model.minimize(
            cp_model.LinearExpr.weighted_sum(terms, whole.tolist() + [1] * len(maxima))
            if terms
            else 0
        )
        self._other_rows()

    def _unit(
        self, values: NDArray[np.float64], maxima: bool
    ) -> tuple[Unit, NDArray[np.int64]]:
        """Choose the unit of the objective and round the costs."""
        problem = self.form.problem
        common = None if maxima else common_unit(values)
        if common is not None:
            whole = np.rint(values / common)
            lost = float(np.maximum(common * whole - values, 0.0).sum())
            if lost <= OBJECTIVE_ROUNDING * self.magnitude:
                return Unit(size=common, lost=lost), whole.astype(np.int64)
        # So many costs can count at once: one for each expert, pair and maximum.
        count = problem.num_experts * (1 + problem.num_layers) + len(problem.pairs)
        sampled = problem.sample_experts.shape
        count += sampled[0] * sampled[1] * (sampled[2] + 3)
        size = OBJECTIVE_ROUNDING * self.magnitude / max(count, 1)
        size = max(size, float(np.abs(values).max(initial=0.0)) / _LARGEST)
        return Unit(size=size), np.floor(values / size).astype(np.int64)

    def _maxima(self, tops: set[int]) -> list[Any]:
        """Add a variable for each maximum in the objective, and its rows."""
        model = self.form.model
        rows: dict[int, list[tuple[list[Any], NDArray[np.int64]]]] = {
            n: [] for n in tops
        }
        for block in model.rows:
            if block.name not in ("bottleneck", "mean", "slowest"):
                continue
            for index in block.range.tolist():
                columns, values = self.row(index)
                is_top = np.isin(columns, list(tops))
                top = int(columns[is_top][0])
                factor = model.objective[top] / -float(values[is_top][0])
                whole = np.floor(values[~is_top] * factor / self.unit.size)
                rows[top].append(
                    (
                        [self.binary(n) for n in columns[~is_top].tolist()],
                        whole.astype(np.int64),
                    )
                )
        maxima = []
        for n in sorted(tops):
            high = max(int(np.maximum(w, 0).sum()) for _, w in rows[n])
            low = min(int(np.minimum(w, 0).sum()) for _, w in rows[n])
            top_ = self.model.new_int_var(low, high, "")
            for variables, whole in rows[n]:
                self.model.add(
                    cp_model.LinearExpr.weighted_sum(variables, whole.tolist()) <= top_
                )
            maxima.append(top_)
        return maxima

    def _other_rows(self) -> None:
        model = self.form.model
        for block in model.rows:
            if block.name in ("bottleneck", "mean", "slowest"):
                continue
            rows = block.range[~self.on_copies[block.range]]
            for index in rows.tolist():
                columns, values = self.row(index)
                merged: dict[int, float] = {}
                variables: dict[int, Any] = {}
                for n, value in zip(columns.tolist(), values.tolist(), strict=True):
                    variable = self.binary(n)
                    variables[variable.index] = variable
                    merged[variable.index] = merged.get(variable.index, 0.0) + value
                kept = [key for key in variables if merged[key] != 0]
                self.add_row(
                    [variables[key] for key in kept],
                    np.array([merged[key] for key in kept]),
                    float(model.row_lower[index]),
                    float(model.row_upper[index]),
                )

    def bound(self, whole: int) -> float:
        """Turn a bound of CP-SAT into one in the scale of the linear model."""
        bound = whole * self.unit.size - self.unit.lost
        return bound - 1e-12 * abs(bound)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cut:
    """What prices say of any copies.

    Attributes
    ----------
    cost
        Of each option of a call at these prices, (O,).
    owed
        By each component in any case, (K,).
    constant
        What the limits are worth at these prices, negative.
    """

    cost: NDArray[np.float64]
    owed: NDArray[np.float64]
    constant: float


class _Family:
    """Cuts with the same prices of limits.

    Without limits the components are apart: the best prices of each may come from other
    copies, so each has a variable of its own, and ``theta`` is at least their sum.
    """

    def __init__(self, limits: NDArray[np.float64], parts: dict[int, Any]) -> None:
        self.limits = limits
        self.parts = parts  # of the components that have prices beside those of limits
        self.seen: set[bytes] = set()


class PricedModel(_Model):
    """Copies in CP-SAT, shares by prices; ``theta`` is at least every priced bound.

    Attributes
    ----------
    unit
        Of ``theta``.
    theta
        What CP-SAT minimises: a lower bound of the objective of the copies chosen.
    """

    def __init__(self, form: Formulation, magnitude: float) -> None:
        super().__init__(form, magnitude)
        self.copy_rows()
        self._options()
        model = form.model
        self._shared = np.zeros(model.num_rows)
        self._limit = np.zeros(model.num_rows)
        self.is_limit = np.zeros(model.num_rows, dtype=bool)
        for block in model.rows:
            if block.name not in LIMITS | MAXIMA:
                continue  # over copies, or within one call
            self._shared[block.range] = 1.0
            self.is_limit[block.range] = block.name in LIMITS
            upper = model.row_upper[block.range]
            forgiven = SLACK * np.abs(upper) if block.name in LIMITS else 0.0
            self._limit[block.range] = upper + forgiven
        self._components()
        self._answer_rows()
        count = max(self.num_calls, 1)
        size = OBJECTIVE_ROUNDING * self.magnitude / (3 * count + 4)
        size = max(size, float(np.abs(model.objective).max(initial=0.0)) / _LARGEST)
        self.unit = Unit(size=size)
        self.theta = self.model.new_int_var(-_WIDEST, _WIDEST, "theta")
        self.model.minimize(self.theta)
        self.cuts: list[Cut] = []  # of the objective
        self.limits: list[Cut] = []  # of feasibility: must not be positive
        self._families: list[_Family] = []

    # -- options of calls --------------------------------------------------------------
    def _options(self) -> None:
        """List what may answer each (demand, expert): copies, and pruned segments."""
        form = self.form
        model, problem = form.model, form.problem
        blocks = form.blocks
        rq, rc = blocks["r"].keys
        uq, ui, uc = blocks["u"].keys
        dq, di, _ = blocks["d"].keys
        num_n = problem.num_experts
        call = np.concatenate(
            [
                rq * num_n + form.candidates[rc, 0],
                uq * num_n + ui,
                dq * num_n + di,
            ]
        )
        order = np.argsort(call, kind="stable")
        copy = np.concatenate([rc, uc, np.full(len(dq), -1, dtype=np.int64)])
        column = np.concatenate([blocks[name].range for name in ("r", "u", "d")])
        self.option_copy = copy[order]
        self.option_column = column[order]
        self.option_width = model.col_upper[self.option_column]
        calls, self.call_start = np.unique(call[order], return_index=True)
        self.num_calls = len(calls)
        self.call_stop = np.append(self.call_start, len(order))[1:]
        # f <= width * sum of r: what a fused share may add to each served one.
        rows = [n for b in model.rows if b.name == "fuse" for n in b.range.tolist()]
        part = model.matrix[rows].tocoo() if rows else None
        self._fuse_of: NDArray[np.int64] | None = None
        if part is not None:
            f = blocks["f"]
            is_f = (part.col >= f.start) & (part.col < f.stop)
            owner = np.zeros(len(rows), dtype=np.int64)
            owner[part.row[is_f]] = part.col[is_f]
            rest = ~is_f
            self._fuse_of = owner[part.row[rest]]
            self._fuse_to = part.col[rest].astype(np.int64)
            self._fuse_width = -part.data[rest]
        inside = np.zeros(model.num_columns, dtype=bool)
        for name in ("r", "u", "d", "f"):
            inside[blocks[name].range] = True
        assert form.z is not None
        inside[form.z.range] = True
        for block in self.columns("y"):
            inside[block.range] = True
        self._free = np.flatnonzero(~inside)
        self._box()

    def _box(self) -> None:
        """Find finite bounds of the columns that are maxima or helpers of them."""
        model = self.form.model
        low, high = model.col_lower[self._free], model.col_upper[self._free]
        for block in model.columns:
            if not block.name.startswith("max_"):
                continue
            for n in block.range.tolist():
                column = model.matrix.getcol(n).tocoo()
                least, most = np.inf, -np.inf
                for index, value in zip(
                    column.row.tolist(), column.data.tolist(), strict=True
                ):
                    columns, values = self.row(index)
                    rest = columns != n
                    reach = values[rest] * model.col_upper[columns[rest]] / -value
                    least = min(least, float(np.minimum(reach, 0).sum()))
                    most = max(most, float(np.maximum(reach, 0).sum()))
                at = int(np.searchsorted(self._free, n))
                low[at], high[at] = min(least, most), most
        self._free_low, self._free_high = low, high

    def _components(self) -> None:
        """Find what hangs together by rows other than limits: a layer, for maxima."""
        model = self.form.model
        rows = np.flatnonzero((self._shared > 0) & ~self.is_limit)
        part = model.matrix[rows].tocoo()
        # Nodes: columns, then these rows, then calls.
        first_row = model.num_columns
        first_call = first_row + len(rows)
        option_call = np.repeat(
            np.arange(self.num_calls), self.call_stop - self.call_start
        )
        one = [part.col, self.option_column]
        other = [first_row + part.row, first_call + option_call]
        if self._fuse_of is not None:
            one.append(self._fuse_of)
            other.append(self._fuse_to)
        ends = np.concatenate(one), np.concatenate(other)
        num = first_call + self.num_calls
        graph = sp.coo_matrix((np.ones(len(ends[0])), ends), shape=(num, num))
        label = connected_components(graph, directed=False)[1]
        of = np.concatenate([label[first_call:], label[self._free]])
        found, inverse = np.unique(of, return_inverse=True)
        self._call_part = inverse[: self.num_calls]
        self._free_part = inverse[self.num_calls :]
        self._num_parts = len(found)
        self.priced_parts = np.unique(self._free_part)

    def _answer_rows(self) -> None:
        """Ask for a copy that answers each call that cannot be pruned altogether."""
        for start, stop in zip(
            self.call_start.tolist(), self.call_stop.tolist(), strict=True
        ):
            copies = self.option_copy[start:stop]
            pruned = self.option_width[start:stop][copies < 0].sum()
            if pruned < 1 - 1e-9:
                self.model.add_bool_or(
                    [self.z[c] for c in np.unique(copies[copies >= 0]).tolist()]
                )
        called = self._calls_without_option()
        if called:
            self.model.add_bool_or([])

    def _calls_without_option(self) -> bool:
        (rows,) = [b for b in self.form.model.rows if b.name == "share"]
        return bool((np.diff(self.form.model.matrix.indptr)[rows.range] == 0).any())

    # -- prices ------------------------------------------------------------------------
    def cut(self, prices: NDArray[np.float64], *, objective: bool = True) -> Cut:
        """Price the rows that calls share; any non-negative prices are valid.

        Parameters
        ----------
        prices
            Of the rows of the linear model, (m,); those of rows of copies or of single
            calls do not matter.
        objective
            Whether costs count. Without them the bound is one of zero: copies at which
            it is positive have no shares that keep the rows.
        """
        model = self.form.model
        price = np.maximum(prices, 0.0) * self._shared
        cost = model.matrix.T @ price
        if objective:
            cost = cost + model.objective
        free = cost[self._free]
        owed = np.bincount(
            self._free_part,
            weights=np.minimum(free * self._free_low, free * self._free_high),
            minlength=self._num_parts,
        ).astype(np.float64)
        used = price > 0
        paid = price[used] * self._limit[used]
        # Sums of floats are off by far less than this part of their largest terms.
        margin = 1e-13 * float(np.abs(paid).sum() + np.abs(owed).sum())
        if self._fuse_of is not None:
            gain = self._fuse_width * np.minimum(cost[self._fuse_of], 0.0)
            np.add.at(cost, self._fuse_to, gain)
        return Cut(
            cost=cost[self.option_column],
            owed=owed,
            constant=-float(paid.sum()) - margin,
        )

    def value(self, cut: Cut, z: NDArray[np.int64]) -> float:
        """Return what a cut says of given copies; inf if a call has no answer."""
        room = np.where(
            self.option_copy >= 0, z[np.maximum(self.option_copy, 0)], self.option_width
        )
        total = cut.constant + float(cut.owed.sum())
        for start, stop in zip(
            self.call_start.tolist(), self.call_stop.tolist(), strict=True
        ):
            cost, width = cut.cost[start:stop], room[start:stop]
            left = 1.0
            for n in np.argsort(cost, kind="stable").tolist():
                take = min(left, float(width[n]))
                total += take * cost[n]
                left -= take
                if left <= 1e-12:
                    break
            else:
                return float("inf")
        return float(total)

    def limit_prices(self, prices: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the prices of limits only, others zero; (m,)."""
        return np.where(self.is_limit, np.maximum(prices, 0.0), 0.0)

    def add_prices(self, prices: NDArray[np.float64]) -> None:
        """Let prices bound ``theta``."""
        limits = self.limit_prices(prices)
        near = 1e-9 * float(limits.max(initial=0.0))
        family = next(
            (
                one
                for one in self._families
                if (np.abs(one.limits - limits) <= near).all()
            ),
            None,
        )
        if family is not None:
            limits = family.limits
        cut = self.cut(limits + np.where(self.is_limit, 0.0, prices))
        whole = self._whole(cut, self.unit.size)
        if whole is None:
            return
        self.cuts.append(cut)
        cost, owed, constant = whole
        if family is None:
            family = self._new_family(limits, cost, constant)
        for part in self.priced_parts.tolist():
            calls = np.flatnonzero(self._call_part == part)
            key = b"".join(
                cost[self.call_start[n] : self.call_stop[n]].tobytes() for n in calls
            )
            key = int(part).to_bytes(8, "little") + owed[part].tobytes() + key
            if key in family.seen:
                continue
            family.seen.add(key)
            terms = self._terms(cost, calls)
            total = cp_model.LinearExpr.sum(terms) + int(owed[part])
            self.model.add(total <= family.parts[part])

    def _new_family(
        self, limits: NDArray[np.float64], cost: NDArray[np.int64], constant: int
    ) -> _Family:
        parts = {
            part: self.model.new_int_var(-_WIDEST, _WIDEST, "")
            for part in self.priced_parts.tolist()
        }
        family = _Family(limits, parts)
        self._families.append(family)
        plain = np.flatnonzero(~np.isin(self._call_part, self.priced_parts))
        terms = [*parts.values(), *self._terms(cost, plain)]
        self.model.add(cp_model.LinearExpr.sum(terms) + constant <= self.theta)
        return family

    def forbid(self, prices: NDArray[np.float64]) -> None:
        """Forbid copies whose excess over the limits has a positive price."""
        prices = self.limit_prices(prices)
        cut = self.cut(prices, objective=False)
        self.limits.append(cut)
        paid = float((prices * np.abs(self._limit)).sum())
        largest = float(np.abs(cut.cost).max(initial=0.0))
        scale = max(paid, largest * 1e-6, 1e-200)
        unit = ROUNDING * scale / (2 * self.num_calls + 2)
        whole = self._whole(cut, max(unit, largest / _LARGEST))
        if whole is None:
            return
        cost, owed, constant = whole
        terms = self._terms(cost, np.arange(self.num_calls))
        total = cp_model.LinearExpr.sum(terms) + constant + int(owed.sum())
        self.model.add(total <= 0)

    def _whole(
        self, cut: Cut, unit: float
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], int] | None:
        """Round a cut down to integers; None if its numbers are out of proportion."""
        cost = np.floor(np.minimum(cut.cost / unit, _LARGEST))
        owed, constant = np.floor(cut.owed / unit), np.floor(cut.constant / unit)
        largest = max(
            -float(cost.min(initial=0.0)),
            float(np.abs(owed).sum()),
            abs(float(constant)),
        )
        if not largest <= _WIDEST / 8:
            return None
        return cost.astype(np.int64), owed.astype(np.int64), int(constant)

    def _terms(self, cost: NDArray[np.int64], calls: NDArray[np.int64]) -> list[Any]:
        """Return the least costs of answering some calls."""
        terms = []
        for n in calls.tolist():
            part = slice(int(self.call_start[n]), int(self.call_stop[n]))
            term = self._call(
                cost[part], self.option_copy[part], self.option_width[part]
            )
            if term is not None:
                terms.append(term)
        return terms

    def _call(
        self,
        cost: NDArray[np.int64],
        copy: NDArray[np.int64],
        width: NDArray[np.float64],
    ) -> Any:
        """Return the least cost of answering one call, as a variable or a constant.

        A call fills its options in order of cost. By duality the cost is the largest,
        over levels, of ``level - sum of room x (level - cost)`` over cheaper options.
        """
        if not cost.any():
            return None
        order = np.argsort(cost, kind="stable")
        cost, copy, width = cost[order], copy[order], width[order]
        # A copy that answers in several ways does so in its cheapest.
        pruned = copy < 0
        levels = np.unique(cost)
        if len(levels) == 1:
            return int(levels[0])
        least = self.model.new_int_var(int(levels[0]), int(levels[-1]), "")
        for level in levels[1:].tolist():
            cheaper = cost < level
            if width[cheaper & pruned].sum() >= 1 - 1e-12:
                break  # pruned before it comes to this
            saved = level - cost[cheaper]
            mine = pruned[cheaper]
            gone = int(np.ceil((saved[mine] * width[cheaper][mine]).sum()))
            weights: dict[int, int] = {}
            for c, gain in zip(
                copy[cheaper][~mine].tolist(), saved[~mine].tolist(), strict=True
            ):
                weights[c] = weights.get(c, 0) + gain
            expression = cp_model.LinearExpr.weighted_sum(
                [self.z[c] for c in weights], list(weights.values())
            )
            self.model.add(least + expression >= level - gone)
        return least

    # -- search ------------------------------------------------------------------------
    def cut_off(self, value: float) -> int:
        """Ask only for copies whose priced bound is at most ``value``; in units."""
        top = int(np.floor(value / self.unit.size))
        self.model.add(self.theta <= top)
        return top

    def exclude(self, z: NDArray[np.int64]) -> None:
        """Ask for other copies than these."""
        self.model.add_bool_or(
            [
                variable.negated() if value else variable
                for variable, value in zip(self.z, z.tolist(), strict=True)
            ]
        )

    def bound(self, whole: int) -> float:
        """Turn a bound of ``theta`` into one in the scale of the linear model."""
        bound = whole * self.unit.size
        return bound - 1e-12 * abs(bound)
