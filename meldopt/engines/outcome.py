"""What an engine found, in the scale of the model it was given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    OnIncumbent = Callable[
        [float | None, float | None, "NDArray[np.float64] | None"], bool
    ]
    """Called with objective, bound and solution (None if unchanged); True stops."""

EngineStatus = Literal["optimal", "feasible", "infeasible", "unbounded", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Outcome:
    """Result of one run of an engine.

    Attributes
    ----------
    status
        ``optimal``: proved; ``feasible``: a solution, no proof.
    x
        The best solution found, or None.
    objective, bound
        In the scale of the model; ``bound`` is None if nothing was proved.
    nodes
        Branch-and-bound nodes or conflicts.
    interrupted
        Whether Ctrl-C or a callback ended the run.
    """

    status: EngineStatus
    x: NDArray[np.float64] | None
    objective: float | None
    bound: float | None
    nodes: int = 0
    interrupted: bool = False
    duals: NDArray[np.float64] | None = None
