"""What a trace says about a model, as an instance's profile, with sampling errors.

Everything is counted in two passes over the chunks: the first finds the gates below
which the wanted shares of calls lie, the second counts. What is held does not grow with
the number of tokens; a request that is longer than a chunk is held whole.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from meldopt.errors import FileFormatError, TraceError

from .counts import FirstPass, SecondPass

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from meldopt.trace import Trace

MEASURED = ("parameters", "size", "loss", "kl", "kl_calls", "similar", "similar_loss")
"""Arrays that are taken as they are from a measured profile: no trace has them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is estimated.

    Attributes
    ----------
    by
        What is a domain: an ``"application"`` of the trace, or a ``"demand"``, an
        application at a home, named ``application@home``.
    phase
        Which tokens count: ``"all"`` that have a row, those of the ``"prompt"``, or
        those of the ``"output"``.
    samples
        Tokens of each domain that are kept for the term ``parallel``.
    prune_shares
        Shares of a layer's calls at which segments of pruning end, rising. What would
        take the largest gate of a token is left out.
    distances
        Bits that the signatures of fused tokens differ in at most, rising: where
        segments of fusion end.
    window
        Tokens of a request that are in a step together.
    paths
        Whether activation paths and co-activation are counted.
    prune_scale
        Nats that a pruned call loses per square of its gate's share.
    fuse_scale
        Nats that a fused call loses per (1 - cosine) of the hidden states.
    """

    by: Literal["application", "demand"] = "application"
    phase: Literal["all", "prompt", "output"] = "all"
    samples: int = 40
    prune_shares: tuple[float, ...] = (0.05, 0.1, 0.2, 0.35)
    distances: tuple[int, ...] = (2, 4, 7, 11)
    window: int = 256
    paths: bool = True
    prune_scale: float | None = None
    fuse_scale: float | None = None

    def __post_init__(self) -> None:
        ends = self.prune_shares
        if any(not 0 < end < 1 for end in ends) or list(ends) != sorted(set(ends)):
            raise ValueError(
                f"shares of pruning: got {list(ends)}, expected rising numbers between "
                "0 and 1"
            )
        bits = self.distances
        if any(not 0 <= one <= 64 for one in bits) or list(bits) != sorted(set(bits)):
            raise ValueError(
                f"distances: got {list(bits)}, expected rising numbers of bits, 0 to 64"
            )
        for name, least in (("samples", 0), ("window", 1)):
            if getattr(self, name) < least:
                raise ValueError(
                    f"{name}: got {getattr(self, name)}, expected {least} or more"
                )
        for name in ("prune_scale", "fuse_scale"):
            value = getattr(self, name)
            if value is not None and not 0 < value < np.inf:
                raise ValueError(f"{name}: got {value:g}, expected nats above 0")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TraceProfile:
    """What was estimated.

    Attributes
    ----------
    domains
        Names, D.
    requests, tokens
        That were counted, (D,).
    arrays
        Of the profile, by the names of ``docs/files.md``.
    statistics
        What no instance has: ``NAME_se``, the standard error of each estimate;
        ``coactivation`` (D, L, E, E), how often two experts are called by one token;
        ``prune_threshold`` (L, M), the largest gate of each segment; ``prune_mass``
        (D, L, M), the share of all gates in it; ``fuse_distance`` (M,), the bits that
        tokens of a segment differ in at most, ``fuse_prefix`` (M,), of how many leading
        ones.
    model
        What the section ``model`` of an instance needs beside the profile's file.
    notes
        Where a number does not come from the trace.
    """

    domains: tuple[str, ...]
    requests: NDArray[np.int64]
    tokens: NDArray[np.int64]
    arrays: dict[str, NDArray[Any]]
    statistics: dict[str, NDArray[Any]]
    model: dict[str, Any]
    notes: tuple[str, ...] = field(default=())


def profile_of(
    trace: Trace,
    settings: Settings | None = None,
    *,
    measured: Mapping[str, NDArray[Any]] | None = None,
    measured_name: str = "measured profile",
    model: str | None = None,
) -> TraceProfile:
    """Estimate the profile of a model from a trace.

    Parameters
    ----------
    trace
        Of the requests that count.
    settings
        The defaults if None.
    measured
        Arrays of a profile of the same model whose losses were measured: these are
        taken over.
    measured_name
        What to call it in messages.
    model
        Name of the catalogue that the trace must be of.

    Raises
    ------
    TraceError
        If the trace holds what no trace may hold, or is not of the model.
    FileFormatError
        If the measured profile is of another model.
    """
    settings = settings or Settings()
    given = dict(measured or {})
    section = _section(trace, model)
    _check_measured(trace, given, measured_name)
    first = FirstPass(trace, settings)
    for number in ("prune", "fuse", "kl", "loss", "similar"):
        _check_domains(given, number, len(first.domains), measured_name)
    second = SecondPass(trace, settings, first)
    notes: list[str] = []
    arrays, statistics = second.routing()
    for kind in ("prune", "fuse"):
        table, more, note = (second.pruning if kind == "prune" else second.fusion)(
            given, measured_name
        )
        arrays |= table
        statistics |= more
        notes += note
    arrays |= _losses(given, len(first.domains))
    if "kl" not in arrays and "loss" not in arrays:
        notes.append(
            "no losses of formats: with this profile alone every format costs nothing"
        )
    if (first.batches.requests < 2).any():
        notes.append("a domain with one request has no sampling error (NaN)")
    return TraceProfile(
        domains=first.domains,
        requests=first.batches.requests.astype(np.int64),
        tokens=first.batches.tokens.astype(np.int64),
        arrays=dict(sorted(arrays.items())),
        statistics=dict(sorted(statistics.items())),
        model={**section, "domains": list(first.domains)},
        notes=tuple(notes),
    )


# -- checks ----------------------------------------------------------------------------


def _section(trace: Trace, model: str | None) -> dict[str, Any]:
    """Describe the model, or check that it is the one of the catalogue."""
    head = trace.header
    if model is None:
        same = len(set(head.experts)) == 1
        section: dict[str, Any] = {
            "layers": head.num_layers,
            "experts": head.experts[0] if same else list(head.experts),
            "top_k": float(head.top_k),
        }
        if head.layers != tuple(range(head.num_layers)):
            section["layer_ids"] = list(head.layers)
        return section
    from meldopt import catalogue

    facts = catalogue.model(model)
    pairs: list[tuple[str, object, object]] = [
        ("MoE layers", head.num_layers, facts.moe_layers),
        ("top_k", head.top_k, facts.top_k),
    ]
    pairs += [
        (f"experts[{layer}]", count, facts.experts)
        for layer, count in enumerate(head.experts)
    ]
    if head.layer_ids is not None:
        pairs.append(("layer_ids", list(head.layer_ids), list(facts.layer_ids)))
    for what, got, expected in pairs:
        if got != expected:
            raise TraceError(
                f"{trace.place}: {what}: got {got}, expected {expected} of {model}"
            )
    return {"catalogue": model}


def _check_measured(trace: Trace, given: Mapping[str, NDArray[Any]], name: str) -> None:
    """Refuse a measured profile of a model with other layers or experts."""
    num_l, num_n = trace.header.num_layers, sum(trace.header.experts)
    for key, layout in (
        ("calls", "DN"),
        ("parameters", "N"),
        ("size", "NX"),
        ("loss", "DNX"),
        ("kl", "DNX"),
        ("kl_calls", "DN"),
        ("prune_width", "DLX"),
        ("prune_loss", "DLX"),
        ("fuse_width", "DLX"),
        ("fuse_loss", "DLX"),
    ):
        if key not in given:
            continue
        array = given[key]
        split = "N" in layout and array.ndim == len(layout) + 1
        at = layout.replace("N", "LE") if split else layout
        ok = array.ndim == len(at)
        if ok:
            size = dict(zip(at, array.shape, strict=True))
            ok = size.get("L", num_l) == num_l and size.get("N", num_n) == num_n
            ok = ok and (not split or size["E"] * num_l == num_n)
        if not ok:
            raise FileFormatError(
                f"{name}: {key}: got shape {array.shape}, expected one of {num_l} "
                f"layers and {num_n} experts"
            )
    for kind in ("prune", "fuse"):
        both = [given.get(f"{kind}_{end}") for end in ("width", "loss")]
        shapes = [None if one is None else one.shape[1:] for one in both]
        if shapes[0] != shapes[1]:
            raise FileFormatError(
                f"{name}: {kind}_loss: got shape {shapes[1]} by layer, expected "
                f"{shapes[0]} like {kind}_width"
            )


def _check_domains(
    given: Mapping[str, NDArray[Any]], prefix: str, domains: int, name: str
) -> None:
    for key, array in given.items():
        by_domain = key not in ("similar",) and key.startswith(prefix)
        if by_domain and len(array) not in (1, domains):
            raise FileFormatError(
                f"{name}: {key}: got {len(array)} domains, expected 1 or the "
                f"{domains} of the trace"
            )


def _losses(given: Mapping[str, NDArray[Any]], domains: int) -> dict[str, NDArray[Any]]:
    """Take over what was measured; KL keeps the calls that it was measured with."""
    taken = {name: given[name] for name in MEASURED if name in given}
    if "kl" in taken and "kl_calls" not in taken and "calls" in given:
        calls = given["calls"]
        if len(calls) not in (1, domains):  # of other domains: all of them together
            calls = calls.mean(axis=0, keepdims=True)
        taken["kl_calls"] = calls
    return taken


# -- files -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileFiles:
    """Where the files of a profile are.

    Attributes
    ----------
    profile
        ``NAME.npz``: the arrays that an instance reads.
    statistics
        ``NAME.statistics.npz``: errors, and what no instance has.
    about
        ``NAME.about.json``: the section ``model`` of an instance, source and notes.
    """

    profile: Path
    statistics: Path
    about: Path

    @classmethod
    def of(cls, path: str | Path) -> ProfileFiles:
        """Name the files of ``NAME.npz``.

        Raises
        ------
        FileFormatError
            If it has another ending, or a file cannot be written.
        """
        from meldopt.files import check_writable

        target = Path(path)
        if not target.name.endswith(".npz") or target.name == ".npz":
            raise FileFormatError(f"{target}: got this name, expected NAME.npz")
        stem = target.name.removesuffix(".npz")
        files = cls(
            profile=target,
            statistics=target.with_name(f"{stem}.statistics.npz"),
            about=target.with_name(f"{stem}.about.json"),
        )
        for one in (files.profile, files.statistics, files.about):
            check_writable(one)
        return files


def write_profile(
    found: TraceProfile, files: ProfileFiles, *, about: Mapping[str, Any]
) -> dict[str, Any]:
    """Write a profile and what belongs to it; return what ``about.json`` says.

    Parameters
    ----------
    found, files
        What, and where.
    about
        Source and settings.
    """
    import msgspec

    from meldopt.files import arrays_to_bytes, digest, write_bytes

    document = {
        "model": {
            **found.model,
            "profile": files.profile.name,
            "digest": digest(None, found.arrays),
        },
        "domains": [
            {"name": name, "requests": int(requests), "tokens": int(tokens)}
            for name, requests, tokens in zip(
                found.domains, found.requests, found.tokens, strict=True
            )
        ],
        "notes": list(found.notes),
        **about,
    }
    write_bytes(files.statistics, arrays_to_bytes(found.statistics))
    text = msgspec.json.format(msgspec.json.encode(document), indent=1)
    write_bytes(files.about, text + b"\n")
    write_bytes(files.profile, arrays_to_bytes(found.arrays))
    return document
