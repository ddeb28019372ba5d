"""Instances from recipes and seeds: clusters, workloads, routing statistics, caps."""

from __future__ import annotations

from .families import families as families
from .families import generate as generate
from .families import generate_with_plan as generate_with_plan
from .family import Family as Family
from .family import Parameter as Parameter
