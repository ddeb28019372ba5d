"""``meldopt replay``: run a plan on the routing of a trace."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from meldopt.errors import FileFormatError, MeldoptError

from ._group import EXIT_INTERRUPTED
from ._options import (
    Fraction,
    Positive,
    instance_argument,
    json_option,
    read_settings,
    setting_options,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from meldopt.instance import Instance
    from meldopt.plan import Plan
    from meldopt.problem import Problem
    from meldopt.replay.backbone import Backbone
    from meldopt.replay.compute import ComputeModel
    from meldopt.replay.events import Settings
    from meldopt.replay.match import Match
    from meldopt.replay.report import Report
    from meldopt.replay.scenario import Scenario
    from meldopt.trace import Trace

PERIOD_S = 0.1
"""How often the command looks whether it was interrupted."""

EVENTS_ONLY = (
    "scenario",
    "compute",
    "ttft",
    "tpot",
    "warm_up",
    "rate_scale",
    "settings",
    "config",
)
"""Options that mean nothing without contention."""


class _WarmUp(Fraction):
    """A share, or ``auto``."""

    name = "share"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Turn the text into a share; None is ``auto``."""
        if value == "auto":
            return "auto"
        share = super().convert(value, param, ctx)
        if share >= 1:
            self.fail(f"got {value!r}, expected auto, or less than 1", param, ctx)
        return share


