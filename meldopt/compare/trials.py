"""From what people write to instances that are planned and judged on."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from meldopt.builder import build_problem
from meldopt.errors import FileFormatError
from meldopt.instance import Instance, read_instance
from meldopt.library import instance_names, instances_folder

from .frozen import check_same_axes
from .grid import Subject, Trial
from .workloads import on_workload, read_workload

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from meldopt.problem import Problem

    from .folder import Folder
    from .workloads import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class _Named:
    """An instance and what tables call it."""

    name: str
    instance: Instance
    digest: str
    problem: Problem


class Library:
    """The instances of a comparison, each read and built once.

    Everything is read and checked before anything is written.
    """

    def __init__(self) -> None:
        self._known: dict[str, _Named] = {}  # by digest
        self._called: dict[str, str] = {}  # digest by name

    def trials(
        self,
        instances: Sequence[str],
        train: Sequence[str] = (),
        test: Sequence[str] = (),
    ) -> list[Trial]:
        """Read instances, and where plans are made and judged.

        Parameters
        ----------
        instances
            Paths, names of bundled instances, or patterns of names
            (``mixtral-8x7b/*``).
        train, test
            Instances, demand sets or traces. A demand set or a trace takes the place of
            the workload of each of ``instances``. Without ``train`` plans are made on
            the instances, without ``test`` they are judged on them.

        Returns
        -------
        list of Trial
            Every train set with every test set.

        Raises
        ------
        MeldoptError
            In one line: what cannot be read, or does not fit.
        """
        bases = [
            self._named(read_instance(name), _label(name))
            for name in _expanded(instances)
        ]
        if not train and not test:
            if not bases:
                raise FileFormatError("got no instance, expected at least one")
            return [
                Trial(planned=_subject(one), judged=(_subject(one),)) for one in bases
            ]
        trains = [(name, read_workload(name)) for name in train]
        tests = [(name, read_workload(name)) for name in test]
        if not trains and not bases:
            raise FileFormatError(
                "got --test alone, expected an INSTANCE or --train to plan on"
            )
        whole = [isinstance(one, Instance) for _, one in (*trains, *tests)]
        if bases and trains and tests and all(whole):
            raise FileFormatError(
                f"{bases[0].name}: has no part: --train and --test are instances"
            )
        trials = []
        options: list[_Named | None] = [*bases] or [None]
        for base in options:
            for planned in self._all(base, trains):
                judged = list(self._all(base or planned, tests))
                for one in judged:
                    check_same_axes(planned.problem, one.problem)
                trials.append(
                    Trial(
                        planned=_subject(planned),
                        judged=tuple(dict.fromkeys(map(_subject, judged))),
                    )
                )
        return trials

    def _all(
        self, base: _Named | None, workloads: list[tuple[str, Workload]]
    ) -> Iterator[_Named]:
        """Yield the base with each workload in place; as it is without any."""
        if not workloads:
            assert base is not None
            yield base
        for name, workload in workloads:
            instance = on_workload(
                None if base is None else base.instance, workload, _short(name)
            )
            label = _label(name)
            if not isinstance(workload, Instance):
                assert base is not None
                label = f"{base.name} @ {_short(name)}"
            yield self._named(instance, label)

    def _named(self, instance: Instance, label: str) -> _Named:
        """Build an instance and give it a name that no other one has."""
        digest = instance.digest()
        if digest in self._known:
            return self._known[digest]
        problem = build_problem(instance)
        name, number = label or instance.name, 1
        while name in self._called:
            number += 1
            name = f"{label or instance.name} ({number})"
        self._called[name] = digest
        self._known[digest] = _Named(
            name=name, instance=instance, digest=digest, problem=problem
        )
        return self._known[digest]

    def instance(self, subject: Subject) -> tuple[Instance, Problem]:
        """Return an instance and its problem."""
        named = self._known[subject.digest]
        return named.instance, named.problem

    def keep(self, folder: Folder) -> None:
        """Write all instances that were read to the folder of a comparison."""
        for named in self._known.values():
            folder.keep_instance(named.instance, named.digest)


def _subject(named: _Named) -> Subject:
    return Subject(name=named.name, digest=named.digest)


def _expanded(patterns: Sequence[str]) -> list[str]:
    """Return paths as they are, and for patterns the bundled names that match."""
    found: list[str] = []
    for pattern in patterns:
        if Path(pattern).exists() or not any(letter in pattern for letter in "*?["):
            found.append(pattern)
            continue
        names = fnmatch.filter(instance_names(), pattern)
        if not names:
            raise FileFormatError(
                f"{pattern}: no bundled instance has such a name ('meldopt instances' "
                "lists them)"
            )
        found += names
    return list(dict.fromkeys(found))


def _label(name: str) -> str:
    """Return the name of a bundled instance; empty for any other file."""
    folder = instances_folder()
    path = Path(name)
    if not path.exists():
        return name
    if folder is not None and path.resolve().is_relative_to(folder.resolve()):
        inside = path.resolve().relative_to(folder.resolve())
        return inside.with_suffix("").as_posix()
    return ""


def _short(name: str) -> str:
    """Return the name of a workload without its folder and ending."""
    if not Path(name).exists():
        return name
    return (
        Path(name)
        .name.removesuffix(".npz")
        .removesuffix(".json")
        .removesuffix(".trace")
    )
