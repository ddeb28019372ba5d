"""LLM-PQ (later SplitQuant): partition of layers and their bits, jointly.

Layers lie on devices in order, each device holds consecutive ones, and each layer has
one width. For one order of the devices j, one MILP ([1]_)::

    min   sum_j T_j + (mu - 1) max_j T_j + theta sum_ib omega[i,b] y[i,b]
    s.t.  each group of layers i on one device at one width,  memory of each device
          T_j >= sum of latencies of its layers,  T_j >= the way to the next device
          layers are contiguous in the order of the devices

Orders are enumerated outside, and layers can be grouped to shrink the model. There is a
heuristic for larger clusters (``method="heuristic"``): "adabits", least loss omega
within memory, then a transfer of bits and layers away from the slowest stage.

Decides: placement, formats.
Ignores: which experts are called more (layers stay whole), homes, copies, and the rows
of links and processors.
Gaps filled: a layer is all its routed experts; its latency on a server is the sum of
calls per token times the work of a call, in the fastest tier that runs the format, and
omega the loss in nats per token (the paper's indicator of sensitivity is one for dense
layers). There is one phase, a token, in place of prefill and decode; mu = 4. theta is
the user's to set; here it counts in parts of what makes the loss of all layers at the
fewest bits weigh as much as their time on the fastest server, and unless it is given it
is raised fourfold from 1, at most to 1024, on the first order that can be staged, until
the quality budgets hold, as a user who has one would; of the orders, those that hold
them come first. Servers may stay empty, as many hold no layer, so neither the first nor
the last has to hold one, and only those that hold one have a way. The way is that of a
hidden state to the next server of the order in the MILP, to the next that holds layers
when orders are compared, and back from the last to the first. All orders are tried if
there are at most ``orders`` of them; else as many: from fast to slow, from large to
small, from each server to its nearest ones, then at random. Layers are grouped until
the MILP has no more than `LARGE` binaries. The rows of contiguity are summed up: the
same stagings, a tighter relaxation. In a bit transfer several layers of the slowest
stage change together only if they are neighbours among those of their width.

References
----------
.. [1] Zhao, J., et al. (2024). LLM-PQ: Serving LLM on Heterogeneous Clusters with
   Phase-Aware Partition and Adaptive Quantization. *PPoPP (poster)*.
   https://arxiv.org/abs/2403.01136
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from .complete import Decision
from .method import Baseline, BaselineInfo, BaselineParams, Budget, baseline_info
from .stages import Pipeline, stage_milp, transfer_bits
from .widths import loss_per_token, usable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from meldopt.problem import Problem

    from .stages import Staging
    from .view import View

LARGE = 1000
"""Binaries of one MILP up to which layers are not grouped."""

THETAS = (1.0, 4.0, 16.0, 64.0, 256.0, 1024.0)
"""Weights of the loss that are tried until quality budgets hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LlmPqParams(BaselineParams):
    """Parameters of `LlmPqSolver`.

    Attributes
    ----------
    method
        ``milp``, or ``heuristic``: adabits and bit transfer.
    group
        Layers in a group; 0 to choose by size.
    micro_batches
        Micro-batches in flight.
    theta
        Weight of the loss; None to raise it until quality budgets hold.
    orders
        Orders of the servers that are tried at most.
    nodes
        Branch-and-bound nodes of each MILP.
    """

    method: Literal["milp", "heuristic"] = "milp"
    group: int = 0
    micro_batches: int = 4
    theta: float | None = None
    orders: int = 24
    nodes: int = 100

    def __post_init__(self) -> None:
        for name, least in (
            ("group", 0),
            ("micro_batches", 1),
            ("orders", 1),
            ("nodes", 0),
        ):
            value = getattr(self, name)
            if not value >= least:
                raise ValueError(f"{name}: got {value!r}, expected {least} or more")
        if self.theta is not None and not self.theta >= 0.0:
            raise ValueError(f"theta: got {self.theta!r}, expected 0 or more")


class LlmPqSolver(Baseline):
    """Contiguous layers on servers, one format a layer, by MILP over orders."""

    info: ClassVar[BaselineInfo] = baseline_info(
        name="llm_pq",
        summary="contiguous layers on servers and a format for each layer, jointly",
        citation="LLM-PQ / SplitQuant, arXiv 2403.01136",
        decides=("placement", "formats"),
        sees=("memory", "quality", "calls", "network", "work", "losses"),
        params=LlmPqParams,
        packages=("highspy",),
    )
    params: LlmPqParams

    def decide(
        self, problem: Problem, view: View, rng: np.random.Generator, check: Budget
    ) -> Decision | None:
        """Try orders of the servers; keep the best staging by LLM-PQ's own measure."""
        devices = np.flatnonzero(view.room > 0).astype(np.int64)
        formats = usable(problem)
        if not len(devices) or not len(formats):
            return None
        binaries = problem.num_layers * len(devices) * len(formats)
        group = self.params.group or math.ceil(binaries / LARGE)
        while True:

            def written(
                staging: Staging, of: NDArray[np.int64] = problem.layer_of // group
            ) -> Decision:
                device, format_ = staging
                return Decision(server=devices[device[of]], format=format_[of])

            pipe = pipeline(problem, view, devices, group)
            best = self.search(pipe, rng, check, written)
            if best is not None or group == 1 or check.spent():
                return best
            group //= 2  # groups may be too large for the servers

    def search(
        self,
        pipe: Pipeline,
        rng: np.random.Generator,
        check: Budget,
        written: Callable[[Staging], Decision],
    ) -> Decision | None:
        """Return the best staging over orders at one size of groups, written down."""
        p = self.params
        scale = loss_scale(pipe)
        thetas = THETAS if p.theta is None else (p.theta,)
        pipe = dataclasses.replace(
            pipe, micro_batches=p.micro_batches, theta=thetas[0] * scale
        )
        best: tuple[bool, float] | None = None
        decision: Decision | None = None
        for order in orders(pipe, p.orders, rng):
            staging = self.stage(pipe, order, check)
            if staging is not None and best is None:
                check.keep(written(staging))
                for theta in thetas[1:]:
                    if pipe.keeps_quality(staging) or check.spent():
                        break
                    pipe = dataclasses.replace(pipe, theta=theta * scale)
                    staging = self.stage(pipe, order, check) or staging
            if staging is not None:
                key = (not pipe.keeps_quality(staging), pipe.objective(staging))
                if best is None or key < best:
                    best, decision = key, written(staging)
                    check.keep(decision)
            if check.spent():
                break
        return decision

    def stage(
        self, pipe: Pipeline, order: NDArray[np.int64], check: Budget
    ) -> Staging | None:
        """Return the staging of one order, by the method of the parameters."""
        timed = self.params.method == "milp"
        staging = stage_milp(pipe, order, check, nodes=self.params.nodes, timed=timed)
        if staging is not None and not timed:
            staging = transfer_bits(pipe, staging, check)
        check.step((pipe.time.size / 500.0) ** 2)
        return staging


