"""A linear model as arrays, with names, and a builder that grows it block by block.

Formulations are written once into these arrays. HiGHS takes them as they are, PuLP
and CP-SAT models are made from them, and so are MPS and LP files.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Block:
    """Columns or rows of one family: a name and the indices of each member."""

    name: str
    start: int
    keys: tuple[NDArray[np.int64], ...]  # one array per axis, equally long

    @property
    def size(self) -> int:
        """Number of members."""
        return len(self.keys[0])

    @property
    def stop(self) -> int:
        """Index after the last member."""
        return self.start + self.size

    @property
    def range(self) -> NDArray[np.int64]:
        """Indices of the members."""
        return np.arange(self.start, self.stop)

    def names(self) -> list[str]:
        """Names such as ``z_3_0_1``, one for each member."""
        columns = [key.tolist() for key in self.keys]
        return [
            "_".join([self.name, *map(str, row)]) for row in zip(*columns, strict=True)
        ]


@dataclass(frozen=True, kw_only=True, eq=False)
class LinearModel:
    """Minimise ``objective @ x`` subject to rows and bounds.

    The objective and the rows are scaled for the engines; ``objective_scale`` times
    the true objective is what the arrays hold, and `true_objective` undoes it.
    """

    objective: NDArray[np.float64]  # (n,)
    matrix: sp.csr_matrix  # (m, n)
    row_lower: NDArray[np.float64]
    row_upper: NDArray[np.float64]
    col_lower: NDArray[np.float64]
    col_upper: NDArray[np.float64]
    integer: NDArray[np.bool_]
    objective_scale: float
    columns: tuple[Block, ...]
    rows: tuple[Block, ...]

    @property
    def num_columns(self) -> int:
        """Number of columns."""
        return len(self.objective)

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        return len(self.row_lower)

    def true_objective(self, scaled: float) -> float:
        """Turn an objective or a bound of the engine into one of the problem."""
        return scaled / self.objective_scale

    @cached_property
    def column_names(self) -> list[str]:
        """Names of all columns."""
        return [name for block in self.columns for name in block.names()]

    @cached_property
    def row_names(self) -> list[str]:
        """Names of all rows."""
        return [name for block in self.rows for name in block.names()]

    def to_pulp(self, name: str = "meldopt") -> tuple[Any, list[Any]]:
        """Make a PuLP problem; returns it and its variables in order of columns."""
        import pulp

        problem = pulp.LpProblem(name, pulp.LpMinimize)
        variables = [
            problem.add_variable(
                label,
                None if low == -np.inf else low,
                None if high == np.inf else high,
                pulp.LpInteger if whole else pulp.LpContinuous,
            )
            for label, low, high, whole in zip(
                self.column_names,
                self.col_lower.tolist(),
                self.col_upper.tolist(),
                self.integer.tolist(),
                strict=True,
            )
        ]
        with warnings.catch_warnings():
            # PuLP 3.3 has no other way to keep columns that stand in no row.
            warnings.simplefilter("ignore", DeprecationWarning)
            problem.addVariables(variables)
        problem.setObjective(
            pulp.LpAffineExpression(
                [
                    (variables[n], float(self.objective[n]))
                    for n in np.flatnonzero(self.objective)
                ]
            )
        )
        matrix = self.matrix
        for m, label in enumerate(self.row_names):
            part = slice(matrix.indptr[m], matrix.indptr[m + 1])
            terms = pulp.LpAffineExpression(
                [
                    (variables[n], value)
                    for n, value in zip(
                        matrix.indices[part].tolist(),
                        matrix.data[part].tolist(),
                        strict=True,
                    )
                ]
            )
            low, high = float(self.row_lower[m]), float(self.row_upper[m])
            if low == high:
                problem.addConstraint(
                    pulp.LpConstraint(terms, pulp.LpConstraintEQ, label, high)
                )
                continue
            if high < np.inf:
                problem.addConstraint(
                    pulp.LpConstraint(terms, pulp.LpConstraintLE, label, high)
                )
            if low > -np.inf:
                tail = "_lower" if high < np.inf else ""
                problem.addConstraint(
                    pulp.LpConstraint(terms, pulp.LpConstraintGE, label + tail, low)
                )
        return problem, variables

    def write(self, path: Path) -> None:
        """Write the model as ``.mps`` or ``.lp``, without solving it.

        Raises
        ------
        FileFormatError
            If the name ends otherwise or the file cannot be written.
        """
        import tempfile
        from pathlib import Path as Path_

        from meldopt.errors import FileFormatError
        from meldopt.files import check_writable, write_bytes

        if path.suffix not in (".mps", ".lp"):
            raise FileFormatError(
                f"{path}: got {path.suffix!r}, expected a name in .mps or .lp"
            )
        check_writable(path)
        problem, _ = self.to_pulp()
        with tempfile.TemporaryDirectory() as folder:
            target = Path_(folder) / f"model{path.suffix}"
            if path.suffix == ".mps":
                problem.writeMPS(str(target))
            else:
                problem.writeLP(str(target), max_length=1000)
            write_bytes(path, target.read_bytes())


class LinearBuilder:
    """Grows a `LinearModel`: columns first, then rows that refer to them."""

    def __init__(self) -> None:
        self.columns: list[Block] = []
        self.rows: list[Block] = []
        self._lower: list[NDArray[np.float64]] = []
        self._upper: list[NDArray[np.float64]] = []
        self._integer: list[NDArray[np.bool_]] = []
        self._cost: list[NDArray[np.float64]] = []
        self._row_lower: list[NDArray[np.float64]] = []
        self._row_upper: list[NDArray[np.float64]] = []
        self._entries: list[
            tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]
        ] = []
        self.num_columns = 0
        self.num_rows = 0

    def add_columns(
        self,
        name: str,
        keys: Sequence[ArrayLike],
        *,
        lower: ArrayLike = 0.0,
        upper: ArrayLike = np.inf,
        cost: ArrayLike = 0.0,
        integer: bool = False,
    ) -> Block:
        """Add a block of columns; ``keys`` are its index arrays."""
        arrays = tuple(np.atleast_1d(np.asarray(key, dtype=np.int64)) for key in keys)
        block = Block(name=name, start=self.num_columns, keys=arrays)
        size = block.size
        for store, value in (
            (self._lower, lower),
            (self._upper, upper),
            (self._cost, cost),
        ):
            store.append(
                np.broadcast_to(np.asarray(value, dtype=np.float64), size).copy()
            )
        self._integer.append(np.full(size, integer))
        self.columns.append(block)
        self.num_columns += size
        return block

    def set_cost(self, block: Block, cost: ArrayLike) -> None:
        """Replace the costs of a block of columns."""
        self._cost[self.columns.index(block)] = np.broadcast_to(
            np.asarray(cost, dtype=np.float64), block.size
        ).copy()

    def add_rows(
        self,
        name: str,
        keys: Sequence[ArrayLike],
        entries: Sequence[tuple[ArrayLike, ArrayLike, ArrayLike]],
        *,
        lower: ArrayLike = -np.inf,
        upper: ArrayLike = np.inf,
        scale: bool = False,
        used: ArrayLike = 0.0,
    ) -> Block:
        """Add a block of rows.

        Parameters
        ----------
        name, keys
            Family and index arrays of the rows.
        entries
            Triples (row within the block, column, value); duplicates add up.
        lower, upper
            Limits of the rows.
        scale
            Divide each row by a hundredth of its limit, so that the tolerance of an
            engine is relative to what the row allows.
        used
            What the rows carry already: it lowers their limits, not their scale.
        """
        arrays = tuple(np.atleast_1d(np.asarray(key, dtype=np.int64)) for key in keys)
        block = Block(name=name, start=self.num_rows, keys=arrays)
        size = block.size
        low = np.broadcast_to(np.asarray(lower, dtype=np.float64), size).copy()
        high = np.broadcast_to(np.asarray(upper, dtype=np.float64), size).copy()
        triples = [
            tuple(
                np.broadcast_arrays(
                    np.asarray(row, dtype=np.int64),
                    np.asarray(column, dtype=np.int64),
                    np.asarray(value, dtype=np.float64),
                )
            )
            for row, column, value in entries
        ]
        factor = np.ones(size)
        if scale:
            limit = np.where(np.isfinite(high), np.abs(high), np.abs(low))
            largest = np.zeros(size)
            for row, _, value in triples:
                np.maximum.at(largest, row, np.abs(value))
            limit = np.where(np.isfinite(limit) & (limit > 0), limit, largest)
            factor = np.where(limit > 0, 100.0 / np.where(limit > 0, limit, 1.0), 1.0)
        for row, column, value in triples:
            self._entries.append(
                (
                    (row + block.start).ravel(),
                    column.ravel().astype(np.int64),
                    (value * factor[row]).ravel(),
                )
            )
        carried = np.asarray(used, dtype=np.float64)
        self._row_lower.append((low - carried) * factor)
        self._row_upper.append((high - carried) * factor)
        self.rows.append(block)
        self.num_rows += size
        return block

    def build(self, *, objective_scale: float | None = None) -> LinearModel:
        """Put the blocks together.

        ``objective_scale`` defaults to what brings the mean cost of a costly column
        to about one: absolute tolerances of engines then mean little.
        """
        cost = _join(self._cost)
        if objective_scale is None:
            used = np.abs(cost[cost != 0])
            objective_scale = float(1.0 / used.mean()) if len(used) else 1.0
        rows, columns, values = (
            np.concatenate([entry[n] for entry in self._entries])
            if self._entries
            else np.zeros(0)
            for n in range(3)
        )
        matrix = sp.csr_matrix(
            (values, (rows.astype(np.int64), columns.astype(np.int64))),
            shape=(self.num_rows, self.num_columns),
        )
        matrix.sum_duplicates()
        matrix.eliminate_zeros()
        return LinearModel(
            objective=cost * objective_scale,
            matrix=matrix,
            row_lower=_join(self._row_lower),
            row_upper=_join(self._row_upper),
            col_lower=_join(self._lower),
            col_upper=_join(self._upper),
            integer=(
                np.concatenate(self._integer) if self._integer else np.zeros(0, bool)
            ),
            objective_scale=objective_scale,
            columns=tuple(self.columns),
            rows=tuple(self.rows),
        )


def _join(parts: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    return np.concatenate(parts) if parts else np.zeros(0)
