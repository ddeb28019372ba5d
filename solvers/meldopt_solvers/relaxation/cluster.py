"""Pricing on the workers of a Dask cluster (extra ``cluster``).

Layers are priced independently, and what is found for one goes to a place of its own.
So chunks of layers go to workers, with the part of the prices that concerns them, and
what comes back is put where the local kernel would have put it: nothing is summed, and
the result does not depend on who computed what, or in which order. Workers run the
same code on the same numbers; where a worker is lost, Dask gives its chunks to others,
and what Dask gives up is priced here.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import uuid
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import meldopt
from meldopt.engines.cluster import connect
from meldopt.errors import SolverError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from meldopt.problem import Problem

    from .kernels import Blocks, Found, PriceTables
    from .pricing import Lagrangian

LOOK_S = 5.0
"""Seconds between looks whether there are workers still, while one waits for them."""

LEAST = 500
"""Blocks below which pricing stays here: sending would take longer."""

CHUNKS = 3
"""Chunks for each thread of a worker, so that all end at about the same time."""

KEPT = 4
"""Problems that a worker remembers."""

LAYERED = ("net", "omega", "drop", "rest", "swift", "lean")
"""Prices with an axis of layers in front."""

WEIGHED = ("timed", "load", "visit")
"""Weights with an axis of experts in front."""

BLOCKED = ("lower", "upper")
"""What is found by block."""

EXPERTS = ("option", "near")
"""What is found by expert; everything else is by layer."""


class Span(NamedTuple):
    """Layers from one to another, and their blocks and experts."""

    layers: tuple[int, int]
    blocks: tuple[int, int]
    experts: tuple[int, int]

    def of_found(self, name: str) -> slice:
        """Return the part of a field of `Found` that the layers own."""
        if name in BLOCKED:
            return slice(*self.blocks)
        return slice(*(self.experts if name in EXPERTS else self.layers))


class Task(NamedTuple):
    """What a worker needs beside the problem."""

    key: str  # of the problem
    version: str
    compiled: bool
    span: Span
    tables: tuple[NDArray[np.float64], ...]  # `PriceTables`, cut to the span
    only: NDArray[np.int64]
    skip: NDArray[np.bool_]


class Cluster:
    """Workers that price the layers of one problem.

    Parameters
    ----------
    client
        Of `connect`.
    problem
        Sent to the workers once.
    compiled
        Whether workers compile the kernels, as the local `Lagrangian` does or not.
    least
        Blocks from which on workers price.
    """

    def __init__(
        self, client: Any, problem: Problem, *, compiled: bool, least: int = LEAST
    ) -> None:
        self.client, self.compiled, self.least = client, compiled, least
        self.version = meldopt.__version__
        self.key = uuid.uuid4().hex
        self.whole = problem
        self.problem = self._send()
        self.lost = False  # no workers are left: everything is priced here
        self.priced = 0  # chunks that workers priced
        self.missed = 0  # chunks that were priced here in their place

    def price(
        self,
        lagrangian: Lagrangian,
        tables: PriceTables,
        blocks: Blocks,
        found: Found,
    ) -> bool:
        """Fill in what the workers find; return False if that is for the caller to do.

        Raises
        ------
        SolverError
            If a worker has another version of meldopt, or fails.
        """
        if self.lost or len(blocks.skip) - int(blocks.skip.sum()) < self.least:
            return False
        threads = self.threads()
        if not threads:
            return False
        spans = cut(lagrangian.problem, blocks, CHUNKS * threads)
        tasks = [self._task(span, tables, blocks) for span in spans]
        missing = []
        for span, parts in zip(spans, self.run(price_span, tasks), strict=True):
            if parts is None:
                missing.append(span)
                continue
            for name, part in zip(found._fields, parts, strict=True):
                getattr(found, name)[span.of_found(name)] = part
        self.priced += len(spans) - len(missing)
        self.missed += len(missing)
        for span in missing:
            layers = np.arange(*span.layers, dtype=np.int64)
            lagrangian.price_layers(tables, blocks, found, layers)
        return True

    def run(self, function: Callable[[Problem, Any], Any], tasks: list[Any]) -> Any:
        """Call a function on workers for each task; None for what Dask gave up.

        Raises
        ------
        SolverError
            If a worker has another version of meldopt, or fails.
        """
        if self.problem.status != "finished":  # all that had it are gone
            self.problem = self._send()
        futures = []
        try:
            for task in tasks:
                futures.append(
                    self.client.submit(function, self.problem, task, pure=False)
                )
            return [self._result(future) for future in futures]
        finally:
            self.client.cancel([each for each in futures if not each.done()])

    def _send(self) -> Any:
        """Send the problem to every worker."""
        try:
            return self.client.scatter(self.whole, broadcast=True, hash=False)
        except (OSError, TimeoutError) as exc:
            raise SolverError(
                "cluster: the workers left before the problem reached them"
            ) from exc

    def threads(self) -> int:
        """Count the threads of workers; without any the cluster is given up."""
        try:
            threads = sum(self.client.nthreads().values())
        except (OSError, TimeoutError, asyncio.CancelledError):
            threads = 0
        self.lost = not threads
        return int(threads)

    def _task(self, span: Span, tables: PriceTables, blocks: Blocks) -> Task:
        layers, experts = slice(*span.layers), slice(*span.experts)
        parts = []
        for name, table in zip(tables._fields, tables, strict=True):
            if name in LAYERED and len(table):
                table = table[layers]
            elif name in WEIGHED and len(table):
                table = table[experts]
            parts.append(table)
        of = slice(*span.blocks)
        return Task(
            key=self.key,
            version=self.version,
            compiled=self.compiled,
            span=span,
            tables=tuple(parts),
            only=blocks.only[of],
            skip=blocks.skip[of],
        )

    def _result(self, future: Any) -> Any:
        """Wait for a result; None if Dask gave it up."""
        from distributed.client import FutureCancelledError
        from distributed.scheduler import KilledWorker, NoWorkerError

        gone = (
            OSError,
            asyncio.CancelledError,
            FutureCancelledError,
            KilledWorker,
            NoWorkerError,
        )
        while not self.lost:
            try:
                return future.result(timeout=LOOK_S)
            except TimeoutError:
                self.threads()
            except gone:
                return None
            except SolverError:
                raise
            except Exception as exc:
                raise SolverError(f"cluster: a worker failed: {exc!r}") from exc
        return None

    def close(self) -> None:
        """Let the workers forget the problem, and leave."""
        self.client.cancel([self.problem])
        self.client.close()


def join(address: str, lagrangian: Lagrangian) -> Cluster:
    """Let the workers at an address price the layers of a Lagrangian."""
    return Cluster(
        connect(address),
        lagrangian.problem,
        compiled=lagrangian.compiled,
        least=LEAST,
    )


def cut(problem: Problem, blocks: Blocks, most: int) -> list[Span]:
    """Divide the layers into at most so many spans of about equal work."""
    work = np.append(0, np.cumsum(~blocks.skip))[blocks.layer_start]
    ends = np.linspace(0.0, work[-1], min(most, problem.num_layers) + 1)
    inner = np.searchsorted(work, ends[1:-1])
    cuts = np.unique(np.concatenate([[0], inner, [problem.num_layers]]))
    return [
        Span(
            (a, b),
            (int(blocks.layer_start[a]), int(blocks.layer_start[b])),
            (int(problem.layer_start[a]), int(problem.layer_start[b])),
        )
        for a, b in itertools.pairwise(cuts.tolist())
    ]


# -- on a worker -----------------------------------------------------------------------

_KEPT: OrderedDict[str, Lagrangian] = OrderedDict()
_LOCK = threading.Lock()


def kept(problem: Problem, key: str, *, compiled: bool) -> Lagrangian:
    """Return the Lagrangian of a problem, made when it is first asked for."""
    from .pricing import Lagrangian

    with _LOCK:
        if key not in _KEPT:
            # Arrays that were sent are writable, those of a problem are not: compiled
            # kernels take these for other types.
            again = problem.replace()
            _KEPT[key] = Lagrangian(again, threads=1, compile_=compiled)
            while len(_KEPT) > KEPT:
                _KEPT.popitem(last=False)
        _KEPT.move_to_end(key)
        return _KEPT[key]


def check_version(expected: str) -> None:
    """Refuse to work for another version of meldopt."""
    if expected != meldopt.__version__:
        raise SolverError(
            f"cluster: got a worker with meldopt {meldopt.__version__}, expected "
            f"{expected} as here"
        )


def price_span(problem: Problem, task: Task) -> tuple[NDArray[Any], ...]:
    """Price some layers; return their part of each field of `Found`."""
    from .kernels import PriceTables

    check_version(task.version)
    lagrangian = kept(problem, task.key, compiled=task.compiled)
    whole, span = lagrangian.blocks, task.span
    tables = []
    for name, table in zip(PriceTables._fields, task.tables, strict=True):
        if name in LAYERED and len(table):
            wide = np.zeros((problem.num_layers, *table.shape[1:]))
            wide[slice(*span.layers)] = table
        elif name in WEIGHED and len(table):
            wide = np.zeros((problem.num_experts, *table.shape[1:]))
            wide[slice(*span.experts)] = table
        else:
            wide = np.array(table)
        tables.append(wide)
    only, skip = whole.only.copy(), np.ones_like(whole.skip)
    only[slice(*span.blocks)], skip[slice(*span.blocks)] = task.only, task.skip
    blocks = whole._replace(only=only, skip=skip)
    found = lagrangian.nothing_found()
    layers = np.arange(*span.layers, dtype=np.int64)
    lagrangian.price_layers(PriceTables(*tables), blocks, found, layers)
    return tuple(
        np.ascontiguousarray(getattr(found, name)[span.of_found(name)])
        for name in found._fields
    )
