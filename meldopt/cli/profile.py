"""``meldopt profile``: what needs a real model (extra ``profile``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from meldopt.errors import ProfilingError

from ._options import json_option

_NEEDED = ("torch", "transformers", "tokenizers", "safetensors")

_threads = click.option(
    "--threads",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Processor threads.",
)


@click.group("profile")
def command() -> None:
    """Measure a Mixture-of-Experts model: routing, losses, similarity.

    All but show need the extra: pip install 'meldopt[profile]'. Everything runs on the
    processor.
    """


@command.command("corpus")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--vocabulary",
    type=click.IntRange(min=300, max=65536),
    default=2048,
    show_default=True,
    help="Tokens of the tokenizer.",
)
def corpus(folder: Path, vocabulary: int) -> None:
    """Collect freely licensed text of five domains into FOLDER, and tokenize it.

    From the Python standard library and from Debian packages (installed, or fetched
    with apt-get download).
    """
    _need()
    from meldopt.profiling.corpus import write_corpus
    from meldopt.profiling.tokenizer import train_tokenizer

    for name, facts in write_corpus(folder).items():
        _say(f"{name}: {facts['bytes']['train']} bytes to train on")
    train_tokenizer(folder, vocabulary=vocabulary)


@command.command("train")
@click.argument("corpus", type=click.Path(path_type=Path))
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--recipe",
    type=click.Choice(["a", "b"]),
    default="a",
    show_default=True,
    help="a: 6 layers of 16 experts, top 2; b: 8 layers of 32, top 4.",
)
@click.option(
    "--steps", type=click.IntRange(min=1), help="Updates, if not the recipe's."
)
@click.option(
    "--minutes",
    type=click.FloatRange(min=0, min_open=True),
    help="Stop after so much time; train_log.json says how many updates were done.",
)
@_threads
def train(
    corpus: Path,
    model: Path,
    recipe: str,
    steps: int | None,
    minutes: float | None,
    threads: int,
) -> None:
    """Train one of the project's small models on CORPUS and save it as MODEL."""
    _need()
    _prepare(threads)
    import dataclasses
    import math

    from meldopt.profiling.train import RECIPES
    from meldopt.profiling.train import train as run

    chosen = RECIPES[recipe]
    if steps is not None:
        chosen = dataclasses.replace(chosen, steps=steps)
    run(
        corpus,
        model,
        chosen,
        minutes=math.inf if minutes is None else minutes,
        on_progress=_say,
    )


@command.command("record")
@click.argument("model")
@click.argument("text", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FOLDER",
    help="Write the recording into this folder.",
)
@click.option("--name", help="Name of the traces.  [default: that of FOLDER]")
@click.option(
    "--sequences",
    type=click.IntRange(min=2),
    default=16,
    show_default=True,
    help="Sequences of each domain that routing is recorded on.",
)
@click.option(
    "--measured",
    type=click.IntRange(min=2),
    default=8,
    show_default=True,
    help="How many of them losses are measured on.",
)
@click.option(
    "--length",
    type=click.IntRange(min=2),
    default=256,
    show_default=True,
    help="Tokens of a sequence.",
)
@click.option(
    "--format",
    "formats",
    multiple=True,
    metavar="intB-gG",
    help="A format to measure, the widest first; may be repeated."
    "  [default: int8-g32 int4-g32 int3-g32 int2-g32]",
)
@click.option(
    "--check-format",
    "checked",
    multiple=True,
    metavar="intB-gG",
    help="Which of them to measure again on unseen text.  [default: the last]",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of mixed plans.")
@click.option("--source", help="Where the model is from, for about.json.")
@click.option("--licence", help="Licence of the recording, for about.json.")
@_threads
def record(
    model: str,
    text: Path,
    output: Path,
    name: str | None,
    sequences: int,
    measured: int,
    length: int,
    formats: tuple[str, ...],
    checked: tuple[str, ...],
    seed: int,
    source: str | None,
    licence: str | None,
    threads: int,
) -> None:
    """Record the routing of MODEL on TEXT and measure what changes of it cost.

    MODEL is a folder or a name that transformers can load. TEXT is a folder with files
    DOMAIN.plan.txt, which is measured on, and DOMAIN.test.txt, which is checked with.

    Writes plan.trace.npz, test.trace.npz, profile.npz, measured.npz and about.json.
    """
    _need()
    from meldopt.profiling.quantize import format_of

    formats = formats or ("int8-g32", "int4-g32", "int3-g32", "int2-g32")
    checked = checked or formats[-1:]
    for form in (*formats, *checked):
        format_of(form)
    if not set(checked) <= set(formats):
        raise click.UsageError("--check-format: expected some of the formats measured")
    if measured > sequences:
        raise click.UsageError(
            f"--measured: got {measured}, expected at most --sequences {sequences}"
        )
    _prepare(threads)
    from meldopt.profiling.describe import describe, found_beside
    from meldopt.profiling.recording import read_text, versions, write_recording
    from meldopt.profiling.survey import Scope, survey

    network, tokenizer = _load(model)
    plan, test = (
        read_text(text, split, tokenizer, sequences=sequences, length=length)
        for split in ("plan", "test")
    )
    about: dict[str, Any] = {
        "source": source or model,
        "licence": licence or "unknown",
    }
    found = survey(
        network,
        plan,
        test,
        Scope(formats=formats, checked=checked, sequences=measured, seed=seed),
        name=name or output.name,
        about=about,
        on_progress=_say,
    )
    about["model"] = describe(network) | {"top_k": found.plan.header.top_k}
    about["versions"] = versions()
    for key, folder, file in (
        ("training", Path(model), "train_log.json"),
        ("corpus", text, "corpus.json"),
    ):
        beside = found_beside(folder, file)
        if beside is not None:
            about[key] = beside
    write_recording(output, found, about)
    _say(f"written to {output}")


@command.command("show")
@click.argument("folder", type=click.Path(path_type=Path))
@json_option
def show(folder: Path, as_json: bool) -> None:
    """Show a recording in tables: losses, their errors, how they hold.

    Losses are KL divergences from the unchanged model in nats per token. Needs no
    extra.
    """
    from meldopt.profiling.report import tables

    from ._output import console, print_json, print_table

    found = tables(folder)
    if as_json:
        print_json(
            {
                "tables": [
                    {"title": one.title, "columns": one.columns, "rows": one.rows}
                    for one in found
                ]
            }
        )
        return
    out = console()
    for one in found:
        print_table(
            (one.columns[0], *(f">{name}" for name in one.columns[1:])),
            [["–" if cell is None else cell for cell in row] for row in one.rows],
            to=out,
            title=one.title,
        )


def _need() -> None:
    """Refuse in one line where the extra is not installed."""
    from importlib.util import find_spec

    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise ProfilingError(
            f"profile: {', '.join(missing)} not installed: pip install "
            "'meldopt[profile]'"
        )


def _prepare(threads: int) -> None:
    import torch
    from transformers.utils import logging

    torch.set_num_threads(threads)
    logging.disable_progress_bar()


def _load(model: str) -> tuple[Any, Any]:
    """Load a model in float32 and its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
        return network.eval(), AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise ProfilingError(f"{model}: cannot be loaded: {first}") from error


def _say(line: str) -> None:
    click.echo(line, err=True)
