"""Traces drawn from an instance's own statistics.

Every request belongs to a demand of the instance and has one domain; its tokens call
experts as `meldopt.generate.routing` says, with gates whose quantiles follow the curve
of pruning and, if asked for, signatures that make as many calls fusable as the widths
of fusion say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from meldopt.builder import build_problem
from meldopt.errors import InstanceError
from meldopt.trace import Chunk, Requests, Trace, TraceHeader

from .routing import routing_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from meldopt.instance import Instance

    from .arrivals import RequestTable
    from .routing import Routing

QUANTILES = 513
"""Points of the quantile function of gates."""

GATE_SPREAD = 0.8
"""Standard deviation of the logarithm of gates where the instance says nothing."""

_LEAST_GATE = 1e-4
_MOST_REPEATED = 0.95


def synthetic_trace(
    instance: Instance,
    table: RequestTable,
    *,
    seed: int,
    name: str | None = None,
    signature_bits: int = 0,
    repeat: float | None = None,
    prompt_recorded: bool = True,
) -> Trace:
    """Draw a trace of an instance; its tokens are drawn when they are asked for.

    Parameters
    ----------
    instance
        Whose calls, paths, co-activation and curves the tokens have.
    table
        Arrivals and lengths of the requests; each gets a demand, as likely as its
        rate, and a domain of its application, so that the tokens have the mix.
    seed
        The same seed gives the same trace, in whatever chunks.
    name
        Of the trace; that of the instance and the seed if None.
    signature_bits
        Bits of signatures; 0 for none. A token that is like the one before it in
        segment m of fusion shares its leading `prefix_bits` with it.
    repeat
        Share of tokens that call what the token before them in the request called. If
        None, as many as are fusable in some layer if there are signatures, else none.
    prompt_recorded
        Whether there are rows for prompts, or for outputs only.

    Raises
    ------
    InstanceError
        If a token calls no whole number of experts, or ``repeat`` is no share.
    """
    problem = build_problem(instance)
    if not problem.num_demands or not problem.rate.sum() > 0:
        raise InstanceError(f"{instance.name}: got no traffic, expected a rate above 0")
    routing = routing_of(instance, problem)
    rng = np.random.default_rng(seed)
    demand = rng.choice(
        problem.num_demands, size=len(table), p=problem.rate / problem.rate.sum()
    ).astype(np.int64)
    application = problem.application_of[demand]
    homes = np.unique(problem.home_of)
    requests = Requests(
        arrival_s=table.arrival_s,
        application=application,
        home=np.searchsorted(homes, problem.home_of[demand]),
        prompt_tokens=table.prompt_tokens,
        output_tokens=table.output_tokens,
    )
    rows = table.output_tokens + (table.prompt_tokens if prompt_recorded else 0)
    domain = _dealt(application, rows, routing.mixes)
    fusable = _fusable(routing)
    if repeat is not None and not 0 <= repeat < 1:
        raise InstanceError(f"repeat: got {repeat:g}, expected 0 up to but not 1")
    repeated = np.full(len(routing.domains), repeat or 0.0)
    if repeat is None and signature_bits:
        repeated = np.minimum(fusable.max(axis=(1, 2), initial=0.0), _MOST_REPEATED)
    prefixes = prefix_bits(signature_bits, fusable.shape[2])
    about = {
        "source": f"drawn by meldopt from the statistics of {instance.name}",
        "instance": {"name": instance.name, "digest": problem.instance_digest},
        "seed": seed,
    }
    if signature_bits:
        about["signature_prefix_bits"] = list(prefixes)
    header = TraceHeader(
        name=name or f"{instance.name}-{seed}",
        about=about,
        applications=problem.labels.applications,
        homes=tuple(problem.labels.servers[s] for s in homes),
        experts=tuple(int(count) for count in routing.counts),
        top_k=routing.top_k,
        layer_ids=tuple(int(n) for n in problem.layer_ids),
        signature_bits=signature_bits,
        prompt_recorded=prompt_recorded,
        tokens=int(rows.sum()),
        requests=len(table),
    )
    size = header.chunk_rows
    drawn = _Drawn(
        routing=routing,
        quantiles=gate_quantiles(routing),
        fusable=fusable,
        repeated=repeated,
        prefixes=prefixes,
        domain=domain,
        rows=rows,
        seed=seed,
        bits=signature_bits,
        size=size,
    )
    return Trace(
        header=msgspec.structs.replace(header, chunks=-(-header.tokens // size)),
        requests=requests,
        source=drawn.chunks,
    )


def _dealt(
    application: NDArray[np.int64],
    rows: NDArray[np.int64],
    mixes: NDArray[np.float64],
) -> NDArray[np.int64]:
    """Give each request a domain so that an application's tokens have its mix; (R,).

    The next request goes to the domain that is furthest behind: domains drawn at random
    would add the noise of whole requests to every statistic.
    """
    behind = np.zeros_like(mixes)
    domain = np.zeros(len(rows), dtype=np.int64)
    for n, (g, count) in enumerate(zip(application.tolist(), rows, strict=True)):
        behind[g] += mixes[g] * count
        d = int(np.argmax(np.where(mixes[g] > 0, behind[g], -np.inf)))
        behind[g, d] -= count
        domain[n] = d
    return domain


def _fusable(routing: Routing) -> NDArray[np.float64]:
    """Return the share of calls fusable in the first segments, (D, L, M)."""
    total: NDArray[np.float64] = np.cumsum(routing.fuse_width, axis=2)
    return np.minimum(total, _MOST_REPEATED)


def prefix_bits(bits: int, segments: int) -> tuple[int, ...]:
    """Return the leading bits of a signature that similar tokens share, by segment.

    The more alike, the more: with 64 bits and three segments 51, 38 and 26.
    """
    return tuple(bits - round(bits * (m + 1) / (segments + 2)) for m in range(segments))


def gate_quantiles(routing: Routing) -> NDArray[np.float64]:
    """Return gates by share of calls with smaller ones, (D, L, `QUANTILES`).

    Dropping a call costs about the square of its gate. So in the segments of pruning
    gates are as the square roots of the losses per call, and above them a log-normal
    tail goes on; the mean is 1 ÷ top_k. Where an instance has no such curve, or one of
    no loss, all is log-normal.
    """
    num_d, num_l = routing.calls.shape[:2]
    share = (np.arange(QUANTILES) + 0.5) / QUANTILES
    shape = np.exp(GATE_SPREAD * _normal_quantile(share))
    table = np.empty((num_d, num_l, QUANTILES))
    for d in range(num_d):
        for layer in range(num_l):
            gates = shape.copy()
            width, loss = routing.prune_width[d, layer], routing.prune_loss[d, layer]
            end = np.minimum(np.cumsum(width), 1.0)
            if len(width) and loss[-1] > 0 and end[-1] > 0:
                root = np.sqrt(loss)
                start = end - width
                cell = np.searchsorted(end, share, side="right")
                inside = cell < len(width)
                # Within a segment the mean is that of its loss: a line through it.
                part = (share[inside] - start[cell[inside]]) / np.maximum(
                    width[cell[inside]], 1e-300
                )
                gates[inside] = _risen(root, part, cell[inside])
                last = np.searchsorted(share, end[-1])
                if last < QUANTILES:
                    gates[last:] *= gates[last - 1] / max(shape[last - 1], 1e-300)
                gates = np.maximum.accumulate(gates)
            table[d, layer] = _with_mean(gates, 1 / routing.top_k)
    return table


def _with_mean(gates: NDArray[np.float64], mean: float) -> NDArray[np.float64]:
    """Scale gates to a mean, none above 1."""
    lower, upper = 0.0, 1 / max(float(gates.min()), _LEAST_GATE)
    for _ in range(60):
        middle = (lower + upper) / 2
        if np.minimum(middle * gates, 1.0).mean() < mean:
            lower = middle
        else:
            upper = middle
    return np.clip(upper * gates, _LEAST_GATE, 1.0)


def _risen(
    root: NDArray[np.float64],
    part: NDArray[np.float64],
    cell: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Return gates that rise within each segment by at most the way to the next."""
    below = np.concatenate([[0.0], root[:-1]])
    above = np.concatenate([root[1:], [2 * root[-1] - below[-1]]])
    half = np.minimum(root - below, above - root) / 2
    values: NDArray[np.float64] = root[cell] + half[cell] * (2 * part - 1)
    return values


