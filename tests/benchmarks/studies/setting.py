"""What every study has in common: how it compares, and what it says of itself."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from meldopt.compare.folder import Folder
from meldopt.compare.grid import Limit, grid
from meldopt.compare.markup import to_markdown
from meldopt.compare.methods import read_methods
from meldopt.compare.runner import Comparison, Setup, TraceFile
from meldopt.instance import read_instance, write_instance
from meldopt.library import read_index
from meldopt.trace import read_trace

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from meldopt.compare.grid import Trial
    from meldopt.compare.markup import Table
    from meldopt.compare.records import RunRecord
    from meldopt.compare.runner import Progress
    from meldopt.compare.trials import Library
    from meldopt.instance import Instance
    from meldopt.library import IndexEntry

JOINT = "auto"
"""The solver that decides everything together, with a bound."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """How a study is run.

    Attributes
    ----------
    folder
        Where its comparison is kept: the same command continues it.
    time_limit_s, seed
        Of every solve; with ``work`` a deterministic budget in place of the time.
    work
        None is none.
    data
        Folder of public data that is not part of the project; None if absent.
    instances
        Takes the place of the instances of the study; empty: its own.
    """

    folder: Path
    time_limit_s: float = 6.0
    work: float | None = None
    seed: int = 0
    data: Path | None = None
    instances: tuple[str, ...] = ()

    def say(self, text: str) -> None:
        """Tell people what is being done."""
        print(text, file=sys.stderr, flush=True)

    @property
    def limit(self) -> Limit:
        """Of every solve."""
        if self.work is not None:
            return Limit(time_limit_s=None, work=self.work)
        return Limit(time_limit_s=self.time_limit_s, work=None)

    def index(self) -> dict[str, IndexEntry]:
        """Return the index of the bundled library, for its bounds."""
        return dict(read_index())

    def kept(self, instance: Instance) -> str:
        """Write an instance that is not bundled; return its path."""
        made = self.folder / "made"
        made.mkdir(parents=True, exist_ok=True)
        path = made / f"{instance.name.replace('/', '--').replace(' ', '-')}.json"
        write_instance(instance, path)
        return str(path)

    def compare(
        self,
        library: Library,
        trials: Iterable[Trial],
        solvers: Sequence[str],
        *,
        repair: bool = False,
        reroute: bool = False,
        traces: Sequence[str] = (),
    ) -> list[RunRecord]:
        """Run solvers on trials, one run at a time; return the records.

        Parameters
        ----------
        library
            Holds the instances of the trials.
        trials
            From `meldopt.compare.trials.Library.trials`.
        solvers
            As ``meldopt compare -s`` takes them.
        repair
            Whether baselines are run a second time with the common repair.
        reroute
            Whether frozen plans are also judged with the best shares.
        traces
            Paths of traces that every plan is replayed on, token by token.
        """
        methods, _ = read_methods(solvers, repair=repair)
        folder = Folder(self.folder)
        folder.prepare()
        library.keep(folder)
        told = 0

        def progress(now: Progress) -> None:
            nonlocal told
            if now.done > told and now.last is not None:
                told = now.done
                self.say(
                    f"{now.done}/{now.total} {now.last.label} on {now.last.instance}: "
                    f"{now.last.status}"
                )

        setup = Setup(
            slots=1,
            traces=[
                TraceFile(
                    name=Path(path).stem.removesuffix(".trace"),
                    path=path,
                    digest=read_trace(path).header.digest,
                )
                for path in traces
            ],
            reroute=reroute,
        )
        return Comparison(
            folder,
            grid(trials, methods, [self.limit], [self.seed]),
            setup,
            on_progress=progress,
        ).complete()


def chosen(setting: Setting, own: Sequence[str]) -> list[str]:
    """Return the names of the instances of a study."""
    return list(setting.instances or own)


def read_all(names: Iterable[str]) -> dict[str, Instance]:
    """Read instances by name."""
    return {name: read_instance(name) for name in names}


def facts(setting: Setting, records: Sequence[RunRecord]) -> str:
    """Say in a sentence with what the runs were made."""
    machines = {one.machine for one in records}
    versions: dict[str, str] = {}
    for one in records:
        versions |= one.versions
    where = "; ".join(
        sorted(
            f"{one.cpu}, {one.cores} cores, {one.memory_bytes / 2**30:.0f} GiB, "
            f"Python {one.python}"
            for one in machines
        )
    )
    runs = len({one.solve for one in records})
    spent = sum(
        seconds for seconds in {one.solve: one.cpu_s for one in records}.values()
    )
    with_ = ", ".join(f"{name} {number}" for name, number in sorted(versions.items()))
    return (
        f"{runs} solves, {setting.limit}, seed {setting.seed}, one at a time, "
        f"{spent:.0f} s of processor time in all; {where}; {with_}."
    )


def shown(table: Table) -> str:
    """Write a table below the heading of its study, one level deeper than reports."""
    return "#" + to_markdown(table)
