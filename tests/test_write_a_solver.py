"""The solver of ``docs/write-a-solver.md`` keeps the contract of solvers."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

PAGE = Path(__file__).resolve().parent.parent / "docs" / "write-a-solver.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.M | re.S)

# A module of its own, so that the solver can be pickled by name.
_page = types.ModuleType("docs_write_a_solver")
sys.modules[_page.__name__] = _page
for _block in BLOCKS:
    exec(compile(_block, str(PAGE), "exec", dont_inherit=True), _page.__dict__)

TestRandomSolver = _page.TestRandomSolver


def test_length() -> None:
    """The page keeps its promise of 40 lines, imports and blank lines left out."""
    body = BLOCKS[0].partition("class ")[2].splitlines()
    assert 20 < len([line for line in body if line.strip()]) <= 40