def _normal_quantile(share: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy.special import ndtri

    values: NDArray[np.float64] = ndtri(share)
    return values


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Drawn:
    """Draws the tokens of a trace, chunk by chunk."""

    routing: Routing
    quantiles: NDArray[np.float64]  # (D, L, X)
    fusable: NDArray[np.float64]  # (D, L, M)
    repeated: NDArray[np.float64]  # (D,)
    prefixes: tuple[int, ...]
    domain: NDArray[np.int64]  # (R,)
    rows: NDArray[np.int64]  # (R,)
    seed: int
    bits: int
    size: int

    def chunks(self) -> Iterator[Chunk]:
        """Draw all tokens, from the first on."""
        from .drawing import draw

        routing = self.routing
        ends = np.cumsum(self.rows)
        total = int(ends[-1])
        num_l, top_k = len(routing.counts), routing.top_k
        seed = np.uint64(self.seed & 0xFFFFFFFFFFFFFFFF)
        narrow = np.uint8 if routing.counts.max() <= 256 else np.uint16
        root = 0
        before = np.zeros(num_l, dtype=np.uint64)
        for start in range(0, total, self.size):
            token = np.arange(start, min(start + self.size, total))
            request = np.searchsorted(ends, token, side="right")
            domain = self.domain[request]
            # A token that repeats is drawn with the number of the one it repeats.
            luck = _uniform(seed, token)
            opening = token == (ends - self.rows)[request]
            again = ~opening & (luck < self.repeated[domain])
            number = np.maximum.accumulate(np.where(again, root, token))
            root = int(number[-1])
            experts = np.empty((len(token), num_l, top_k), dtype=np.uint16)
            gates = np.empty((len(token), num_l, top_k), dtype=np.float32)
            draw(
                seed,
                number,
                domain,
                routing.counts,
                routing.alone,
                routing.order,
                routing.first,
                routing.paths,
                routing.inside,
                self.quantiles,
                experts,
                gates,
            )
            signature = None
            if self.bits:
                signature = self._signed(seed, token, domain, again, luck, before)
            yield Chunk(
                experts=experts.astype(narrow),
                gates=gates.astype(np.float16),
                token_request=request,
                signature=signature,
            )

    def _signed(
        self,
        seed: np.uint64,
        token: NDArray[np.int64],
        domain: NDArray[np.int64],
        again: NDArray[np.bool_],
        luck: NDArray[np.float64],
        before: NDArray[np.uint64],
    ) -> NDArray[np.uint64]:
        from .drawing import sign

        every = (1 << self.bits) - 1
        num_m = self.fusable.shape[2]
        # In how many of the segments the token is not alike: the first that holds it.
        segment = (luck[:, None, None] >= self.fusable[domain]).sum(axis=2)
        segment = np.where(again[:, None] & (segment < num_m), segment, -1)
        keep = [every & ~((1 << (self.bits - n)) - 1) for n in self.prefixes]
        signature = np.empty((len(token), len(self.routing.counts)), dtype=np.uint64)
        sign(
            seed,
            token,
            segment.astype(np.int64),
            np.array(keep, dtype=np.uint64),
            np.uint64(every),
            before,
            signature,
        )
        return signature


def _uniform(seed: np.uint64, token: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return a number from 0 up to 1 for each token, the same whenever asked."""
    with np.errstate(over="ignore"):
        state = token.astype(np.uint64) * np.uint64(0xD1342543DE82EF95) + seed
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            state = (state ^ (state >> np.uint64(shift))) * np.uint64(factor)
        state ^= state >> np.uint64(31)
    return (state >> np.uint64(11)).astype(np.float64) / 2.0**53
