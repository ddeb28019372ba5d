"""What ``meldopt show`` prints of a trace."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from rich.console import Console

    from meldopt.trace import Trace
    from meldopt.trace_stats import TraceStatistics

BLOCKS = "·▁▂▃▄▅▆▇█"
"""From an expert that is never called to the busiest."""

MAP_WIDTH = 64
"""Most columns of the picture; more experts than that share columns."""


def show_trace(path: Path, *, as_json: bool) -> None:
    """Print a trace: its requests, its layers and a picture of its calls."""
    from meldopt.trace import read_trace
    from meldopt.trace_stats import trace_statistics

    from ._output import console, print_json

    trace = read_trace(path)
    found = trace_statistics(trace)
    if as_json:
        print_json(_document(trace, found))
    else:
        _show_text(trace, found, console())


def _document(trace: Trace, found: TraceStatistics) -> dict[str, Any]:
    head = trace.header
    return {
        "name": head.name,
        "digest": head.digest,
        "about": head.about,
        "requests": found.requests,
        "tokens": found.tokens,
        "prompt_recorded": head.prompt_recorded,
        "duration_s": found.duration_s,
        "requests_per_s": found.requests_per_s,
        "gap_cv": found.gap_cv,
        "prompt_tokens": found.prompt_tokens,
        "output_tokens": found.output_tokens,
        "homes": list(head.homes),
        "top_k": head.top_k,
        "signature_bits": head.signature_bits,
        "gates": found.gates.tolist(),
        "applications": [
            {
                "name": name,
                "requests": int(found.application_requests[g]),
                "tokens": int(found.application_tokens[g]),
                "drift": found.application_drift[g].tolist(),
            }
            for g, name in enumerate(head.applications)
        ],
        "layers": [
            {
                "layer": head.layers[n],
                "experts": head.experts[n],
                "skew": float(found.skew[n]),
                "entropy": float(found.entropy[n]),
                "drift": float(found.drift[n]),
                "hit": float(found.hit[n]),
                "hit_popular": float(found.hit_popular[n]),
                "hit_chance": float(found.hit_chance[n]),
                "common": float(found.common[n]),
                "common_chance": float(found.common_chance[n]),
                "calls": found.calls[n, : head.experts[n]].tolist(),
            }
            for n in range(head.num_layers)
        ],
    }


def _show_text(trace: Trace, found: TraceStatistics, out: Console) -> None:
    from meldopt.trace import ANY_HOME
    from meldopt.units import format_seconds

    from ._output import number, percent, print_table

    head = trace.header
    widths = sorted(set(head.experts))
    each = " to ".join(str(width) for width in dict.fromkeys([widths[0], widths[-1]]))
    out.print(f"trace {head.name}  ({head.digest[:19]}…)")
    out.print(
        f"{head.num_layers} layers of {each} experts, top {head.top_k}; "
        f"{found.tokens} tokens recorded of {found.requests} requests, "
        + ("prompts and outputs" if head.prompt_recorded else "outputs only")
    )
    line = f"mean prompt {found.prompt_tokens:.4g} tokens, output "
    line += f"{found.output_tokens:.4g}"
    if found.requests_per_s is not None:
        line += (
            f"; {number(found.requests_per_s)} requests/s over "
            f"{format_seconds(found.duration_s)}, gaps of cv {found.gap_cv:.2f}"
        )
    out.print(line)
    homes = [name for name in head.homes if name != ANY_HOME]
    out.print(
        ("homes " + ", ".join(homes) if homes else "homes not recorded")
        + "; mean gates "
        + " ".join(f"{gate:.3f}" for gate in found.gates)
        + (
            f"; signatures of {head.signature_bits} bits"
            if head.signature_bits
            else "; no signatures"
        )
    )
    _show_applications(trace, found, out)
    print_table(
        (
            ">layer",
            ">busiest / mean",
            ">entropy",
            ">drift",
            ">path hits",
            ">popular hits",
            ">any",
            ">in common",
            ">any",
        ),
        [
            (
                head.layers[n],
                f"{found.skew[n]:.2f}",
                f"{found.entropy[n]:.3f}",
                percent(found.drift[n]),
                percent(found.hit[n]),
                percent(found.hit_popular[n]),
                percent(found.hit_chance[n]),
                percent(found.common[n]),
                percent(found.common_chance[n]),
            )
            for n in range(head.num_layers)
        ],
        to=out,
    )
    out.print(
        "  drift: total variation between the halves of the trace. path hits: calls of "
        f"the second half among the {head.top_k} that most often followed the first "
        "choice of the layer before in the first half; popular: among the "
        f"{head.top_k} most called. in common: experts shared with the token before."
    )
    for line in heat_map(found.calls, head.experts, head.layers):
        out.print(line, soft_wrap=True, no_wrap=True)


def _show_applications(trace: Trace, found: TraceStatistics, out: Console) -> None:
    from ._output import print_table

    names = trace.header.applications
    print_table(
        ("application", ">requests", ">tokens", ">differs most from", ">by"),
        [
            (
                name,
                found.application_requests[g],
                found.application_tokens[g],
                *_furthest(found.application_drift, g, names),
            )
            for g, name in enumerate(names)
        ],
        to=out,
    )


def _furthest(
    drift: NDArray[np.float64], g: int, names: tuple[str, ...]
) -> tuple[str, str]:
    import numpy as np

    from ._output import percent

    others = [h for h in range(len(names)) if h != g and not np.isnan(drift[g, h])]
    if not others:
        return "–", "–"
    other = max(others, key=lambda h: drift[g, h])
    return names[other], percent(float(drift[g, other]))


def heat_map(
    calls: NDArray[np.float64], experts: tuple[int, ...], layers: tuple[int, ...]
) -> Iterator[str]:
    """Yield the lines of the picture: a row per layer, a column per expert or several.

    Parameters
    ----------
    calls
        Calls per token, (L, E).
    experts, layers
        Experts of each layer, and its number.
    """
    import numpy as np

    together = -(-max(experts) // MAP_WIDTH)
    rows = []
    for n, count in enumerate(experts):
        starts = np.arange(0, count, together)
        size = np.minimum(starts + together, count) - starts
        rows.append(np.add.reduceat(calls[n, :count], starts) / size)
    top = max(float(row.max()) for row in rows)
    what = f"{together} experts" if together > 1 else "expert"
    last = len(BLOCKS) - 1
    none, most = BLOCKS[0], BLOCKS[last]
    yield f"layer  calls of each {what}: {none} none, {most} {top:.3g} a token"
    for layer, row in zip(layers, rows, strict=True):
        level = np.ceil(row / top * last).astype(int)
        yield f"{layer:>5}  " + "".join(BLOCKS[n] for n in level)
