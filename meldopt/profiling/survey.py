"""Everything that is measured of a model, and how it becomes a profile.

Losses are measured on sequences of the text ``plan`` and checked on ``test``, which
nothing was chosen or measured on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .changes import Fused, Pruned, Quantized, Substituted
from .findings import Changes, Findings, Round, additivity
from .hooks import MoeLayer, moe_layers
from .measure import cross_entropy, measure
from .quantize import format_of
from .routing import SIGNATURE_SEED, Text, record_routing
from .sampling import by_domain
from .simhash import planes
from .similarity import Similarity, matched, similarity
from .statistics import calls_by_sequence, gate_quantiles

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

    from meldopt.trace import Trace

OnProgress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Scope:
    """What is measured, and on how much text.

    Attributes
    ----------
    formats
        Integer formats, the widest first.
    checked
        Those of them that are measured again on the text ``test``.
    sequences
        Sequences of each domain that losses are measured on.
    prune_shares
        Shares of a layer's calls that are dropped, growing.
    distances
        Largest distances of signatures that fuse, growing: these make the curve.
    cosines
        Cosines at which fusion is measured beside it, falling.
    joint
        Random mixed plans that additivity is checked on.
    batch
        Sequences that run together.
    seed
        Of the mixed plans.
    """

    formats: tuple[str, ...] = ("int8-g32", "int4-g32", "int3-g32", "int2-g32")
    checked: tuple[str, ...] = ("int4-g32", "int2-g32")
    sequences: int = 8
    prune_shares: tuple[float, ...] = (0.05, 0.1, 0.2, 0.35)
    distances: tuple[int, ...] = (2, 4, 7, 11)
    cosines: tuple[float, ...] = (0.98, 0.95, 0.9)
    joint: int = 24
    batch: int = 10
    seed: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Survey:
    """What was found out about a model.

    Attributes
    ----------
    plan, test
        Traces of the two texts.
    profile
        Arrays by the names that an instance's profile has.
    measured
        Everything measured, with errors; ``about`` says which axis is what.
    figures
        Numbers for people.
    """

    plan: Trace
    test: Trace
    profile: dict[str, NDArray[Any]]
    measured: dict[str, NDArray[Any]]
    figures: dict[str, Any]


def survey(
    model: nn.Module,
    plan: Text,
    test: Text,
    scope: Scope,
    *,
    name: str,
    about: dict[str, Any],
    on_progress: OnProgress = lambda _: None,
) -> Survey:
    """Record a model's routing and measure what changes of it cost.

    Parameters
    ----------
    model
        A causal language model of transformers, in evaluation mode.
    plan, test
        Text to measure on, and text to check with, of the same domains and length.
    scope
        What is measured.
    name, about
        Of the traces.
    on_progress
        Is told a line now and then.
    """
    layers = moe_layers(model)
    on_progress("routing")
    traces = [
        record_routing(
            model,
            layers,
            text,
            name=f"{name}/{split}",
            about=about | {"split": split},
            batch=scope.batch,
        )
        for split, text in (("plan", plan), ("test", test))
    ]
    first, second = (routing.trace for routing in traces)
    on_progress("similarity")
    alike = [
        similarity(layer, probes)
        for layer, probes in zip(layers, traces[0].probes, strict=True)
    ]
    pairs = [
        (number, i, j)
        for number, one in enumerate(alike)
        for i, j in matched(one.answer_error)
    ]
    length = plan.tokens.shape[1]
    hidden = [probes.shape[-1] for probes in traces[0].probes]
    rounds = []
    for text, trace, formats, split in (
        (plan, first, scope.formats, "plan"),
        (test, second, scope.checked, "test"),
    ):
        rows = text.spread(scope.sequences)
        changes = _single(layers, formats, scope, first, pairs, hidden, length)
        losses = measure(
            model,
            layers,
            text.tokens[rows],
            changes.all,
            batch=scope.batch,
            on_progress=_prefixed(on_progress, split),
        )
        rounds.append(
            Round(
                changes=changes,
                losses=losses,
                domain=text.domain[rows],
                calls=calls_by_sequence(trace)[:, rows],
                formats=formats,
            )
        )
    found = Findings(
        experts=tuple(layer.num_experts for layer in layers),
        domains=plan.domains,
        pairs=pairs,
        plan=rounds[0],
        test=rounds[1],
    )
    rows = test.spread(scope.sequences)
    mixed = found.mixed(scope.joint, seed=scope.seed)
    together = measure(
        model,
        layers,
        test.tokens[rows],
        [plan.change for plan in mixed],
        batch=scope.batch,
        on_progress=_prefixed(on_progress, "mixed plans"),
    )
    additive = additivity(mixed, together, test.domain[rows])
    entropy = by_domain(cross_entropy(model, test.tokens[rows]), test.domain[rows])
    return Survey(
        plan=first,
        test=second,
        profile=found.profile(first),
        measured=found.measured() | additive.arrays | _tables(alike),
        figures={
            "scope": asdict(scope),
            "loss_formats": ["bf16", *scope.formats],
            "bits_per_weight": {
                name: format_of(name).bits_per_weight for name in scope.formats
            },
            "signature_seed": SIGNATURE_SEED,
            "losses_measured_on_tokens": len(plan.spread(scope.sequences)) * length,
            "cross_entropy_test": dict(
                zip(test.domains, entropy.mean.round(4).tolist(), strict=True)
            ),
            "calls": found.calls_figures(first),
            **found.figures(scope),
            "additivity": additive.figures,
        },
    )


def _prefixed(on_progress: OnProgress, split: str) -> OnProgress:
    return lambda line: on_progress(f"{split}: {line}")


def _tables(alike: list[Similarity]) -> dict[str, NDArray[np.float32]]:
    """Similarities of all layers, (L, E, E), padded with NaN where layers differ."""
    largest = max(len(one.weight_cosine) for one in alike)

    def padded(table: NDArray[np.float32]) -> NDArray[np.float32]:
        room = largest - len(table)
        return np.pad(table, ((0, room), (0, room)), constant_values=np.nan)

    return {
        name: np.stack([padded(getattr(one, name)) for one in alike]).astype(np.float32)
        for name in ("weight_cosine", "output_cosine", "output_cka", "answer_error")
    }


def _single(
    layers: list[MoeLayer],
    formats: tuple[str, ...],
    scope: Scope,
    trace: Trace,
    pairs: list[tuple[int, int, int]],
    hidden: list[int],
    length: int,
) -> Changes:
    """List every single change."""
    made = Changes()
    num_l, top_k = len(layers), trace.header.top_k
    experts = [(n, e) for n in range(num_l) for e in range(layers[n].num_experts)]
    made.add(
        "format",
        [
            Quantized(layer=n, expert=e, form=format_of(name))
            for n, e in experts
            for name in formats
        ],
        (len(experts), len(formats)),
    )
    shares = tuple(s for s in scope.prune_shares if s * top_k < top_k - 1)
    below = gate_quantiles(trace, shares) if shares else np.zeros((num_l, 0))
    made.add(
        "prune",
        [Pruned(layer=n, below=float(cut)) for n in range(num_l) for cut in below[n]],
        (num_l, len(shares)),
    )
    normals = [planes(size, seed=SIGNATURE_SEED) for size in hidden]
    made.add(
        "fuse",
        [
            Fused(layer=n, batch=length, distance=distance, normals=normals[n])
            for n in range(num_l)
            for distance in scope.distances
        ],
        (num_l, len(scope.distances)),
    )
    made.add(
        "fuse_cosine",
        [
            Fused(layer=n, batch=length, cosine=cosine)
            for n in range(num_l)
            for cosine in scope.cosines
        ],
        (num_l, len(scope.cosines)),
    )
    made.add(
        "similar",
        [Substituted(layer=n, expert=i, other=j) for n, i, j in pairs],
        (len(pairs),),
    )
    return made
