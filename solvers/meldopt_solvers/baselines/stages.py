"""Pipeline stages: runs of consecutive layers on devices in order, one format a layer.

The models of LLM-PQ (`meldopt_solvers.baselines.llm_pq`): its MILP for one order of the
devices, "adabits" (the same without time), and the bit transfer that follows adabits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .method import Budget

Staging = tuple["NDArray[np.int64]", "NDArray[np.int64]"]
"""Device and format of each group of layers; (I,) each."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pipeline:
    """What LLM-PQ sees: groups of layers, devices, formats.

    Attributes
    ----------
    size
        Bytes of a group in a format; (I, B).
    time
        Seconds per token of a group on a device in a format; inf where it cannot be;
        (I, J, B).
    loss
        Nats per token of a group in a format; (I, B).
    room
        Bytes of a device; (J,).
    way
        Seconds of a hidden state from device to device; inf without a route; (J, J).
    bits
        Bits per weight of each format; (B,).
    losses
        Nats per token of a group in a format, by application; (A, I, B).
    budget
        Nats per token that an application allows; inf if it does not say; (A,).
    micro_batches
        Micro-batches in flight: the slowest stage counts that often.
    theta
        Seconds per nat.
    """

    size: NDArray[np.float64]
    time: NDArray[np.float64]
    loss: NDArray[np.float64]
    room: NDArray[np.float64]
    way: NDArray[np.float64]
    bits: NDArray[np.float64]
    losses: NDArray[np.float64]
    budget: NDArray[np.float64]
    micro_batches: int
    theta: float

    def stage_times(self, staging: Staging) -> NDArray[np.float64]:
        """Return the seconds of each stage in order: its work, or its way if longer."""
        device, format_ = staging
        start = np.flatnonzero(np.r_[True, np.diff(device) != 0])
        work = self.time[np.arange(len(device)), device, format_]
        times = np.add.reduceat(work, start)
        used = device[start]
        if len(used) > 1:
            times = np.maximum(times, self.way[used, np.roll(used, -1)])
        return times

    def objective(self, staging: Staging) -> float:
        """Return what LLM-PQ minimises: sum of stages, slowest stage, loss."""
        times = self.stage_times(staging)
        loss = float(self.loss[np.arange(len(staging[1])), staging[1]].sum())
        slowest = (self.micro_batches - 1) * float(times.max())
        return float(times.sum()) + slowest + self.theta * loss

    def keeps_quality(self, staging: Staging) -> bool:
        """Say whether every application is within its loss."""
        _, format_ = staging
        loss = self.losses[:, np.arange(len(format_)), format_].sum(axis=1)
        return bool((loss <= self.budget).all())

    def fits(self, staging: Staging) -> bool:
        """Say whether every device holds its layers."""
        device, format_ = staging
        size = self.size[np.arange(len(device)), format_]
        held = np.bincount(device, size, len(self.room))
        return bool((held <= self.room).all())


def stage_milp(
    pipe: Pipeline,
    order: NDArray[np.int64],
    check: Budget,
    *,
    nodes: int,
    timed: bool = True,
) -> Staging | None:
    """Partition layers and choose bits for one order of devices, by a MILP.

    Parameters
    ----------
    pipe
        What is partitioned.
    order
        Devices in the order in which they hold layers; some may stay empty.
    check
        Ends the engine when it says so.
    nodes
        Branch-and-bound nodes: a budget that is the same on every machine.
    timed
        Whether time counts; if not this is "adabits": least loss within memory.

    Returns
    -------
    tuple of ndarray, or None
        The best found; None if there is nothing, or it was not found in time.
    """
    from meldopt.engines.highs import solve_highs
    from meldopt.formulations.linear import LinearBuilder

    num, devices = len(pipe.size), len(order)
    time = pipe.time[:, order]
    may = np.isfinite(time) & (pipe.size[:, None, :] <= pipe.room[order][:, None])
    i, j, b = np.nonzero(may)
    if not len(i):
        return None
    # In parts of the slowest: engines know absolute tolerances only.
    unit = float(time[i, j, b].max()) or 1.0
    work, loss = time[i, j, b] / unit, pipe.theta / unit * pipe.loss[i, b]
    build = LinearBuilder()
    z = build.add_columns("z", (i, j, b), upper=1.0, integer=True, cost=loss)
    build.add_rows("one", (np.arange(num),), [(i, z.range, 1.0)], lower=1.0, upper=1.0)
    build.add_rows(
        "memory",
        (np.arange(devices),),
        [(j, z.range, pipe.size[i, b])],
        upper=pipe.room[order],
        scale=True,
    )
    if devices > 1 and num > 1:
        # No layer lies before the device of the layer before it. The published rows
        # say so pair by pair; summed up to each device they are fewer and tighter.
        row, col, value = [], [], []
        for n in range(devices - 1):
            upto = np.flatnonzero(j <= n)
            later, earlier = upto[i[upto] > 0], upto[i[upto] < num - 1]
            row += [(i[later] - 1) * (devices - 1) + n, i[earlier] * (devices - 1) + n]
            col += [z.range[later], z.range[earlier]]
            value += [np.ones(len(later)), -np.ones(len(earlier))]
        build.add_rows(
            "order",
            (np.arange((num - 1) * (devices - 1)),),
            [(np.concatenate(row), np.concatenate(col), np.concatenate(value))],
            upper=0.0,
        )
    if timed:
        stage = build.add_columns("stage", (np.arange(devices),), cost=1.0)
        top = build.add_columns("top", (np.zeros(1),), cost=pipe.micro_batches - 1.0)
        every = np.arange(devices)
        build.add_rows(
            "work",
            (every,),
            [(j, z.range, work), (every, stage.range, -1.0)],
            upper=0.0,
        )
        way = np.nan_to_num(pipe.way[order, np.roll(order, -1)] / unit, posinf=0.0)
        if devices > 1:
            build.add_rows(
                "way",
                (np.arange(num * devices),),
                [
                    (i * devices + j, z.range, way[j]),
                    (
                        np.arange(num * devices),
                        stage.range[np.tile(every, num)],
                        -1.0,
                    ),
                ],
                upper=0.0,
            )
        build.add_rows(
            "slowest",
            (every,),
            [(every, stage.range, 1.0), (every, top.start, -1.0)],
            upper=0.0,
        )
    left = check.time_left_s
    outcome = solve_highs(
        build.build(),
        nodes=nodes,
        gap=1e-3,
        threads=1,
        time_limit=left if np.isfinite(left) else None,
        on_incumbent=lambda *_: check.spent(),
    )
    if outcome.interrupted and not check.spent():
        raise KeyboardInterrupt
    if outcome.x is None:
        return None
    chosen = np.flatnonzero(outcome.x[z.range] > 0.5)
    device = np.zeros(num, dtype=np.int64)
    format_ = np.zeros(num, dtype=np.int64)
    device[i[chosen]], format_[i[chosen]] = order[j[chosen]], b[chosen]
    return device, format_


