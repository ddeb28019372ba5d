"""From the losses of single changes to a profile, and how far they can be trusted."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from meldopt.importers.profile import profile_of

from .changes import Change, Pruned, Together
from .sampling import Estimate, agreement, by_domain, over_domains, rank_correlation
from .statistics import calls, rising

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from meldopt.trace import Trace

    from .survey import Scope

COUNTED = (
    "calls",
    "pairs",
    "pair_weight",
    "entry",
    "exit",
    "sample_experts",
    "sample_domain",
)
"""Arrays of a profile that are counted in a trace."""

CURVES = ("prune", "fuse", "fuse_cosine")
"""Kinds of changes of a whole layer, by growing strength."""


@dataclass(kw_only=True, eq=False)
class Changes:
    """All single changes in one list, kind after kind."""

    all: list[Change] = field(default_factory=list)
    kinds: dict[str, tuple[slice, tuple[int, ...]]] = field(default_factory=dict)

    def add(self, kind: str, changes: list[Any], shape: tuple[int, ...]) -> None:
        """Append the changes of a kind, which has axes of its own."""
        start = len(self.all)
        self.all += changes
        self.kinds[kind] = (slice(start, len(self.all)), shape)

    def of(self, kind: str) -> NDArray[np.object_]:
        """Return the changes of a kind by its axes."""
        rows, shape = self.kinds[kind]
        table = np.empty(rows.stop - rows.start, dtype=object)
        table[:] = self.all[rows]
        return table.reshape(shape)


@dataclass(frozen=True, kw_only=True, eq=False)
class Round:
    """All single changes measured on one text.

    Attributes
    ----------
    changes
        What was done; its counts are those of this text.
    losses
        KL of each change on each sequence, nats per token, (C, R).
    domain
        Domain of each sequence, (R,).
    calls
        Calls per token of each expert in each sequence, (N, R).
    formats
        Names of the formats.
    shares
        Share of a layer's calls that each change of a layer touched, by kind, (L, M).
    """

    changes: Changes
    losses: NDArray[np.float64]
    domain: NDArray[np.int64]
    calls: NDArray[np.float64]
    formats: tuple[str, ...]
    shares: dict[str, NDArray[np.float64]] = field(init=False)

    def __post_init__(self) -> None:
        # Counted now: a change that is made again goes on counting.
        shares = {kind: _shares(self.changes.of(kind)) for kind in CURVES}
        object.__setattr__(self, "shares", shares)

    def by_domain(self, kind: str) -> Estimate:
        """KL of a kind by its axes and domain."""
        rows, shape = self.changes.kinds[kind]
        losses = self.losses[rows].reshape(*shape, len(self.domain))
        return by_domain(losses, self.domain)

    def mean(self, kind: str) -> Estimate:
        """KL of a kind by its axes, domains with equal weight."""
        return over_domains(self.by_domain(kind))


def _shares(table: NDArray[np.object_]) -> NDArray[np.float64]:
    """Share of a layer's calls that each change touched; (L, M)."""
    shares = np.zeros(table.shape)
    for index, change in np.ndenumerate(table):
        touched = change.dropped if isinstance(change, Pruned) else change.fused
        shares[index] = touched / change.calls
    return shares


