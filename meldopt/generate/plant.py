"""Tight instances: a plan is planted first, then the caps are set around it.

Prices are put on memory, losses, one processor and some links, and moved until the plan
that is best at these prices takes about what the cluster has. What it takes, times one
and the slack, becomes the cap. A plan that is best at prices is best for the problem
whose caps are what it takes (Everett's theorem), so the caps are where an optimiser
wants to be, and the planted plan is near the optimum; only the slack, and what the
search for the best plan at these prices missed, is left to gain.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from meldopt.builder import build_problem
from meldopt.errors import InstanceError
from meldopt.instance import (
    ApplicationSpec,
    DemandSpec,
    Instance,
    LinkSpec,
    ServerSpec,
    TierSpec,
)
from meldopt.score import score

from .digits import rounded_up
from .priced import Chosen, Pricer, Prices, Usage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from meldopt.plan import Plan
    from meldopt.problem import Problem

_FIRST_STEP = 0.2  # of the logarithm of a price
_ROUNDS = 80  # of moving the prices of memory and losses
_SAMPLE = 1500  # experts that prices are found on; the layers of a model are alike
_SETTLE = 12  # rounds of setting bandwidths, which change transfer times
_FLOWS = 0.5  # of the slack is left to tight processors and links
_LEAST = 0.15  # of its first bandwidth, below which a link is given up as tight
_SHRINKS = 0.7  # of the bandwidth of a tight link in one round, at the most
_LOOSE = 1.5  # bandwidth of a link that is not tight, over what it needs
_TIGHT = 0.01  # largest relative slack of a row that counts as tight
_DIGITS = 6  # significant digits of a cap


@dataclass(frozen=True, slots=True, kw_only=True)
class Tightness:
    """How tight, and which rows.

    Attributes
    ----------
    slack
        Cap over what the plan takes, less one.
    links
        Number of links, both directions counted one by one, that are made tight.
    link_price
        Price of a tight link: share of the time that crossing it takes anyway.
    compute_price
        Price of the tight processor: share of the work's own time.
    """

    slack: float
    links: int
    link_price: float = 0.5
    compute_price: float = 1.0


def plant(instance: Instance, tightness: Tightness) -> tuple[Instance, Plan]:
    """Plant a plan in an instance and set its caps around it.

    Parameters
    ----------
    instance
        Dataflow ``home``, objective ``serial``; its memory, quality budgets and rates
        say about how much there is to be of each.
    tightness
        How tight the caps are to be.

    Returns
    -------
    tuple of Instance and Plan
        The instance with other reserves or capacities, bandwidths, rates and quality
        budgets, and a feasible plan of it.

    Raises
    ------
    InstanceError
        If the instance is of another kind, or its memory is too little.
    """
    return _Planter(instance, tightness).plant()


class _Planter:
    def __init__(self, instance: Instance, tightness: Tightness) -> None:
        self.instance = instance
        self.tightness = tightness
        self.problem = build_problem(instance)
        self.first_bandwidth = self.problem.link_bandwidth
        self.check()

    def check(self) -> None:
        problem = self.problem
        if problem.dataflow != "home":
            raise InstanceError(
                "parameters.tightness: got a number with dataflow 'roam', expected "
                "'home'"
            )
        if not np.isfinite(problem.quality_budget).all():
            raise InstanceError(
                "parameters.tightness: got a number, but an application has no "
                "quality budget; expected one for each"
            )
        if (problem.room_bytes <= 0).any():
            v = int(np.argmin(problem.room_bytes))
            raise InstanceError(
                f"parameters.tightness: got no room at "
                f"{'/'.join(problem.labels.places[v])} beside its reserve, expected "
                "some; give more memory or a larger fit"
            )

    def plant(self) -> tuple[Instance, Plan]:
        prices = self.first_prices()
        prices = self.settle_prices(prices, _ROUNDS)
        usage = self.estimate(prices)
        processor = int(np.argmax(usage.compute))
        scale = self.tightness.compute_price / self.problem.total_rate
        prices.compute[processor] = scale
        tight = self.tight_links(usage)
        self.price_links(prices, tight)
        for _ in range(_SETTLE):
            prices = self.settle_prices(prices, 10)
            usage = self.estimate(prices)
            self.scale_rates(self.rate_factor(usage), prices, usage)
            self.set_bandwidths(usage, prices, tight, damping=0.5)
        return self.settle_caps(prices, processor, tight)

    def estimate(self, prices: Prices) -> Usage:
        """Return about what the plan at these prices takes, from some layers."""
        usage, _ = Pricer(self.problem).plan(prices, self.sample())
        share = self.sampled_share()
        return Usage(
            memory=usage.memory / share,
            compute=usage.compute / share,
            link=usage.link / share,
            quality=usage.quality / share,
        )

    # -- prices --------------------------------------------------------------------
    def sample(self) -> list[int]:
        """Return the layers that prices are found on, spread over the model."""
        problem = self.problem
        per_layer = max(1, problem.num_experts // problem.num_layers)
        count = min(problem.num_layers, max(2, round(_SAMPLE / per_layer)))
        return sorted({int(n) for n in np.linspace(0, problem.num_layers - 1, count)})

    def sampled_share(self) -> float:
        """Return the share of all experts that the sampled layers hold."""
        width = np.diff(self.problem.layer_start)
        return float(width[self.sample()].sum()) / self.problem.num_experts

    def first_prices(self) -> Prices:
        problem = self.problem
        work = float(
            np.median(problem.size_bytes.mean(axis=1) * np.median(problem.s_per_byte))
        )
        trip = problem.round_trip_s + problem.transfer_s
        call = work + float(np.mean(trip[np.isfinite(trip)]))
        token = call * float(problem.calls.sum(axis=1).mean())  # s per token
        return Prices(
            memory=np.full(problem.num_places, 0.3 * token / problem.room_bytes.sum()),
            compute=np.zeros(len(problem.processor_server)),
            link=np.zeros(len(problem.link_from)),
            quality=0.3
            * token
            * np.bincount(
                problem.application_of,
                weights=problem.demand_weight,
                minlength=problem.num_applications,
            )
            / problem.quality_budget,
        )

    def settle_prices(self, prices: Prices, rounds: int) -> Prices:
        """Move prices until memory and losses are about what there is.

        Every price has a step of its own, which shrinks when what is used crosses
        what there is: servers near each other can stand in for each other, and a
        small change of one price moves much.
        """
        problem, layers = self.problem, self.sample()
        share = self.sampled_share()
        pricer = Pricer(problem)
        price = np.concatenate([prices.memory, prices.quality])
        there = share * np.concatenate([problem.room_bytes, problem.quality_budget])
        step, before = np.full(len(price), _FIRST_STEP), np.zeros(len(price))
        split = len(prices.memory)
        for _ in range(rounds):
            prices.memory, prices.quality = price[:split], price[split:]
            usage, _ = pricer.plan(prices, layers)
            used = np.concatenate([usage.memory, usage.quality])
            sign = np.sign(used - there)
            step *= np.where(sign == before, 1.25, 0.5)
            step = np.clip(step, 1e-4, 2 * _FIRST_STEP)
            price = price * np.exp(sign * step)
            before = sign
        return prices

    def tight_links(self, usage: Usage) -> list[int]:
        """Choose the links that are busiest for their bandwidth."""
        order = np.argsort(-usage.link / self.problem.link_bandwidth, kind="stable")
        used = [int(k) for k in order if usage.link[k] > 0]
        return sorted(used[: self.tightness.links])

    def price_links(self, prices: Prices, tight: Sequence[int]) -> None:
        problem = self.problem
        ends = problem.link_from, problem.link_to
        for k in tight:
            a, b = int(ends[0][k]), int(ends[1][k])
            time = (
                problem.route_latency[a, b]
                + problem.bytes_out / problem.link_bandwidth[k]
            )
            per_byte = time / problem.bytes_out
            prices.link[k] = self.tightness.link_price * per_byte / problem.total_rate

    # -- caps ----------------------------------------------------------------------
    def settle_caps(
        self, prices: Prices, processor: int, tight: list[int]
    ) -> tuple[Instance, Plan]:
        """Set the caps around the plan; bandwidths change it, so a few times."""
        for _ in range(_SETTLE):
            usage, chosen = Pricer(self.problem).plan(prices)
            busiest = int(np.argmax(usage.compute))
            if busiest != processor:
                # The price drove the load elsewhere: a smaller one, or elsewhere.
                prices.compute[processor] *= 0.5
                if prices.compute[processor] * self.problem.total_rate < 0.02:
                    prices.compute[processor] = 0.0
                    processor = busiest
                continue
            factor = self.rate_factor(usage)
            if abs(factor - 1) < 0.1 * self.tightness.slack and self.fits(usage, tight):
                break
            self.scale_rates(factor, prices, usage)
            self.set_bandwidths(usage, prices, tight)
        usage, chosen = Pricer(self.problem).plan(prices)
        return self.finish(usage, chosen)

    def rate_factor(self, usage: Usage) -> float:
        """Return the factor on all rates that makes the busiest processor tight."""
        limit = self.problem.busy / (1 + _FLOWS * self.tightness.slack)
        return float(limit / usage.compute.max())

    def fits(self, usage: Usage, tight: Sequence[int]) -> bool:
        """Whether the bandwidths are the caps of this very plan."""
        problem = self.problem
        limit = problem.link_busy * problem.link_bandwidth
        if (usage.link > limit).any():
            return False
        return bool(
            (usage.link[list(tight)] > (1 - _TIGHT * 0.9) * limit[list(tight)]).all()
        )

    def scale_rates(self, factor: float, prices: Prices, usage: Usage) -> None:
        """Change all rates alike: times stay, busy shares and bytes/s follow."""
        demands = [
            DemandSpec(
                application=d.application,
                home=d.home,
                rate=f"{float(f'{rate * factor:.{_DIGITS}g}')!r} tokens/s",
            )
            for d, rate in zip(
                self.instance.spec.workload.demands, self.problem.rate, strict=True
            )
        ]
        workload = msgspec.structs.replace(self.instance.spec.workload, demands=demands)
        self.update(workload=workload)
        prices.compute /= factor
        prices.link /= factor
        usage.link *= factor

    def set_bandwidths(
        self,
        usage: Usage,
        prices: Prices,
        tight: list[int],
        damping: float = 0.0,
    ) -> None:
        """Give tight links what they need and a little more, the others plenty.

        A narrower link is slower and is used less: where that gets out of hand the
        link becomes cheaper instead of narrower, and if that does not help either it
        is tight no longer.
        """
        problem = self.problem
        need = usage.link / problem.link_busy
        bandwidth = np.maximum(problem.link_bandwidth, _LOOSE * need)
        for k in list(tight):
            bandwidth[k] = need[k] * (1 + _FLOWS * self.tightness.slack)
            if bandwidth[k] < _LEAST * self.first_bandwidth[k]:
                tight.remove(k)
                prices.link[k] = 0.0
                bandwidth[k] = max(self.first_bandwidth[k], _LOOSE * need[k])
                continue
            if bandwidth[k] < _SHRINKS * problem.link_bandwidth[k]:
                prices.link[k] *= _SHRINKS
                bandwidth[k] = _SHRINKS * problem.link_bandwidth[k]
        bandwidth = bandwidth ** (1 - damping) * problem.link_bandwidth**damping
        self.update(
            cluster=msgspec.structs.replace(
                self.instance.spec.cluster,
                links=_with_bandwidth(
                    self.instance.spec.cluster.links, problem, bandwidth
                ),
            )
        )

    def finish(self, usage: Usage, chosen: Chosen) -> tuple[Instance, Plan]:
        spec, problem = self.instance.spec, self.problem
        slack = 1 + self.tightness.slack
        room = usage.memory * slack
        self.update(
            cluster=msgspec.structs.replace(
                spec.cluster, servers=_with_room(spec.cluster.servers, problem, room)
            ),
            workload=msgspec.structs.replace(
                spec.workload,
                applications=[
                    _with_budget(application, float(used) * slack)
                    for application, used in zip(
                        spec.workload.applications, usage.quality, strict=True
                    )
                ],
            ),
        )
        plan = chosen.plan(self.problem)
        judged = score(self.problem, plan)
        if not judged.feasible:
            worst = judged.violations[0]
            raise InstanceError(
                f"parameters.tightness: found no caps that fit the planted plan "
                f"({worst.row} {worst.where} is over by {worst.amount:.3g}); expected "
                "another seed or more slack"
            )
        return self.instance, plan.with_record(
            {"objective": judged.objective, "solver": "planted"}
        )

    def update(self, **changes: object) -> None:
        self.instance = self.instance.replace(**changes)
        self.problem = build_problem(self.instance)


def _with_bandwidth(
    links: Sequence[LinkSpec], problem: Problem, bandwidth: NDArray[np.float64]
) -> list[LinkSpec]:
    """Write links with other bandwidths; both ways together only when they agree."""
    names = problem.labels.links
    wanted = {name: float(bandwidth[k]) for k, name in enumerate(names)}
    now = {name: float(problem.link_bandwidth[k]) for k, name in enumerate(names)}
    written = []
    for link in links:
        ends = (
            [link.between, link.between[::-1]]
            if link.between is not None
            else [(str(link.from_), str(link.to))]
        )
        rates = [
            _rate(wanted[end]) if wanted[end] != now[end] else None for end in ends
        ]
        if not any(rates):
            written.append(link)
        elif len(set(rates)) == 1:
            written.append(
                msgspec.structs.replace(link, bandwidth=rates[0] or link.bandwidth)
            )
        else:
            written += [
                msgspec.structs.replace(
                    link,
                    between=None,
                    from_=end[0],
                    to=end[1],
                    bandwidth=rate or link.bandwidth,
                )
                for end, rate in zip(ends, rates, strict=True)
            ]
    return written


def _rate(value: float) -> str:
    return f"{rounded_up(value * 8 / 1e6, _DIGITS)!r} Mbit/s"


def _with_room(
    servers: Sequence[ServerSpec], problem: Problem, room: NDArray[np.float64]
) -> list[ServerSpec]:
    """Give every place the room wanted: by a reserve where its memory is enough."""
    written = []
    for s, server in enumerate(servers):
        places = problem.places_of[s].tolist()
        tiers = dict(server.tiers or {"gpu": TierSpec()})
        reserve = server.reserve
        for n, v in enumerate(places):
            name = problem.labels.places[v][1]
            change = float(problem.room_bytes[v] - room[v])
            now = problem.reserve_bytes[v] if n == 0 else 0.0
            if n == 0 and change >= 0:
                backbone = now - _bytes(server.reserve)
                wanted = problem.capacity_bytes[v] - backbone - room[v]
                # Rounded down: the room is what the plan needs, and a little more.
                reserve = _size_down(float(wanted))
            else:
                tiers[name] = msgspec.structs.replace(
                    tiers[name], capacity=_size_up(float(room[v] + now))
                )
        keep = server.tiers is None and tiers == {"gpu": TierSpec()}
        written.append(
            msgspec.structs.replace(
                server, tiers=None if keep else tiers, reserve=reserve
            )
        )
    return written


def _bytes(quantity: float | str) -> float:
    from meldopt.units import parse_quantity

    return parse_quantity(quantity, "bytes")


def _size_up(value: float) -> str:
    return f"{rounded_up(value / 2.0**30, _DIGITS)!r} GiB"


def _size_down(value: float) -> str:
    down = -rounded_up(-value / 2.0**30, _DIGITS) if value < 0 else value / 2.0**30
    return f"{int(down * 1e5) / 1e5!r} GiB"


def _with_budget(application: ApplicationSpec, budget: float) -> ApplicationSpec:
    return msgspec.structs.replace(
        application, quality_budget=f"{rounded_up(budget, _DIGITS)!r} nats"
    )
