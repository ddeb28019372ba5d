"""EdgeShard: runs of consecutive layers on chosen devices, by dynamic programming.

A model is cut into shards of consecutive layers; a device holds at most one shard, not
all devices need one. The time of a token is the computation of every layer where it
lies, the way from its source to the first shard, from shard to shard, and back. The
programme goes through the layers: a state is the device of the last layer, and what
it took to come there. For throughput the slowest stage counts, a shard or a way between
two, instead of the sum. Published for dense models, it is the baseline of HetRoute and
OrderMoE, with all experts of a layer on one device.

Decides: placement.
Ignores: copies, formats, tiers, and every row but memory; calls count in the mean time
    of a layer only.
Gaps filled: the published programme keeps one value for each (layer, device) and lets
    memory follow the choice made, which may miss the best plan; here a state keeps all
    ways that differ in the devices used, dominated ones aside, up to ``labels`` of
    them: exact while that is enough, the published programme with ``labels=1``. A token
    starts and ends at its home; the mean over homes by rate. The time of a layer is
    that of its calls one after the other. A way that cannot end, because the devices
    left do not hold the layers left, is dropped. Where memory holds no partition at
    all, every device is given the same factor more than it has, the smallest of a scale
    of twentieths that does: the plan then breaks memory, and the judge says so.

References
----------
.. [1] Zhang, M., Shen, X., Cao, J., Cui, Z., Jiang, S. (2025). EdgeShard: Efficient LLM
   Inference via Collaborative Edge Computing. *IEEE Internet of Things Journal* 12.
   https://arxiv.org/abs/2405.14371, joint device selection and model partition.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np

from .complete import Decision
from .method import Baseline, BaselineInfo, BaselineParams, Budget, baseline_info
from .slimcaching import fastest_work

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from meldopt.problem import Problem

    from .view import View

SLACK = 1e-9
"""Relative difference in bytes that counts as none."""

STRETCH = 1.05
"""Factor by which room is raised until a partition exists."""

LARGEST_STRETCH = 1e6
"""Factor at which it is given up: no server runs the format, or none is reached."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeShardParams(BaselineParams):
    """Parameters of `EdgeShardSolver`.

    Attributes
    ----------
    labels
        Ways kept for each (layer, device); 1 is the programme as published.
    throughput
        Whether the slowest stage counts, not the time of a token.
    """

    labels: int = 64
    throughput: bool = False


class Way(NamedTuple):
    """A partition of the first layers.

    ``cost`` is what its stages took; for throughput it is the slowest of those that are
    complete, and ``stage`` what the shard of the last layer takes so far. ``left`` is
    what the device of the last layer can still take; ``used`` a bit mask of devices;
    ``before`` the way that it continues.
    """

    cost: float
    stage: float
    used: int
    left: float
    device: int
    before: Way | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Partition:
    """Layers on devices.

    Attributes
    ----------
    device
        Of each layer; (L,).
    seconds
        Of a token; for throughput those of the slowest stage.
    exact
        Whether no better partition exists: no way was dropped for want of labels.
    """

    device: NDArray[np.int64]
    seconds: float
    exact: bool


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Chain:
    """Layers to place on devices in runs.

    Attributes
    ----------
    compute
        Seconds of a token in each layer on each device, inf where it cannot be; (L, S).
    size
        Bytes of each layer on each device; (L, S).
    room
        Bytes of each device; (S,).
    hop
        Seconds from device to device; (S, S).
    entry, exit
        Seconds from the source to a device, and back; (S,).
    """

    compute: NDArray[np.float64]
    size: NDArray[np.float64]
    room: NDArray[np.float64]
    hop: NDArray[np.float64]
    entry: NDArray[np.float64]
    exit: NDArray[np.float64]

    def holds(self, layer: int) -> NDArray[np.int64]:
        """Return how many of the layers from one on a device holds at most; (S,)."""
        total = np.cumsum(np.sort(self.size[layer:], axis=0), axis=0)
        held: NDArray[np.int64] = (total <= self.room * (1 + SLACK)).sum(axis=0)
        return held


def undominated(ways: list[Way], most: int) -> tuple[list[Way], bool]:
    """Keep the ways to one device that no other beats in all; say if more were cut."""
    kept: list[Way] = []
    for way in sorted(ways, key=lambda one: (max(one[:2]), one[:3], -one.left)):
        if any(
            one.used & way.used == one.used
            and one.left >= way.left
            and one.cost <= way.cost
            and one.stage <= way.stage
            for one in kept
        ):
            continue
        if len(kept) == most:
            return kept, True
        kept.append(way)
    return kept, False


