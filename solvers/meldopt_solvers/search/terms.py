"""What the heuristics of this folder honour and optimise."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .state import HomeState

CAPABILITIES = frozenset(
    {
        "home",
        "roam",
        "copies",
        "formats",
        "tiers",
        "budgets",
        "pruning",
        "fusion",
        "substitution",
        "start",
    }
)

TERMS_SEARCHED = (
    "serial",
    "parallel",
    "fluid",
    "bottleneck",
    "traffic",
    "energy",
    "quality",
    "pair",
)


def lp_size(state: HomeState) -> int:
    """Return about how many columns the LP of the shares has."""
    segments = state.tables.prune_width.shape[1] + 1
    num = state.problem.num_experts * segments
    fused = 1 + state.tables.fuse_width.shape[1]
    num += int(state.s.copies.sum()) * fused
    return int(num * state.problem.num_demands)
