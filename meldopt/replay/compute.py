"""Seconds that a server needs for a batch of expert calls.

    read    = experts touched · bytes of an expert · s_per_byte
    compute = calls · FLOP of a call · s_per_flop
    time    = max(read, compute) + exposed · min(read, compute)
              + calls · s_per_call + overhead_s

A batch is what one place runs in one layer and one format in one step: each expert's
weights are read once, however many calls share them. The neutral model has exposed 1
and no overhead: read + compute, which is what `Problem.work_s` says of a single call.
A fitted one takes efficiencies, overlap and overhead of the catalogue.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numba.extending import register_jitable

from meldopt.catalogue.compute import NEUTRAL, class_named, compute_facts
from meldopt.errors import InstanceError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from meldopt.problem import Problem

KINDS = ("neutral", "fallback", "fitted")
"""Where the numbers of a place and format are from; `ComputeModel.kind` counts here."""

S_PER_BYTE, S_PER_FLOP, EXPOSED, OVERHEAD_S, S_PER_CALL = range(5)
"""Columns of a row of `ComputeModel.table`."""


def batch_time(
    row: NDArray[np.float64],
    calls: float,
    touched: float,
    flop: float,
    size_bytes: float,
) -> float:
    """Return the seconds of one batch; a Python function that kernels may call too.

    Parameters
    ----------
    row
        Of `ComputeModel.table`, for the place and the format; shape (5,).
    calls, touched
        Calls in the batch, and different experts among them.
    flop, size_bytes
        FLOP of one call, and bytes of the weights of one expert.
    """
    if calls <= 0:
        return 0.0
    compute = calls * flop * row[S_PER_FLOP]
    read = touched * size_bytes * row[S_PER_BYTE]
    longer = compute if compute >= read else read
    shorter = read if compute >= read else compute
    time: float = (
        longer + row[EXPOSED] * shorter + calls * row[S_PER_CALL] + row[OVERHEAD_S]
    )
    return time


# From here on kernels may call it; Python sees the function above.
_jitable: Any = register_jitable
_jitable(batch_time)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ComputeModel:
    """What `batch_time` needs, for each place and format; arrays of shape (V, B).

    Attributes
    ----------
    s_per_byte, s_per_flop
        1 ÷ rate reached; inf where the place cannot run the format.
    exposed
        Share of the shorter of reading and computing that is not hidden, 0 to 1.
    overhead_s
        Of a batch.
    s_per_call
        Of a call, beside its arithmetic: its hidden state goes through memory.
    kind
        Index into `KINDS`.
    """

    s_per_byte: NDArray[np.float64]
    s_per_flop: NDArray[np.float64]
    exposed: NDArray[np.float64]
    overhead_s: NDArray[np.float64]
    s_per_call: NDArray[np.float64]
    kind: NDArray[np.int64]

    def __post_init__(self) -> None:
        for name in self.__slots__:
            array = getattr(self, name).copy()
            if array.shape != self.kind.shape:
                raise ValueError(
                    f"{name}: got shape {array.shape}, expected {self.kind.shape}"
                )
            if not (array >= 0).all():
                raise ValueError(f"{name}: got {array.min()}, expected >= 0")
            array.setflags(write=False)
            object.__setattr__(self, name, array)

    @property
    def table(self) -> NDArray[np.float64]:
        """All numbers in one array for kernels, (V, B, 5); made at each access."""
        columns = (
            self.s_per_byte,
            self.s_per_flop,
            self.exposed,
            self.overhead_s,
            self.s_per_call,
        )
        return np.ascontiguousarray(np.stack(columns, axis=-1))

    @classmethod
    def neutral(cls, problem: Problem, *, reuse: float = 1.0) -> ComputeModel:
        """Return the model of the problem's own rates.

        Parameters
        ----------
        problem
            Its ``s_per_byte`` is 1 ÷ (read rate · reuse).
        reuse
            What the instance says in ``limits.reuse``. Whoever counts itself how many
            calls share one reading must give it, so that it is not counted twice.
        """
        return cls.fitted(problem, [None] * problem.num_servers, reuse=reuse)

    @classmethod
    def fitted(
        cls, problem: Problem, devices: Sequence[str | None], *, reuse: float = 1.0
    ) -> ComputeModel:
        """Return the model with the catalogue's efficiencies on the problem's rates.

        Parameters
        ----------
        problem
            Its rates are taken for peak rates.
        devices
            Catalogue name of the device of each server, or none: the rates of such a
            server were written by hand, and are taken as they are.
        reuse
            As in `neutral`.

        Raises
        ------
        CatalogueError
            If the catalogue has no such device.
        InstanceError
            If there is not one entry for each server.
        """
        if len(devices) != problem.num_servers:
            raise InstanceError(
                f"devices: got {len(devices)}, expected {problem.num_servers}, "
                "one for each server"
            )
        classes = [
            class_named(name, bits)
            for name, bits in zip(
                problem.labels.formats, problem.bits_per_weight.tolist(), strict=True
            )
        ]
        read = problem.s_per_byte * reuse
        # Hidden states stay in the fastest memory of a processor, wherever it reads
        # the weights from.
        fastest = np.full(len(problem.processor_server), np.inf)
        np.minimum.at(fastest, problem.processor_of, read)
        hidden = fastest[problem.processor_of] * problem.bytes_out
        shape = problem.s_per_flop.shape
        per_byte, per_flop, exposed, overhead, per_call = np.empty((5, *shape))
        kind = np.zeros(shape, dtype=np.int64)
        for v, server in enumerate(problem.server_of.tolist()):
            for b, of in enumerate(classes):
                name = devices[server]
                facts = NEUTRAL if name is None else compute_facts(name, of)
                per_byte[v, b] = read[v] / facts.read_efficiency
                per_flop[v, b] = problem.s_per_flop[v, b] / facts.flop_efficiency
                exposed[v, b] = facts.exposed
                overhead[v, b] = facts.overhead_s
                per_call[v, b] = facts.passes * hidden[v]
                kind[v, b] = 0 if name is None else 1 if facts.fallback else 2
        return cls(
            s_per_byte=per_byte,
            s_per_flop=per_flop,
            exposed=exposed,
            overhead_s=overhead,
            s_per_call=per_call,
            kind=kind,
        )