def partition(
    chain: Chain,
    labels: int,
    *,
    throughput: bool = False,
    spent: Callable[[], bool] = lambda: False,
) -> Partition | None:
    """Find the partition of least time.

    Parameters
    ----------
    chain
        What is placed where.
    labels
        Ways kept for each (layer, device).
    throughput
        Whether the slowest stage counts, not the sum of all.
    spent
        Asked for each layer; if it says so, nothing is found.

    Returns
    -------
    Partition or None
        None if none was found within memory; if ``labels`` was enough, none exists.
    """
    num_layers, num_devices = chain.compute.shape
    devices = range(num_devices)
    exact = True
    hop, size, compute = chain.hop.tolist(), chain.size.tolist(), chain.compute.tolist()
    room = (chain.room * (1 + SLACK)).tolist()

    def begin(way: Way | None, d: int, over: float, bytes_: float, time: float) -> Way:
        """Begin a shard on a device, ``over`` seconds away."""
        cost, used = (0.0, 0) if way is None else (way.cost, way.used)
        used, left = used | 1 << d, room[d] - bytes_
        if throughput:
            done = max(cost, over, 0.0 if way is None else way.stage)
            return Way(done, time, used, left, d, way)
        return Way(cost + over + time, 0.0, used, left, d, way)

    ways: list[list[Way]] = [[] for _ in devices]
    for layer in range(num_layers):
        if spent():
            return None
        bytes_, time = size[layer], compute[layer]
        tried: list[Way] = []
        if layer == 0:
            tried += [
                begin(None, d, float(chain.entry[d]), bytes_[d], time[d])
                for d in devices
                if bytes_[d] <= room[d]
            ]
        for way in (way for kept in ways for way in kept):
            s = way.device
            if bytes_[s] <= way.left:
                more = (0.0, time[s]) if throughput else (time[s], 0.0)
                cost, stage = way.cost + more[0], way.stage + more[1]
                tried.append(Way(cost, stage, way.used, way.left - bytes_[s], s, way))
            tried += [
                begin(way, d, hop[s][d], bytes_[d], time[d])
                for d in devices
                if not way.used >> d & 1 and bytes_[d] <= room[d]
            ]
        # What is left must hold the layers that are left, or the way cannot end.
        behind = num_layers - layer - 1
        holds = chain.holds(layer + 1).tolist()
        least = chain.size[layer + 1 :].min(axis=0, initial=np.inf).tolist()
        new: list[list[Way]] = [[] for _ in devices]
        for way in tried:
            if max(way[:2]) < np.inf and ends(way, behind, holds, least):
                new[way.device].append(way)
        ways = []
        for d in devices:
            kept, cut = undominated(new[d], labels)
            exact &= not cut
            ways.append(kept)
    last = []
    for way in (way for kept in ways for way in kept):
        back = float(chain.exit[way.device])
        stages = max(way.cost, way.stage, back) if throughput else way.cost + back
        last.append((stages, way))
    last = [one for one in last if one[0] < np.inf]
    if not last:
        return None
    seconds, end = min(last, key=lambda one: one[0])
    device = np.zeros(num_layers, dtype=np.int64)
    step: Way | None = end
    for layer in reversed(range(num_layers)):
        assert step is not None
        device[layer], step = step.device, step.before
    return Partition(device=device, seconds=seconds, exact=exact)


def ends(way: Way, behind: int, holds: list[int], least: list[float]) -> bool:
    """Say whether the layers behind a way may still find room; True if in doubt.

    Parameters
    ----------
    way
        So far.
    behind
        Layers that are left.
    holds
        How many of them each device holds at most.
    least
        Bytes of the smallest of them on each device.
    """
    if not behind:
        return True
    size = least[way.device]
    total = int(min(way.left * (1 + SLACK) / size, behind)) if size > 0 else behind
    for d, held in enumerate(holds):
        if total >= behind:
            return True
        if not way.used >> d & 1:
            total += held
    return total >= behind


def chain_of(problem: Problem, view: View) -> Chain:
    """Read the layers and devices of a problem in one format."""
    starts = problem.layer_start[:-1]
    work = fastest_work(problem, view)  # (N, S)
    per_token = view.load / problem.total_rate
    runs = np.isfinite(work)
    seconds = per_token[:, None] * np.where(runs, work, 0.0)
    send = problem.route_latency + problem.bytes_out * problem.route_s_per_byte
    back = problem.route_latency + problem.bytes_back * problem.route_s_per_byte
    rate = problem.rate if problem.rate.any() else np.ones_like(problem.rate)
    homes = np.bincount(problem.home_of, rate / rate.sum(), problem.num_servers)
    near = homes > 0
    return Chain(
        compute=np.add.reduceat(np.where(runs, seconds, np.inf), starts, axis=0),
        size=np.add.reduceat(view.size, starts, axis=0),
        room=whole_room(view),
        hop=send,
        entry=homes[near] @ send[near],
        exit=back[:, near] @ homes[near],
    )


def whole_room(view: View) -> NDArray[np.float64]:
    """Return the bytes of each server that whole experts can fill; (S,).

    A copy lies in one tier. Where experts differ in size, all bytes of a server.
    """
    least, most = view.size.min(axis=0), view.size.max(axis=0)
    alike = np.isfinite(most) & (least == most)
    full = view.slots * np.where(alike, most, 0.0)
    room: NDArray[np.float64] = np.where(alike, full, view.room)
    return room


class EdgeShardSolver(Baseline):
    """Shards of consecutive layers on chosen devices."""

    info: ClassVar[BaselineInfo] = baseline_info(
        name="edgeshard",
        summary="runs of consecutive layers on chosen devices, by dynamic programming",
        citation="EdgeShard, arXiv 2405.14371, joint device selection and partition",
        decides=("placement",),
        sees=("memory", "calls", "homes", "network", "work"),
        params=EdgeShardParams,
    )
    params: EdgeShardParams

    def decide(
        self, problem: Problem, view: View, rng: np.random.Generator, check: Budget
    ) -> Decision | None:
        """Partition; stretch memory where no partition fits."""
        chain = chain_of(problem, view)
        stretch = 1.0
        while stretch < LARGEST_STRETCH:
            wider = replace(chain, room=chain.room * stretch)
            # The published programme is quick: something to show when time is up.
            found = self.partition(wider, 1, check)
            if found is not None:
                check.keep(Decision(server=found.device[problem.layer_of]))
            found = self.partition(wider, self.params.labels, check) or found
            if found is not None:
                return Decision(server=found.device[problem.layer_of])
            if check.step():
                return None
            stretch *= STRETCH
        return None

    def partition(self, chain: Chain, labels: int, check: Budget) -> Partition | None:
        """Partition a chain with as many labels; none within the budget."""
        return partition(
            chain, labels, throughput=self.params.throughput, spent=check.spent
        )