def pipeline(
    problem: Problem,
    view: View,
    devices: NDArray[np.int64],
    group: int,
) -> Pipeline:
    """Put a problem as LLM-PQ sees it.

    Parameters
    ----------
    problem, view
        What is solved, and the attempt.
    devices
        Servers that may hold layers; (J,).
    group
        Layers in a group.

    Returns
    -------
    Pipeline
        With one micro-batch and no weight of the loss.
    """
    group_of = problem.layer_of // group
    num = int(group_of.max(initial=-1)) + 1
    experts = np.arange(problem.num_experts)
    calls = view.load / problem.total_rate
    size = np.zeros((num, problem.num_formats))
    loss = np.zeros((num, problem.num_formats))
    np.add.at(size, group_of, problem.size_bytes)
    np.add.at(loss, group_of, loss_per_token(problem))
    losses = np.zeros((problem.num_applications, num, problem.num_formats))
    for g, calls_of in enumerate(problem.calls):
        np.add.at(losses[g], group_of, calls_of[:, None] * problem.format_loss[g])
    time = np.full((num, len(devices), problem.num_formats), np.inf)
    room = np.zeros(len(devices))
    largest = float(problem.size_bytes.max(initial=0.0))
    for j, s in enumerate(devices.tolist()):
        places = problem.places_of[s]
        rooms = np.maximum(problem.room_bytes[places], 0.0)
        # Tiers are separate: each may leave the room of one expert.
        part = rooms if len(places) == 1 else np.maximum(rooms - largest, 0.0)
        room[j] = float(part.sum())
        for b in np.flatnonzero(problem.allowed[places].any(axis=0)).tolist():
            work = np.full(problem.num_experts, np.inf)
            for v in places[problem.allowed[places, b]].tolist():
                one = problem.work_s(
                    experts, np.full(len(experts), v), np.full(len(experts), b)
                )
                work = np.minimum(work, one)
            time[:, j, b] = np.bincount(group_of, calls * work, num)
    way = problem.route_latency + problem.bytes_out * problem.route_s_per_byte
    return Pipeline(
        size=size,
        time=time,
        loss=loss,
        room=room,
        way=way[np.ix_(devices, devices)],
        bits=problem.bits_per_weight,
        losses=losses,
        budget=problem.quality_budget,
        micro_batches=1,
        theta=0.0,
    )


def loss_scale(pipe: Pipeline) -> float:
    """Return the seconds per nat at which the most loss weighs as the least time."""
    fast = float(pipe.time.min(axis=(1, 2)).sum())
    worst = float(pipe.loss.max(axis=1).sum())
    return fast / worst if worst > 0 and math.isfinite(fast) else 0.0


def orders(
    pipe: Pipeline, most: int, rng: np.random.Generator
) -> Iterator[NDArray[np.int64]]:
    """Give orders of the devices, the most sensible first, none twice.

    Parameters
    ----------
    pipe
        With the devices.
    most
        Number of orders at most; all of them if there are not more.
    rng
        For those beyond the sensible ones.
    """
    num = len(pipe.room)
    number = math.factorial(min(num, 12))
    speed = np.where(np.isfinite(pipe.time), pipe.time, 0.0).sum(axis=(0, 2))
    runs = np.isfinite(pipe.time).any(axis=2).all(axis=0)
    fast = np.argsort(np.where(runs, speed, np.inf), kind="stable")
    large = np.argsort(-pipe.room, kind="stable")
    sensible = [fast, large, fast[::-1], *(_nearest(pipe, s) for s in fast.tolist())]
    seen: set[tuple[int, ...]] = set()
    ways: Iterator[NDArray[np.int64]]
    if number <= most:
        ways = (np.array(one) for one in itertools.permutations(range(num)))
    else:
        ways = (rng.permutation(num) for _ in itertools.count())
    for order in itertools.chain(sensible, ways):
        if len(seen) == min(number, most):
            return
        key = tuple(order.tolist())
        if key not in seen:
            seen.add(key)
            yield order.astype(np.int64)


def _nearest(pipe: Pipeline, start: int) -> NDArray[np.int64]:
    """Go from a device always to the nearest one that is left."""
    order, left = [start], set(range(len(pipe.room))) - {start}
    while left:
        order.append(min(left, key=lambda s: (float(pipe.way[order[-1], s]), s)))
        left.remove(order[-1])
    return np.array(order, dtype=np.int64)
