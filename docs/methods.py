"""Write the table and the sections of ``docs/baselines.md`` from the code.

``python docs/methods.py`` replaces what stands below the marker of the page by one row
and one section for each registered baseline: what it says of itself (`BaselineInfo`),
what the docstring of its module says it ignores and where gaps were filled, and its
parameters. ``--check`` writes nothing and fails if the page is not what it would write.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from meldopt.registry import load_solver
from meldopt.solver import solver_infos

if TYPE_CHECKING:
    from meldopt.solver import SolverInfo

PAGE = Path(__file__).resolve().parent / "baselines.md"
MARK = "<!-- Below: written by `python docs/methods.py` from the code. -->\n"


def baselines() -> dict[str, SolverInfo]:
    """Return the registered baselines of this project by name."""
    return {
        name: info
        for name, info in solver_infos().items()
        if info.kind == "baseline"
        and load_solver(name).__module__.startswith("meldopt_solvers.")
    }


def notes(name: str) -> dict[str, str]:
    """Return the first line and the parts of the docstring of a method's module."""
    text = inspect.getdoc(sys.modules[load_solver(name).__module__]) or ""
    found = {"": text.partition("\n\n")[0]}
    for part in ("Decides", "Ignores", "Gaps filled"):
        match = re.search(
            rf"^{part}:(.*?)(?=^(?:Decides|Ignores|Gaps filled):|^References|\Z)",
            text,
            re.M | re.S,
        )
        found[part] = "" if match is None else match.group(1)
    found["References"] = text.partition("References\n----------\n")[2]
    return {part: _markdown(text) for part, text in found.items()}


def _markdown(text: str) -> str:
    """Put paragraphs and items on one line each and turn ``code`` into `code`."""
    parts = re.split(r"\n(?:\s*\n)+|\n(?=\s*- )", "\n" + text.strip())
    lines = [" ".join(one.split()) for one in parts if one.strip()]
    joined = ""
    for before, line in zip(["", *lines], lines, strict=False):
        items = before.startswith("- ") and line.startswith("- ")
        joined += ("\n" if items else "\n\n") * bool(before) + line
    return re.sub(r"``([^`]+)``", r"`\1`", joined)


def references(text: str) -> list[str]:
    """Return the items of a list of references, links in angle brackets."""
    items = re.split(r"\s*\.\. \[\d+\] ", text)[1:]
    return [re.sub(r"(?<![<(])(https?://\S+)", r"<\1>", one).strip() for one in items]


def parameters(info: SolverInfo) -> list[str]:
    """Return the table of the parameters of a method."""
    kind = info.params
    if kind is None:
        return []
    meaning: dict[str, str] = {}
    for one in reversed(kind.__mro__):
        doc = inspect.cleandoc(one.__doc__ or "").partition("Attributes\n----------\n")
        for names, text in re.findall(
            r"^(\w[\w, ]*)\n((?:[ ]{4}.*\n?|\n(?=[ ]{4}))+)", doc[2], re.M
        ):
            for name in names.split(", "):
                meaning[name] = _markdown(text).replace("|", "\\|")
    rows = ["| parameter | default | meaning |", "|---|---|---|"]
    for field in dataclasses.fields(kind):
        default = "none" if field.default is None else f"`{json.dumps(field.default)}`"
        rows.append(f"| `{field.name}` | {default} | {meaning[field.name]} |")
    return rows


def generated() -> str:
    """Return the table and the sections of all registered baselines."""
    infos = baselines()
    lines = [
        "| method | published as | decides | looks at | dataflow |",
        "|---|---|---|---|---|",
    ]
    for name, info in infos.items():
        flows = {"home", "roam"} & info.capabilities
        both = "both" if len(flows) == 2 else next(iter(flows))
        decides, sees = (", ".join(getattr(info, part)) for part in ("decides", "sees"))
        lines.append(
            f"| [`{name}`](#{name}) | {info.citation} | {decides} | "
            f"{sees or 'nothing'} | {both} |"
        )
    for name, info in infos.items():
        said = notes(name)
        lines += ["", f"## `{name}`", "", said[""], ""]
        for part in ("Ignores", "Gaps filled"):
            apart = "\n\n" if said[part].startswith("- ") else " "
            lines += [f"**{part}:**{apart}{said[part]}", ""]
        lines += ["**References:**", ""]
        lines += [f"- {one}" for one in references(said["References"])]
        lines += ["", *parameters(info)]
    return "\n".join(lines) + "\n"


def page() -> str:
    """Return the page with everything below the marker written anew."""
    head, mark, _ = PAGE.read_text(encoding="utf-8").partition(MARK)
    if not mark:
        raise SystemExit(f"{PAGE}: has no line {MARK.strip()!r}")
    return f"{head}{mark}\n{generated()}"


def main() -> int:
    """Write or check the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing")
    if not parser.parse_args().check:
        PAGE.write_text(page(), encoding="utf-8")
    elif PAGE.read_text(encoding="utf-8") != page():
        print(f"{PAGE}: is not what the code says: python docs/methods.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
