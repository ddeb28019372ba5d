"""``meldopt generate trace``: a trace drawn from an instance's own statistics."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ._options import instance_argument, json_option

if TYPE_CHECKING:
    import numpy as np

    from meldopt.generate.arrivals import RequestTable

_PROMPT, _OUTPUT = 128.0, 64.0  # mean tokens unless told


@click.command("trace")
@instance_argument
@click.option(
    "--tokens",
    type=click.IntRange(min=1),
    default=100_000,
    show_default=True,
    help="Recorded tokens, about: whole requests.",
)
@click.option(
    "--requests",
    type=click.IntRange(min=1),
    help="So many requests, of lengths that fit --tokens.",
)
@click.option(
    "--arrivals",
    default="poisson",
    show_default=True,
    metavar="poisson|bursty|FILE",
    help="How requests arrive; or a table (CSV, may be gzipped) with the columns"
    " arrival_s, prompt_tokens and output_tokens, repeated as needed.",
)
@click.option(
    "--cv",
    type=float,
    default=3.0,
    show_default=True,
    help="Of bursty gaps: standard deviation over mean.",
)
@click.option(
    "--rate",
    type=float,
    metavar="PER_SECOND",
    help="Requests per second.  [default: what makes the tokens/s of the instance;"
    " of a FILE its own]",
)
@click.option("--prompt", type=float, metavar="TOKENS", help="Mean length of prompts.")
@click.option(
    "--output-tokens",
    "answer",
    type=float,
    metavar="TOKENS",
    help="Mean length of outputs.",
)
@click.option(
    "--length-cv",
    type=float,
    default=1.0,
    show_default=True,
    help="Of both lengths: standard deviation over mean.",
)
@click.option(
    "--signatures",
    type=click.IntRange(0, 64),
    default=0,
    show_default=True,
    metavar="BITS",
    help="Bits of signatures for fusion, as many tokens alike as the instance says.",
)
@click.option(
    "--repeat",
    type=float,
    metavar="SHARE",
    help="Tokens that call what the token before called.  [default: 0; with signatures"
    " what is fusable]",
)
@click.option(
    "--outputs-only", is_flag=True, help="Record outputs only, not the prompts."
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Random seed.",
)
@click.option("--name", help="Name of the trace.  [default: INSTANCE-SEED]")
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="NAME.trace",
    help="Write the trace here: NAME.trace is a folder, NAME.npz one file.",
)
@json_option
def command(
    instance: str,
    tokens: int,
    requests: int | None,
    arrivals: str,
    cv: float,
    rate: float | None,
    prompt: float | None,
    answer: float | None,
    length_cv: float,
    signatures: int,
    repeat: float | None,
    outputs_only: bool,
    seed: int,
    name: str | None,
    output: str,
    as_json: bool,
) -> None:
    """Draw a trace from an instance's own statistics.

    Tokens have the calls, the activation paths and the co-activation of INSTANCE, as
    far as it has them; requests are spread over its demands by rate.
    """
    import numpy as np

    from meldopt.errors import InstanceError
    from meldopt.generate.arrivals import read_requests
    from meldopt.generate.traces import synthetic_trace
    from meldopt.instance import read_instance
    from meldopt.trace import write_trace
    from meldopt.trace.files import check_target

    check_target(output)
    found = read_instance(instance)
    rng = np.random.default_rng([seed, 1])
    if arrivals in ("poisson", "bursty"):
        from meldopt.builder import build_problem

        table = _drawn(
            rng,
            tokens,
            requests,
            _PROMPT if prompt is None else prompt,
            _OUTPUT if answer is None else answer,
            length_cv,
            outputs_only,
        )
        if rate is None:
            each = float((table.prompt_tokens + table.output_tokens).mean())
            rate = float(build_problem(found).rate.sum()) / each
        table = _arriving(rng, table, rate, 1.0 if arrivals == "poisson" else cv)
    else:
        if prompt is not None or answer is not None:
            raise click.UsageError(
                "--prompt and --output-tokens are for drawn lengths: the lengths of "
                "a table are its own"
            )
        table = _cut(read_requests(arrivals), tokens, requests, outputs_only)
        if rate is not None:
            table = table.at_rate(rate)
    if not len(table):
        raise InstanceError("got no requests, expected at least one")
    trace = synthetic_trace(
        found,
        table,
        seed=seed,
        name=name,
        signature_bits=signatures,
        repeat=repeat,
        prompt_recorded=not outputs_only,
    )
    header = write_trace(output, trace.header, trace.requests, trace.chunks())
    if as_json:
        from ._output import print_json

        print_json(
            {
                "name": header.name,
                "digest": header.digest,
                "requests": header.requests,
                "tokens": header.tokens,
                "path": output,
            }
        )
    else:
        click.echo(
            f"{header.name}: {header.requests} requests, {header.tokens} tokens "
            f"written to {output}",
            err=True,
        )


def _drawn(
    rng: np.random.Generator,
    tokens: int,
    requests: int | None,
    prompt: float,
    answer: float,
    cv: float,
    outputs_only: bool,
) -> RequestTable:
    """Draw lengths; arrivals are still those of a clock."""
    import numpy as np

    from meldopt.generate.arrivals import RequestTable, lengths

    each = answer if outputs_only else prompt + answer
    each = each if each >= 1 else 1.0  # nonsense is refused where lengths are drawn
    count = requests
    if count is None:
        count = max(1, round(tokens / each))
    else:
        scale = tokens / count / each
        prompt, answer = prompt * scale, max(answer * scale, 1.0)
    return RequestTable(
        arrival_s=np.arange(count, dtype=np.float64),
        prompt_tokens=lengths(rng, count, prompt, cv, least=0),
        output_tokens=lengths(rng, count, answer, cv),
    )


def _arriving(
    rng: np.random.Generator, table: RequestTable, rate: float, cv: float
) -> RequestTable:
    from dataclasses import replace

    from meldopt.generate.arrivals import bursty

    return replace(table, arrival_s=bursty(rng, len(table), rate, cv))


def _cut(
    table: RequestTable, tokens: int, requests: int | None, outputs_only: bool
) -> RequestTable:
    """Take as many requests as fit, or as asked for."""
    import numpy as np

    if requests is not None:
        return table.first(requests)
    rows = table.output_tokens + (0 if outputs_only else table.prompt_tokens)
    turns = -(-tokens // int(rows.sum()))
    ends = np.cumsum(np.tile(rows, turns))
    return table.first(max(1, int(np.searchsorted(ends, tokens, side="right"))))