def transfer_bits(
    pipe: Pipeline,
    staging: Staging,
    check: Budget,
) -> Staging:
    """Relieve the slowest stage as long as that lowers the objective.

    The slowest stage gives layers to another, a pioneer, which in return takes them in
    fewer bits: one layer of many bits of the pioneer changes places with as many layers
    of few bits of the slowest stage as fill the same memory. Pioneers are tried from
    the fastest up and conversions from the most bits down; the first that lowers the
    objective within memory is made.

    Parameters
    ----------
    pipe, staging
        What is changed.
    check
        Asked after each change.
    """
    best, bits = pipe.objective(staging), pipe.bits
    order = np.argsort(-bits, kind="stable").tolist()
    conversions = [
        (many, few, int(bits[many] // bits[few]))
        for n, many in enumerate(order)
        for few in order[n:]
    ]
    while True:
        changed = _relieve(pipe, staging, conversions, best)
        if changed is None:
            return staging
        staging, best = changed
        if check.step():
            return staging


def _relieve(
    pipe: Pipeline,
    staging: Staging,
    conversions: list[tuple[int, int, int]],
    best: float,
) -> tuple[Staging, float] | None:
    device, format_ = staging
    start = np.flatnonzero(np.r_[True, np.diff(device) != 0])
    used, counts = device[start], np.diff(np.r_[start, len(device)])
    times = pipe.stage_times(staging)
    rank = np.argsort(times, kind="stable")
    slow = int(rank[-1])
    for pioneer in rank[:-1].tolist():
        for many, few, number in conversions:
            if counts[slow] <= number:
                continue  # a stage keeps at least one layer
            span = slice(start[pioneer], start[pioneer] + counts[pioneer])
            givers = np.flatnonzero(format_[span] == many) + start[pioneer]
            span = slice(start[slow], start[slow] + counts[slow])
            takers = np.flatnonzero(format_[span] == few) + start[slow]
            after = counts.copy()
            after[pioneer] += number
            after[slow] -= number
            where = np.repeat(used, after)
            found: tuple[Staging, float] | None = None
            for giver in givers.tolist():
                for first in range(len(takers) - number + 1):
                    run = takers[first : first + number].tolist()
                    for kept in run:
                        formats = _exchange(format_, giver, run, kept, many, few)
                        staged = where, formats
                        value = pipe.objective(staged)
                        low = best if found is None else found[1]
                        if value < low - 1e-12 * abs(low) and pipe.fits(staged):
                            found = staged, value
            if found is not None:
                return found
    return None


def _exchange(
    format_: NDArray[np.int64],
    giver: int,
    takers: list[int],
    kept: int,
    many: int,
    few: int,
) -> NDArray[np.int64]:
    """Return the formats when one layer becomes several of few bits, and back.

    In place of ``giver`` there are as many layers of few bits as there are takers; the
    takers are gone but for ``kept``, which has many bits.
    """
    parts: list[int] = []
    for i, b in enumerate(format_.tolist()):
        if i == giver:
            parts += [few] * len(takers)
        elif i == kept:
            parts.append(many)
        elif i not in takers:
            parts.append(b)
    return np.array(parts, dtype=np.int64)
