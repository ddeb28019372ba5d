"""The trade-off between two terms of the objective, certified from below.

Each run minimises a weighted sum of the two terms under all rows of the instance,
started from the best plan that is known for these weights. Its plan is a point; its
proven bound is a line below which no plan lies, so the upper envelope of all lines
bounds the whole front from below (dichotomic search: Aneja and Nair 1979,
https://doi.org/10.1287/mnsc.25.1.73). Weighted sums reach the points on the convex
hull only. Between them, where the problem is small enough for a MILP, the first term
is minimised with the second one capped (epsilon-constraint: Haimes, Lasdon and Wismer
1971): the cap is a linear row whose coefficients are the costs of the second term.

``memory`` may stand in for the second term: the largest part of a place's memory,
capacity less reserve, that is in use. It is capped by scaling all memory, so any solver
serves, at any size.
"""

from __future__ import annotations

from .certificate import Certificate as Certificate
from .certificate import Line as Line
from .certificate import Step as Step
from .front import UNITS as UNITS
from .front import Front as Front
from .front import Point as Point
from .scan import FrontProgress as FrontProgress
from .scan import pareto as pareto