@dataclass(frozen=True, kw_only=True, eq=False)
class MixedPlan:
    """Many changes at once, with the sum of their single losses."""

    kind: str
    change: Together
    predicted: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Findings:
    """What two rounds of measurements say.

    Attributes
    ----------
    experts
        Experts of each layer, L entries.
    domains
        Names, D.
    pairs
        (layer, i, j): expert i was answered by j.
    plan, test
        What losses are taken from, and what they are checked with.
    """

    experts: tuple[int, ...]
    domains: tuple[str, ...]
    pairs: list[tuple[int, int, int]]
    plan: Round
    test: Round

    @property
    def start(self) -> NDArray[np.int64]:
        """First expert of each layer in the numbering over all; (L + 1,)."""
        return np.concatenate([[0], np.cumsum(self.experts)]).astype(np.int64)

    # -- a profile ---------------------------------------------------------------------

    def profile(self, trace: Trace) -> dict[str, NDArray[Any]]:
        """Fill the arrays of an instance's profile.

        KL divergences are means over all domains: the loss of a call is taken to be
        the same in each. ``figures`` says how well that predicts the losses by domain
        of unseen text, and how well a domain's own few calls do.
        """
        kl = self.plan.mean("format").mean
        exact = np.zeros((len(kl), 1))  # the unchanged model
        measured_calls = self.plan.calls.mean(axis=1)
        counted = profile_of(trace).arrays
        arrays: dict[str, NDArray[Any]] = {
            **{name: counted[name] for name in COUNTED},
            "kl": np.concatenate([exact, kl], axis=1)[None],
            "kl_calls": measured_calls[None],
        }
        for kind in ("prune", "fuse"):
            if self.plan.shares[kind].size:
                width, loss = self._curve(kind, trace.header.top_k)
                arrays[f"{kind}_width"] = width[None]
                arrays[f"{kind}_loss"] = loss[None]
        if self.pairs:
            arrays["similar"] = self._pairs()
            arrays["similar_loss"] = self._answer_loss(measured_calls)[None]
        return arrays

    def _curve(
        self, kind: str, top_k: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Width in shares of calls and loss per call of each segment; (L, M) each."""
        share = self.plan.shares[kind]
        loss = self.plan.mean(kind).mean
        width = np.diff(share, axis=1, prepend=0.0)
        extra = np.diff(loss, axis=1, prepend=0.0)
        slope = np.divide(
            extra, width * top_k, out=np.zeros_like(extra), where=width > 0
        )
        return width, np.stack(
            [rising(one, wide) for one, wide in zip(slope, width, strict=True)]
        )

    def _pairs(self) -> NDArray[np.int64]:
        start = self.start
        return np.array([(start[n] + i, start[n] + j) for n, i, j in self.pairs])

    def _answer_loss(self, per_token: NDArray[np.float64]) -> NDArray[np.float64]:
        """Loss per call of each pair; the layer's largest where nothing called."""
        expert = self._pairs()[:, 0]
        layer = np.array([n for n, _, _ in self.pairs])
        loss = np.divide(
            self.plan.mean("similar").mean,
            per_token[expert],
            out=np.zeros(len(expert)),
            where=per_token[expert] > 0,
        )
        for number in range(len(self.experts)):
            unseen = (layer == number) & (per_token[expert] == 0)
            if unseen.any():
                loss[unseen] = loss[layer == number].max()
        return loss

    # -- everything --------------------------------------------------------------------

    def measured(self) -> dict[str, NDArray[Any]]:
        """All estimates and errors by domain, of both rounds."""
        arrays: dict[str, NDArray[Any]] = {"pairs_answered": self._pairs()}
        for split, one in (("plan", self.plan), ("test", self.test)):
            used = by_domain(one.calls, one.domain)
            arrays[f"{split}_calls"] = used.mean.astype(np.float32)
            for kind in one.changes.kinds:
                found = one.by_domain(kind)
                arrays[f"{split}_{kind}_kl"] = found.mean.astype(np.float32)
                arrays[f"{split}_{kind}_error"] = found.error.astype(np.float32)
            for kind in CURVES:
                arrays[f"{split}_{kind}_share"] = one.shares[kind].astype(np.float32)
        return arrays

    def figures(self, scope: Scope) -> dict[str, Any]:
        """Sum up losses with their errors, and compare with unseen text."""
        figures: dict[str, Any] = {"formats": [], "held_out": {}}
        kl = self.plan.mean("format")
        for number, name in enumerate(self.plan.formats):
            mean, error = kl.mean[:, number], kl.error[:, number]
            figures["formats"].append(
                {
                    "format": name,
                    "mean_kl": float(mean.mean()),
                    "median_relative_error": float(
                        np.median(error[mean > 0] / mean[mean > 0])
                    ),
                    "sum_kl_by_layer": _by_layer(mean, self.start),
                }
            )
        for number, name in enumerate(self.test.formats):
            at = self.plan.formats.index(name)
            one = self.plan.mean("format")
            other = self.test.mean("format")
            figures["held_out"][name] = asdict(
                agreement(
                    Estimate(mean=one.mean[:, at], error=one.error[:, at]),
                    Estimate(mean=other.mean[:, number], error=other.error[:, number]),
                )
            ) | self._by_domain_or_pooled(at, number)
        for kind in ("prune", "fuse", "fuse_cosine", "similar"):
            if self.plan.mean(kind).mean.size:
                figures["held_out"][kind] = asdict(
                    agreement(self.plan.mean(kind), self.test.mean(kind))
                )
        strengths = {
            "prune": scope.prune_shares,
            "fuse": scope.distances,
            "fuse_cosine": scope.cosines,
        }
        for kind, strength in strengths.items():
            figures[kind] = self._curve_figures(kind, strength)
        return figures

    def _curve_figures(
        self, kind: str, strength: tuple[float, ...]
    ) -> list[dict[str, Any]]:
        found, share = self.plan.mean(kind), self.plan.shares[kind]
        return [
            {
                "at": strength[column],
                "share_by_layer": share[:, column].round(4).tolist(),
                "kl_by_layer": _short(found.mean[:, column]),
                "error_by_layer": _short(found.error[:, column]),
            }
            for column in range(share.shape[1])
        ]

    def _by_domain_or_pooled(self, at: int, number: int) -> dict[str, float]:
        """Error of predicting a domain's KL on unseen text in two ways.

        From the loss per call of the domain itself, or of all domains together, each
        times the calls of the unseen text; mean absolute error ÷ mean.
        """
        known = self.plan.by_domain("format").mean[:, at]
        true = self.test.by_domain("format").mean[:, number]
        used = by_domain(self.plan.calls, self.plan.domain).mean
        now = by_domain(self.test.calls, self.test.domain).mean
        pooled = known.mean(axis=1) / np.maximum(used.mean(axis=1), 1e-12)
        typical = pooled[:, None] * now
        own = np.where(used > 0, known / np.maximum(used, 1e-12) * now, typical)
        return {
            "error_from_own_domain": float(np.abs(own - true).mean() / true.mean()),
            "error_from_all_domains": float(
                np.abs(typical - true).mean() / true.mean()
            ),
        }

    def calls_figures(self, trace: Trace) -> dict[str, float]:
        """How well the calls of the recorded text are known."""
        found = calls(trace)
        seen = found.mean > 0
        return {
            "median_relative_error": float(
                np.median(found.error[seen] / found.mean[seen])
            ),
            "never_called": float((~seen).mean()),
        }

    # -- many changes at once ----------------------------------------------------------

    def mixed(self, count: int, *, seed: int) -> list[MixedPlan]:
        """Draw mixed plans: one format each, random formats, and those with the rest.

        In the last kind every layer is also pruned, fused, or has its experts answered
        by similar ones, as it comes.
        """
        rng = np.random.default_rng(seed)
        formats = self.plan.changes.of("format")
        kl = self.plan.mean("format").mean
        num_n, num_b = kl.shape
        plans = [
            MixedPlan(
                kind=f"all {name}",
                change=Together(changes=tuple(formats[:, number])),
                predicted=float(kl[:, number].sum()),
            )
            for number, name in enumerate(self.plan.formats)
        ]
        for number in range(count):
            chosen = rng.permutation(np.arange(num_n) % num_b)
            changes = list(formats[np.arange(num_n), chosen])
            predicted = float(kl[np.arange(num_n), chosen].sum())
            if number % 2:
                for more, loss in self._one_of_each_layer(rng):
                    changes.append(more)
                    predicted += loss
            plans.append(
                MixedPlan(
                    kind="formats and all else" if number % 2 else "formats",
                    change=Together(changes=tuple(changes)),
                    predicted=predicted,
                )
            )
        return plans

    def _one_of_each_layer(
        self, rng: np.random.Generator
    ) -> list[tuple[Change, float]]:
        """Prune, fuse or substitute something in each layer."""
        drawn = []
        layer_of_pair = np.array([n for n, _, _ in self.pairs], dtype=np.int64)
        for layer in range(len(self.experts)):
            kind = ("prune", "fuse", "similar")[rng.integers(3)]
            table = self.plan.changes.of(kind)
            loss = self.plan.mean(kind).mean
            if kind == "similar":
                mine = np.flatnonzero(layer_of_pair == layer)
            else:
                table, loss = table[layer], loss[layer]
                mine = np.arange(len(table))
            if len(mine):
                at = int(rng.choice(mine))
                drawn.append((table[at], float(loss[at])))
        return drawn


@dataclass(frozen=True, kw_only=True, eq=False)
class Additivity:
    """Sums of single losses against the losses of all changes at once."""

    arrays: dict[str, NDArray[Any]]
    figures: dict[str, Any]


def additivity(
    plans: list[MixedPlan], losses: NDArray[np.float64], domain: NDArray[np.int64]
) -> Additivity:
    """Compare mixed plans with the sums of their single losses.

    Parameters
    ----------
    plans
        The plans, J.
    losses
        KL of each on each sequence, (J, R).
    domain
        (R,)
    """
    found = over_domains(by_domain(losses, domain))
    predicted = np.array([plan.predicted for plan in plans])
    kinds = [plan.kind for plan in plans]
    figures: dict[str, Any] = {}
    for kind in dict.fromkeys(kinds):
        mine = np.array([one == kind for one in kinds])
        figures[kind] = {
            "plans": int(mine.sum()),
            "sum_of_single_kl": float(predicted[mine].mean()),
            "kl_together": float(found.mean[mine].mean()),
            "error": float(found.error[mine].mean()),
            "together_over_sum": float((found.mean[mine] / predicted[mine]).mean()),
            "rank_correlation": (
                rank_correlation(predicted[mine], found.mean[mine])
                if mine.sum() > 2
                else None
            ),
        }
    return Additivity(
        arrays={
            "mixed_kind": np.array(kinds),
            "mixed_predicted": predicted,
            "mixed_kl": found.mean,
            "mixed_error": found.error,
        },
        figures=figures,
    )


def _by_layer(values: NDArray[np.float64], start: NDArray[np.int64]) -> list[float]:
    return _short(np.add.reduceat(values, start[:-1]))


def _short(values: NDArray[np.float64]) -> list[float]:
    """Round to four digits that count."""
    return [float(f"{value:.4g}") for value in values]
