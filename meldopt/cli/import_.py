"""``meldopt import``: what others recorded, and what a trace says of its model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from meldopt.errors import FileFormatError, TraceError
from meldopt.importers import TRACE_FORMATS, trace_importer

from ._options import json_option

if TYPE_CHECKING:
    from collections.abc import Callable

    from meldopt.importers.profile import TraceProfile
    from meldopt.trace import Trace


class _Numbers(click.ParamType):  # type: ignore[type-arg]
    """Numbers with commas between them; ``none`` is no number."""

    def __init__(self, name: str, kind: Callable[[str], float]) -> None:
        self.name = name
        self.kind = kind

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        """Turn the text into numbers."""
        if isinstance(value, tuple):
            return value
        if str(value).strip() == "none":
            return ()
        try:
            return tuple(self.kind(part) for part in str(value).split(","))
        except ValueError:
            self.fail(
                f"got {value!r}, expected numbers with commas between them", param, ctx
            )


@click.group("import")
def command() -> None:
    """Make files of meldopt from those of others.

    "trace" makes a trace from a recording of routing; "profile" makes the arrays of
    an instance from a trace.
    """


# -- profile ---------------------------------------------------------------------------


@command.command("profile")
@click.argument("trace", metavar="TRACE")
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="NAME.npz",
    help="Write the profile here; NAME.statistics.npz and NAME.about.json beside it.",
)
@click.option("--model", help="The model of the catalogue that the trace must fit.")
@click.option(
    "--application",
    "applications",
    multiple=True,
    metavar="NAME",
    help="Only requests of this application; may be repeated.",
)
@click.option(
    "--by",
    type=click.Choice(["application", "demand"]),
    default="application",
    show_default=True,
    help="What is a domain: an application, or an application at a home.",
)
@click.option(
    "--phase",
    type=click.Choice(["all", "prompt", "output"]),
    default="all",
    show_default=True,
    help="Which tokens of a request count.",
)
@click.option(
    "--samples",
    type=click.IntRange(min=0),
    default=40,
    show_default=True,
    help="Tokens of each domain to keep for the term parallel.",
)
@click.option(
    "--prune-shares",
    type=_Numbers("SHARE,…", float),
    default="0.05,0.1,0.2,0.35",
    show_default=True,
    help='Shares of the calls where segments of pruning end; "none" for no curve.',
)
@click.option(
    "--distances",
    type=_Numbers("BITS,…", int),
    default="2,4,7,11",
    show_default=True,
    help='Bits of signatures where segments of fusion end; "none" for no curve.',
)
@click.option(
    "--window",
    type=click.IntRange(min=1),
    default=256,
    show_default=True,
    help="Tokens of a request that are in a step together, and may fuse.",
)
@click.option(
    "--no-paths", is_flag=True, help="Leave out activation paths and co-activation."
)
@click.option(
    "--measured",
    metavar="FILE.npz",
    help="A profile of the same model: its losses are taken over.",
)
@click.option(
    "--prune-scale",
    type=float,
    metavar="NATS",
    help="Loss of a pruned call per square of its gate's share.  [default: as measured,"
    " or a fallback]",
)
@click.option(
    "--fuse-scale",
    type=float,
    metavar="NATS",
    help="Loss of a fused call per (1 - cosine) of the hidden states.  [default: as"
    " measured, or a fallback]",
)
@json_option
def profile(
    trace: str,
    output: str,
    model: str | None,
    applications: tuple[str, ...],
    by: str,
    phase: str,
    samples: int,
    prune_shares: tuple[float, ...],
    distances: tuple[int, ...],
    window: int,
    no_paths: bool,
    measured: str | None,
    prune_scale: float | None,
    fuse_scale: float | None,
    as_json: bool,
) -> None:
    """Estimate the profile of a model from TRACE, with sampling errors.

    Calls, activation paths, co-activation, curves of pruning and fusion, and sampled
    tokens, for each application of the trace. A trace says nothing of losses: they
    come from --measured, are given, or are a fallback, as about.json says.
    """
    from meldopt.files import read_arrays
    from meldopt.importers.profile import (
        ProfileFiles,
        Settings,
        profile_of,
        write_profile,
    )
    from meldopt.trace import read_trace

    files = ProfileFiles.of(output)
    try:
        settings = Settings(
            by=by,  # type: ignore[arg-type]
            phase=phase,  # type: ignore[arg-type]
            samples=samples,
            prune_shares=prune_shares,
            distances=distances,
            window=window,
            paths=not no_paths,
            prune_scale=prune_scale,
            fuse_scale=fuse_scale,
        )
    except ValueError as exc:
        raise click.UsageError(str(exc)) from exc
    given = None if measured is None else read_arrays(Path(measured))
    whole = read_trace(trace)
    if whole.path is not None and _same(files.profile, whole.path):
        raise FileFormatError(f"{output}: is the trace, expected another name")
    found = profile_of(
        _chosen(whole, applications),
        settings,
        measured=given,
        measured_name=measured or "",
        model=model,
    )
    about = {
        "trace": {"name": whole.header.name, "digest": whole.digest()},
        "settings": {
            "applications": list(applications),
            "by": by,
            "phase": phase,
            "window": window,
            "prune_shares": list(prune_shares),
            "distances": list(distances),
            "measured": None if measured is None else Path(measured).name,
        },
        "about": whole.header.about,
    }
    document = write_profile(found, files, about=about)
    for note in found.notes:
        click.echo(f"note: {note}", err=True)
    if as_json:
        from ._output import print_json

        paths = {
            "path": str(files.profile),
            "statistics": str(files.statistics),
            "about_path": str(files.about),
        }
        print_json({**document, "relative_error": _errors(found), **paths})
    else:
        _show(found)
        click.echo(f"written to {files.profile}", err=True)


def _same(one: Path, other: Path) -> bool:
    return one.exists() and other.exists() and one.samefile(other)


def _chosen(trace: Trace, applications: tuple[str, ...]) -> Trace:
    """Keep the requests of some applications."""
    if not applications:
        return trace
    import numpy as np

    from meldopt.trace import slice_trace

    names = trace.header.applications
    for name in applications:
        if name not in names:
            raise TraceError(
                f"{trace.place}: application: got {name!r}, expected one of "
                f"{', '.join(names)}"
            )
    numbers = [names.index(name) for name in applications]
    mask = np.isin(trace.requests.application, numbers)
    if not mask.any():
        raise TraceError(
            f"{trace.place}: got no requests of {', '.join(applications)}, expected "
            "at least one"
        )
    return slice_trace(trace, requests=mask)


def _errors(found: TraceProfile) -> dict[str, float]:
    """Say how sure the calls of each domain are: error over calls, mean by calls."""
    calls = found.arrays["calls"].sum(axis=1)
    error = found.statistics["calls_se"].sum(axis=1)
    return dict(zip(found.domains, (error / calls).tolist(), strict=True))


def _show(found: TraceProfile) -> None:
    from ._output import console, percent, print_table

    errors = _errors(found)
    curves = {
        kind: found.arrays[f"{kind}_width"].sum(axis=2).mean(axis=1)
        for kind in ("prune", "fuse")
        if f"{kind}_width" in found.arrays
    }
    rows = []
    for n, name in enumerate(found.domains):
        row = [name, f"{found.requests[n]}", f"{found.tokens[n]}"]
        row.append(percent(errors[name]))
        for share in curves.values():
            row.append(percent(float(share[min(n, len(share) - 1)])))
        rows.append(row)
    heads = {"prune": ">may be pruned", "fuse": ">may fuse"}
    print_table(
        (
            "domain",
            ">requests",
            ">tokens",
            ">error of calls",
            *(heads[kind] for kind in curves),
        ),
        rows,
        to=console(),
    )


# -- trace -----------------------------------------------------------------------------


@command.command("trace")
@click.argument("source", metavar="SOURCE")
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="NAME.trace",
    help="Write the trace here: NAME.trace is a folder, NAME.npz one file.",
)
@click.option(
    "--format",
    "kind",
    type=click.Choice(list(TRACE_FORMATS)),
    default="recording",
    show_default=True,
    help="What SOURCE is.",
)
@click.option(
    "--arrivals",
    default="poisson",
    show_default=True,
    metavar="poisson|bursty|FILE",
    help="How requests arrive, which nobody recorded; or a table (CSV, may be"
    " gzipped) whose arrivals are used and whose lengths are not.",
)
@click.option(
    "--rate",
    type=float,
    metavar="PER_SECOND",
    help="Requests per second.  [default: 1; of a FILE its own]",
)
@click.option(
    "--cv",
    type=float,
    default=3.0,
    show_default=True,
    help="Of bursty gaps: standard deviation over mean.",
)
@click.option(
    "--prompt-share",
    type=float,
    default=0.5,
    show_default=True,
    help="How much of a recorded sequence is prompt, where nothing says it.",
)
@click.option(
    "--by",
    type=click.Choice(["set", "category"]),
    default="set",
    show_default=True,
    help="What the application of a recorded prompt is.",
)
@click.option(
    "--experts",
    type=click.IntRange(min=1),
    help="Experts of a layer.  [default: the highest number and 1]",
)
@click.option(
    "--seed",
    type=int,
    default=0,
    show_default=True,
    help="Of drawn arrivals and of the order of requests.",
)
@click.option("--name", help="Name of the trace.  [default: that of SOURCE]")
@json_option
def trace(
    source: str,
    output: str,
    kind: str,
    arrivals: str,
    rate: float | None,
    cv: float,
    prompt_share: float,
    by: str,
    experts: int | None,
    seed: int,
    name: str | None,
    as_json: bool,
) -> None:
    """Make a trace from SOURCE, a recording of a model's routing.

    A recording is an .npz with the experts and gates of each token: sequences
    (expert_ids, gate_weights, domain, sequence, domain_names) or generated tokens of
    prompts (experts, gates, token_prompt, prompt_set, prompt_category,
    prompt_tokens).
    """
    from meldopt.trace import write_trace
    from meldopt.trace.files import check_target

    target = check_target(output)
    if _same(target, Path(source)):
        raise FileFormatError(f"{output}: is the source, expected another name")
    header, requests, chunks = trace_importer(kind)(
        source,
        seed=seed,
        arrivals=arrivals,
        rate_per_s=rate,
        cv=cv,
        prompt_share=prompt_share,
        by=by,
        experts=experts,
        name=name,
    )
    done = write_trace(target, header, requests, chunks)
    if as_json:
        from ._output import print_json

        print_json(
            {
                "name": done.name,
                "digest": done.digest,
                "requests": done.requests,
                "tokens": done.tokens,
                "path": output,
            }
        )
    else:
        click.echo(
            f"{done.name}: {done.requests} requests, {done.tokens} tokens written to "
            f"{output}",
            err=True,
        )