@click.command("replay")
@instance_argument
@click.argument("plan", metavar="PLAN")
@click.argument("trace", metavar="TRACE")
@click.option(
    "--mode",
    type=click.Choice(["events", "analytic"]),
    default="events",
    show_default=True,
    help="events: requests, batches and queues; analytic: each token alone.",
)
@click.option(
    "--scenario",
    metavar="FILE",
    help="What happens meanwhile: bandwidths, failures, drift, moves (JSON).",
)
@click.option(
    "--rate-scale",
    type=Positive("factor"),
    default=1.0,
    show_default=True,
    metavar="X",
    help="Requests come X times as fast as the trace says.",
)
@click.option(
    "--compute",
    type=click.Choice(["fitted", "neutral"]),
    default="fitted",
    show_default=True,
    help="Times of expert batches: fitted to measurements where a server names its"
    " device; neutral: at the rates of the instance, as the planner counts.",
)
@click.option(
    "--backbone/--no-backbone",
    default=True,
    show_default=True,
    help="Whether attention and the like take time.",
)
@click.option(
    "--application",
    "applications",
    multiple=True,
    metavar="NAME=APPLICATION",
    help="Application of the instance for one of the trace; may be repeated."
    "  [default: of the same name, or of that domain]",
)
@click.option(
    "--home",
    "homes",
    multiple=True,
    metavar="NAME=SERVER",
    help="Server for a home of the trace; may be repeated.  [default: of the same"
    " name; spread over the demands by rate if none is]",
)
@click.option(
    "--spread", is_flag=True, help="Spread the requests, whatever homes they name."
)
@click.option(
    "--ttft",
    type=Positive("seconds"),
    metavar="SECONDS",
    help="Target of the time to first token.",
)
@click.option(
    "--tpot",
    type=Positive("seconds"),
    metavar="SECONDS",
    help="Target of the time per output token.  [default: without --ttft, the"
    " latency target of the application]",
)
@click.option(
    "--warm-up",
    type=_WarmUp(),
    default="auto",
    show_default=True,
    metavar="SHARE",
    help="Leave out this share of the requests at the start: 0.1 or 10%; auto: by"
    " MSER-5.",
)
@click.option(
    "--plot",
    metavar="OUT",
    help="Draw: one picture if OUT ends in .png, .svg or .pdf, else a folder with one"
    " file each. Needs the extra 'plot'.",
)
@click.option("-o", "--output", metavar="FILE", help="Write the report as JSON here.")
@setting_options("of the event mode, such as max_batch=64")
@json_option
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
@click.pass_context
def command(
    ctx: click.Context,
    /,
    instance: str,
    plan: str,
    trace: str,
    mode: str,
    scenario: str | None,
    rate_scale: float,
    compute: str,
    backbone: bool,
    applications: tuple[str, ...],
    homes: tuple[str, ...],
    spread: bool,
    ttft: float | None,
    tpot: float | None,
    warm_up: Any,
    plot: str | None,
    output: str | None,
    settings: tuple[str, ...],
    config: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Run a plan on the routing of real or drawn requests.

    PLAN is a plan file, or "best": the best plan known of a bundled instance. TRACE is
    a trace, or the name of a bundled one.

    Says what users will feel (time to first token, time per output token, tails), what
    servers and links carry, and what quality is lost.

    Interrupted, it writes and prints no results: those of half a run would mislead.
    """
    from meldopt.files import check_writable

    if mode == "analytic":
        for name in EVENTS_ONLY:
            if ctx.get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE:
                raise click.UsageError(
                    f"--{'set' if name == 'settings' else name.replace('_', '-')}: "
                    "has no meaning in analytic mode"
                )
    if not rate_scale > 0 or rate_scale == float("inf"):
        raise click.UsageError(f"--rate-scale: got {rate_scale:g}, expected above 0")
    if spread and homes:
        raise click.UsageError("--spread and --home exclude each other")
    if output is not None:
        check_writable(Path(output))
    if plot is not None:
        _check_plot(plot)
    named = _pairs(applications, "--application"), _pairs(homes, "--home")
    job = _read(instance, plan, trace)
    job.settings = _settings(read_settings(settings, config))
    job.match(*named, spread=spread)
    if backbone:
        job.add_backbone()
    if compute == "fitted":
        job.fit()
    job.rate_scale, job.ttft_s, job.tpot_s = rate_scale, ttft, tpot
    job.warm_up = None if warm_up == "auto" else warm_up
    if scenario is not None:
        job.read_scenario(scenario)

    from ._interrupt import interruptions

    with interruptions() as stopped:
        done = job.run(mode, shown=not quiet)
    if done is None:
        click.echo("interrupted: no results", err=True)
        ctx.exit(stopped.exit_code or EXIT_INTERRUPTED)
    if plot is not None:
        for path in done.draw(plot):
            if not quiet:
                click.echo(f"picture written to {path}", err=True)
    document = job.document(done.report)
    if output is not None:
        _write(document, Path(output), quiet=quiet)
    if as_json:
        from ._output import print_json

        print_json(document)
    else:
        from ._show_replay import show_report

        show_report(job.problem, done.report)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Done:
    """A report, and what draws it."""

    report: Report
    draw: Callable[[str], list[Path]]


@dataclass(kw_only=True, eq=False)
class _Job:
    """What is to be replayed, and how."""

    instance: Instance
    problem: Problem
    plan: Plan
    trace: Trace
    names: tuple[str, str]  # of the plan and of the trace, as they were given
    found: Match | None = None
    settings: Settings | None = None
    backbone: Backbone | None = None
    compute: ComputeModel | None = None
    scenario: Scenario | None = None
    scenario_name: str | None = None
    rate_scale: float = 1.0
    warm_up: float | None = None
    ttft_s: float | None = None
    tpot_s: float | None = None

    def match(
        self, applications: dict[str, str], homes: dict[str, str], *, spread: bool
    ) -> None:
        """Match the trace with the problem."""
        from meldopt.replay.match import match

        self.found = match(
            self.problem,
            self.trace,
            instance=self.instance,
            applications=applications,
            homes="spread" if spread else homes or None,
        )

    def add_backbone(self) -> None:
        """Let the backbone take time."""
        from meldopt.replay.backbone import backbone_of

        self.backbone = backbone_of(self.instance, self.problem)

    def read_scenario(self, path: str) -> None:
        """Read what happens meanwhile, and refuse here what does not fit."""
        from meldopt.replay.scenario import course_of, read_scenario

        assert self.found is not None
        self.scenario, self.scenario_name = read_scenario(path), path
        course_of(
            self.scenario,
            self.problem,
            self.trace.requests.arrival_s / self.rate_scale,
            self.found.request_demand,
            source=path,
        )

    def fit(self) -> None:
        """Take fitted times of expert batches."""
        from meldopt.replay.compute import ComputeModel

        self.compute = ComputeModel.fitted(
            self.problem,
            [server.device for server in self.instance.spec.cluster.servers],
            reuse=self.instance.spec.limits.reuse,
        )

    def run(self, mode: str, *, shown: bool) -> _Done | None:
        """Replay; None if interrupted.

        Kernels let no signal through, so they run in a thread of their own.
        """
        from meldopt.engines.aside import run_aside

        failures: list[MeldoptError] = []

        def work() -> _Done | None:
            try:
                return self.analytic(bar) if mode == "analytic" else self.events(bar)
            except MeldoptError as exc:
                failures.append(exc)
                return None

        passes = 2 if mode == "analytic" else 1
        with _Bar(passes * self.trace.num_tokens, shown=shown) as bar:
            done, _ = run_aside(
                "replay", work, lambda _: None, period_s=PERIOD_S, patience_s=0.0
            )
        if failures:
            raise failures[0]
        return done

    def events(self, bar: _Bar) -> _Done:
        """Replay in event mode."""
        from meldopt.replay.event_report import report_events
        from meldopt.replay.events import replay_events
        from meldopt.replay.paced import paced

        assert self.found is not None
        records = replay_events(
            self.problem,
            self.plan,
            paced(self.trace, self.rate_scale, bar.tell),
            self.found,
            settings=self.settings,
            scenario=self.scenario,
            backbone=self.backbone,
            compute=self.compute,
        )
        report = report_events(
            self.problem,
            records,
            warm_up=self.warm_up,
            ttft_s=self.ttft_s,
            tpot_s=self.tpot_s,
        )

        def draw(target: str) -> list[Path]:
            from meldopt.replay.plots import plot_events

            return plot_events(self.problem, records, report, target)

        return _Done(report=report, draw=draw)

    def analytic(self, bar: _Bar) -> _Done:
        """Replay in analytic mode."""
        from meldopt.replay.analytic import replay_analytic
        from meldopt.replay.analytic_report import report_analytic
        from meldopt.replay.paced import paced

        assert self.found is not None
        trace = paced(self.trace, 1.0, bar.tell)
        times = replay_analytic(self.problem, self.plan, trace, self.found)
        report = report_analytic(
            self.problem, self.plan, trace, self.found, times, self.backbone
        )

        def draw(target: str) -> list[Path]:
            from meldopt.replay.plots import plot_analytic

            return plot_analytic(self.problem, times, report, target)

        return _Done(report=report, draw=draw)

    def document(self, report: Report) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        import dataclasses

        from meldopt import __version__
        from meldopt.replay.report import to_document

        plan, trace = self.names
        document = to_document(report)
        head: dict[str, Any] = {
            "mode": document.pop("mode"),
            "instance": {
                "name": self.problem.name,
                "digest": self.problem.instance_digest,
            },
            "plan": plan,
            "trace": {"name": trace, "digest": self.trace.header.digest},
            "version": __version__,
        }
        if head["mode"] == "events":
            head["options"] = {
                "rate_scale": self.rate_scale,
                "compute": "neutral" if self.compute is None else "fitted",
                "backbone": self.backbone is not None,
                "scenario": self.scenario_name,
                **(dataclasses.asdict(self.settings) if self.settings else {}),
            }
        return head | document


class _Bar:
    """How many tokens were read, on standard error if that is a terminal."""

    def __init__(self, total: int, *, shown: bool) -> None:
        from rich.progress import (
            BarColumn,
            Progress,
            TaskProgressColumn,
            TextColumn,
            TimeRemainingColumn,
        )

        from ._output import console

        err = console(stderr=True)
        self._progress = Progress(
            TextColumn("replay"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("of {task.total} tokens"),
            TimeRemainingColumn(),
            console=err,
            transient=True,
            disable=not (shown and err.is_terminal),
        )
        self._task = self._progress.add_task("replay", total=total)

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def tell(self, tokens: int) -> None:
        """Take how many tokens were read."""
        self._progress.update(self._task, completed=tokens)


def _read(instance: str, plan: str, trace: str) -> _Job:
    from meldopt.builder import build_problem
    from meldopt.instance import read_instance
    from meldopt.plan import read_plan
    from meldopt.trace import read_trace

    path: str | Path = plan
    if plan == "best" and not Path(plan).exists():
        from meldopt.library import best_plan

        best = best_plan(instance)
        if best is None:
            raise FileFormatError(
                f"best: {instance} is no bundled instance with a best plan, expected "
                "a plan file"
            )
        path = best
    source = read_instance(instance)
    problem = build_problem(source)
    return _Job(
        instance=source,
        problem=problem,
        plan=read_plan(path, problem),
        trace=read_trace(trace),
        names=(plan, trace),
    )


def _settings(values: dict[str, Any]) -> Settings:
    """Check the parameters of the event mode."""
    import dataclasses

    from meldopt.replay.events import Settings

    known = {field.name: field.default for field in dataclasses.fields(Settings)}
    for key, value in values.items():
        if key not in known:
            raise click.UsageError(f"{key}: expected one of {', '.join(known)}")
        if type(value) is not type(known[key]):
            kind = type(known[key]).__name__
            raise click.UsageError(f"{key}: got {value!r}, expected {kind}")
    try:
        return Settings(**values)
    except ValueError as exc:
        raise click.UsageError(str(exc)) from exc


def _pairs(texts: tuple[str, ...], option: str) -> dict[str, str]:
    """Read NAME=OTHER."""
    pairs = {}
    for text in texts:
        name, equals, other = text.partition("=")
        if not (name and equals and other):
            raise click.UsageError(f"{option}: got {text!r}, expected NAME=OTHER")
        pairs[name] = other
    return pairs


def _check_plot(target: str) -> None:
    """Refuse pictures that cannot be drawn or written, before any work is done."""
    from meldopt.files import check_writable
    from meldopt.replay.plots import SUFFIXES, need_matplotlib

    need_matplotlib()
    path = Path(target)
    if path.suffix.lower() in SUFFIXES:
        check_writable(path)
    elif path.is_dir():
        check_writable(path / "map.png")
    else:
        check_writable(path)  # where the folder will be


def _write(document: dict[str, Any], path: Path, *, quiet: bool) -> None:
    import msgspec

    from meldopt.files import write_bytes

    text = msgspec.json.format(msgspec.json.encode(document), indent=1)
    write_bytes(path, text + b"\n")
    if not quiet:
        click.echo(f"report written to {path}", err=True)
