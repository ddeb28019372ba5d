"""Two passes over a trace: first what is there, then all counts with their errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from meldopt.errors import FileFormatError, TraceError
from meldopt.trace.records import ANY_HOME, joined

from .curves import (
    FUSE_SCALE,
    PRUNE_SCALE,
    GateCounts,
    fuse_cost,
    growing,
    near,
    prune_ends,
    prune_losses,
    shares,
)
from .tally import Batches, Tally, followers

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from meldopt.trace import Chunk, Trace

    from .profile import Settings

    Arrays = dict[str, NDArray[Any]]

MOST_BYTES = 2 << 30
"""Memory that the tables of paths may take."""


def whole_requests(trace: Trace) -> Iterator[Chunk]:
    """Yield the tokens in blocks that cut no request."""
    waiting: list[Chunk] = []
    for chunk in trace.chunks():
        if not len(chunk):
            continue
        cut = int(np.searchsorted(chunk.token_request, chunk.token_request[-1]))
        if cut:
            yield joined([*waiting, chunk.take(slice(0, cut))])
            waiting = [chunk.take(slice(cut, None))]
        else:
            waiting.append(chunk)
    if waiting:
        yield joined(waiting)


def _of_phase(block: Chunk, trace: Trace, settings: Settings) -> Chunk:
    """Keep the tokens of prompts, or of outputs."""
    if settings.phase == "all":
        return block
    request = block.token_request
    position = np.arange(len(request)) - np.searchsorted(request, request)
    prompt = np.zeros(len(request), dtype=bool)
    if trace.header.prompt_recorded:
        prompt = position < trace.requests.prompt_tokens[request]
    return block.take(prompt if settings.phase == "prompt" else ~prompt)


class FirstPass:
    """Domains, how many tokens they have, and gates."""

    def __init__(self, trace: Trace, settings: Settings) -> None:
        head, requests = trace.header, trace.requests
        if settings.by == "demand":
            names = [
                app if home == ANY_HOME else f"{app}@{home}"
                for app in head.applications
                for home in head.homes
            ]
            number = requests.application * len(head.homes) + requests.home
        else:
            names, number = list(head.applications), requests.application
        batches = Batches(len(names))
        self.gates = GateCounts(head.num_layers, head.top_k)
        self.ends = prune_ends(settings.prune_shares, head.top_k)
        for block in whole_requests(trace):
            part = _of_phase(block, trace, settings)
            batches.add(part.token_request, number[part.token_request])
            if self.ends:
                self.gates.add(part.gates)
        used = batches.tokens > 0
        if not used.any():
            raise TraceError(
                f"{trace.place}: got no tokens of the phase {settings.phase!r}, "
                "expected at least one"
            )
        self.batches = Batches(int(used.sum()))
        for name in ("requests", "tokens", "squares"):
            setattr(self.batches, name, getattr(batches, name)[used])
        self.domains = tuple(
            name for name, kept in zip(names, used, strict=True) if kept
        )
        # A domain without tokens is none; no token asks for its number.
        self.domain_of = (np.cumsum(used) - 1)[number]
        self.thresholds = self.gates.thresholds(self.ends)


class SecondPass:
    """All counts, with what their errors need."""

    def __init__(self, trace: Trace, settings: Settings, first: FirstPass) -> None:
        self.trace = trace
        self.settings = settings
        self.first = first
        self.experts = trace.header.experts
        self.top_k = trace.header.top_k
        self.start = np.concatenate([[0], np.cumsum(self.experts)]).astype(np.int64)
        num_d, num_l = len(first.domains), len(self.experts)
        self._refuse_large(num_d)
        bits = trace.header.signature_bits
        self.masks, self.limits = near(trace, settings.distances) if bits else ([], [])
        pruned, fused = len(first.ends), len(self.masks)
        self.calls = [Tally(num_d, count) for count in self.experts]
        self.leave = Tally(num_d, self.experts[-1])
        self.onward: list[Tally] = []
        self.gather: list[Tally] = []
        self.together: list[Tally] = []
        if settings.paths:
            before = (0, *self.experts[:-1])
            self.onward = [
                Tally(num_d, a * b) for a, b in zip(before, self.experts, strict=True)
            ]
            if self.top_k > 1:
                self.gather = [Tally(num_d, count**2) for count in self.experts]
                self.together = [Tally(num_d, count**2) for count in self.experts]
        # One more cell than segments: what is in none.
        self.pruned = [Tally(num_d, pruned + 1) for _ in range(num_l)]
        self.mass = [Tally(num_d, pruned + 1) for _ in range(num_l)]
        self.fused = [Tally(num_d, fused) for _ in range(num_l)]
        self.picked: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
        self._passed = np.zeros(num_d, dtype=np.int64)
        self._wanted = [
            np.unique(np.linspace(0, count - 1, settings.samples).astype(np.int64))
            for count in first.batches.tokens
        ]
        for block in whole_requests(trace):
            part = _of_phase(block, trace, settings)
            if len(part):
                self._take(part)

    def _refuse_large(self, num_d: int) -> None:
        if not self.settings.paths:
            return
        squares = sum(count**2 for count in self.experts)
        size = 24 * (num_d + 1) * squares * (3 if self.top_k > 1 else 1)
        if size > MOST_BYTES:
            raise TraceError(
                f"{self.trace.place}: paths of {len(self.experts)} layers in {num_d} "
                f"domains take {size / 2**30:.1f} GiB to count, expected at most "
                f"{MOST_BYTES >> 30}: leave paths out, or import fewer domains"
            )

    def _take(self, block: Chunk) -> None:
        request = block.token_request
        domain = self.first.domain_of[request]
        num_l = len(self.experts)
        ones: dict[int, NDArray[np.float64]] = {}

        def add(tally: Tally, cells: NDArray[np.int64]) -> None:
            width = cells.shape[1]
            if width not in ones:
                ones[width] = np.ones((len(block), width))
            tally.add(cells, ones[width], request, domain)

        gate_share = shares(block.gates)
        for layer in range(num_l):
            count = self.experts[layer]
            here = block.experts[:, layer].astype(np.int64)
            primary = here[:, :1]
            add(self.calls[layer], here)
            if self.onward and layer:
                before = block.experts[:, layer - 1, :1].astype(np.int64)
                add(self.onward[layer], before * count + here)
            if self.gather:
                add(self.gather[layer], here[:, 1:] * count + primary)
                one, other = np.triu_indices(self.top_k, 1)
                low = np.minimum(here[:, one], here[:, other])
                high = np.maximum(here[:, one], here[:, other])
                add(self.together[layer], low * count + high)
            if len(self.first.ends):
                segment = np.searchsorted(
                    self.first.thresholds[layer], block.gates[:, layer, 1:]
                )
                add(self.pruned[layer], segment)
                self.mass[layer].add(segment, gate_share[:, layer, 1:], request, domain)
            if self.masks:
                self._take_signatures(block, layer, here, domain)
        add(self.leave, block.experts[:, -1, :1].astype(np.int64))
        self._take_samples(block, domain)

    def _take_signatures(
        self,
        block: Chunk,
        layer: int,
        here: NDArray[np.int64],
        domain: NDArray[np.int64],
    ) -> None:
        assert block.signature is not None
        found = followers(
            here,
            np.ascontiguousarray(block.signature[:, layer]),
            np.ascontiguousarray(block.token_request),
            self.settings.window,
            np.array(self.masks, dtype=np.uint64),
            np.array(self.limits, dtype=np.int64),
            self.experts[layer],
        )
        grown = np.diff(found, axis=1, prepend=0).astype(np.float64)
        cells = np.tile(np.arange(len(self.masks)), (len(block), 1))
        self.fused[layer].add(cells, grown, block.token_request, domain)

    def _take_samples(self, block: Chunk, domain: NDArray[np.int64]) -> None:
        """Pick evenly spaced tokens of each domain."""
        for d, wanted in enumerate(self._wanted):
            mine = np.flatnonzero(domain == d)
            low, high = np.searchsorted(
                wanted, [self._passed[d], self._passed[d] + len(mine)]
            )
            tokens = mine[wanted[low:high] - self._passed[d]]
            self._passed[d] += len(mine)
            if len(tokens):
                chosen = block.experts[tokens].astype(np.int64)
                self.picked.append((np.full(len(tokens), d), chosen))

    # -- results -----------------------------------------------------------------------

    def _mean(self, tallies: list[Tally]) -> NDArray[np.float64]:
        """Put the means of all layers side by side, (D, cells)."""
        return np.concatenate([self.first.batches.mean(t) for t in tallies], axis=1)

    def _error(self, tallies: list[Tally]) -> NDArray[np.float64]:
        return np.concatenate([self.first.batches.error(t) for t in tallies], axis=1)

    def routing(self) -> tuple[Arrays, Arrays]:
        """Return calls, paths, co-activation and samples, and their errors."""
        arrays: dict[str, NDArray[Any]] = {"calls": self._mean(self.calls)}
        errors: dict[str, NDArray[Any]] = {"calls_se": self._error(self.calls)}
        if self.picked:
            sampled = np.concatenate([one for one, _ in self.picked])
            order = np.argsort(sampled, kind="stable")
            arrays["sample_domain"] = sampled[order]
            arrays["sample_experts"] = np.concatenate(
                [chosen for _, chosen in self.picked]
            )[order]
        if self.settings.paths:
            self._paths(arrays, errors)
        return arrays, errors

    def _paths(
        self, arrays: dict[str, NDArray[Any]], errors: dict[str, NDArray[Any]]
    ) -> None:
        num_d, num_n = len(self.first.domains), int(self.start[-1])
        first = self.experts[0]
        for name, found in (
            ("entry", arrays["calls"]),
            ("entry_se", errors["calls_se"]),
        ):
            ends = np.zeros((num_d, num_n))
            ends[:, :first] = found[:, :first]
            (errors if name.endswith("_se") else arrays)[name] = ends
        batches = self.first.batches
        for name, found in (
            ("exit", batches.mean(self.leave)),
            ("exit_se", batches.error(self.leave)),
        ):
            ends = np.zeros((num_d, num_n))
            ends[:, self.start[-2] :] = found
            (errors if name.endswith("_se") else arrays)[name] = ends
        pairs, weight, error = [], [], []
        for tallies, step in ((self.onward, 1), (self.gather, 0)):
            for layer, tally in enumerate(tallies):
                cells = np.flatnonzero(tally.sums.any(axis=0))
                one, other = np.divmod(cells, self.experts[layer])
                pairs.append(
                    np.stack(
                        [one + self.start[layer - step], other + self.start[layer]],
                        axis=1,
                    )
                )
                weight.append(batches.mean(tally)[:, cells])
                error.append(batches.error(tally)[:, cells])
        both = np.concatenate(pairs).reshape(-1, 2)
        order = np.lexsort((both[:, 1], both[:, 0]))
        arrays["pairs"] = both[order]
        arrays["pair_weight"] = np.concatenate(weight, axis=1)[:, order]
        errors["pair_weight_se"] = np.concatenate(error, axis=1)[:, order]
        if self.together:
            widest = max(self.experts)
            table = np.zeros((2, num_d, len(self.experts), widest, widest))
            for layer, tally in enumerate(self.together):
                count = self.experts[layer]
                for n, found in enumerate((batches.mean(tally), batches.error(tally))):
                    half = found.reshape(num_d, count, count)
                    whole = half + half.transpose(0, 2, 1)
                    table[n, :, layer, :count, :count] = whole
            errors["coactivation"], errors["coactivation_se"] = table

    def _curve(
        self, tallies: list[Tally], segments: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return shares of calls and their errors, (D, L, M) each."""
        shape = (len(self.first.domains), len(tallies), -1)
        mean, error = (
            table.reshape(shape)[:, :, :segments] / self.top_k
            for table in (self._mean(tallies), self._error(tallies))
        )
        return mean, error

    def pruning(
        self, given: Mapping[str, NDArray[Any]], source: str
    ) -> tuple[Arrays, Arrays, list[str]]:
        """Return the curve of pruning, what belongs to it, and notes."""
        segments = len(self.first.ends)
        if not segments:
            return {}, {}, ["no curve of pruning: a token's only call is never pruned"]
        width, error = self._curve(self.pruned, segments)
        mass, mass_error = (
            table * self.top_k for table in self._curve(self.mass, segments)
        )
        calls = self.top_k * self.first.batches.tokens.sum()
        ends = np.array([np.cumsum(t.sums.sum(axis=0)[:-1]) for t in self.pruned])
        scale = self.settings.prune_scale
        loss, known = prune_losses(self.first.gates, ends / calls, given, scale)
        if known:
            notes = [f"prune_loss: read off the curve measured in {source}"]
        elif scale is None:
            notes = [
                f"prune_loss: not measured: the fallback {PRUNE_SCALE:g} nats per "
                "square of a gate's share"
            ]
        else:
            notes = []
        return (
            {"prune_width": width, "prune_loss": loss[None]},
            {
                "prune_width_se": error,
                "prune_mass": mass,
                "prune_mass_se": mass_error,
                "prune_threshold": self.first.thresholds.astype(np.float64),
            },
            notes,
        )

    def fusion(
        self, given: Mapping[str, NDArray[Any]], source: str
    ) -> tuple[Arrays, Arrays, list[str]]:
        """Return the curve of fusion, what belongs to it, and notes."""
        segments = len(self.masks)
        if not segments:
            why = (
                "no distances" if self.trace.header.signature_bits else "no signatures"
            )
            taken = {
                key: given[key] for key in ("fuse_width", "fuse_loss") if key in given
            }
            if taken:
                return taken, {}, [f"the trace has {why}: fusion as in {source}"]
            return {}, {}, [f"no curve of fusion: the trace has {why}"]
        width, error = self._curve(self.fused, segments)
        # A call may follow at a small distance and lead at a larger one: a narrow
        # segment may come out below nothing.
        total = np.clip(np.maximum.accumulate(np.cumsum(width, axis=2), axis=2), 0, 1)
        width = np.diff(total, axis=2, prepend=0.0)
        bits = self.trace.header.signature_bits
        cost = fuse_cost(self.masks, self.limits, bits)
        pooled = np.average(width, axis=0, weights=self.first.batches.tokens)
        scale = self.settings.fuse_scale
        notes = []
        if scale is None and "fuse_loss" in given:
            slope = given["fuse_loss"].mean(axis=0)
            if slope.shape[1] != segments:
                raise FileFormatError(
                    f"{source}: fuse_loss: got {slope.shape[1]} segments, expected "
                    f"{segments}, one for each distance of signatures"
                )
            notes = [f"fuse_loss: as measured in {source}, segment by segment"]
        else:
            each = FUSE_SCALE if scale is None else scale
            slope = np.tile(each * cost, (len(self.experts), 1))
            if scale is None:
                notes = [
                    f"fuse_loss: not measured: the fallback {each:g} nats per "
                    "(1 - cosine)"
                ]
        loss = np.stack(
            [growing(row, wide) for row, wide in zip(slope, pooled, strict=True)]
        )
        return (
            {"fuse_width": width, "fuse_loss": loss[None]},
            {
                "fuse_width_se": error,
                "fuse_distance": np.array(self.limits, dtype=np.int64),
                "fuse_prefix": np.array(
                    [mask.bit_count() for mask in self.masks], dtype=np.int64
                ),
            },
            notes,
        )
