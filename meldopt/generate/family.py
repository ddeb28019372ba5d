"""Families of instances and their parameters, checked before anything is drawn."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from meldopt.errors import InstanceError
from meldopt.units import parse_quantity

Kind = Literal[
    "int",
    "number",
    "text",
    "flag",
    "texts",
    "numbers",
    "range",
    "quantity",
    "points",
    "table",
    "tables",
    "homes",
]
"""Kinds of values. A ``range`` is ``[low, high]`` or one number or text for both; with
a unit its ends are quantities such as ``"1 Gbit/s"``."""

_EXPECTED = {
    "int": "a whole number",
    "number": "a number",
    "text": "text",
    "flag": "true or false",
    "texts": "a list of text",
    "numbers": "a list of numbers that add to at most 1",
    "range": "[low, high] or one number",
    "quantity": "a quantity",
    "points": "a list of [x, y] in km",
    "table": "a table (an object)",
    "tables": "a list of tables (objects)",
    "homes": "'all', a level, a whole number or a list of server names",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One parameter of a family.

    Attributes
    ----------
    kind
        What values it takes; `Kind`.
    default
        Value when it is left out; None where that has a meaning of its own.
    help
        One line for people.
    unit
        Base unit of a ``range`` or ``quantity`` (`meldopt.units`); none: a number.
    low, high
        Bounds of numbers, ends included.
    """

    kind: Kind
    default: Any
    help: str
    unit: str | None = None
    low: float = -math.inf
    high: float = math.inf

    def read(self, name: str, value: object) -> Any:
        """Check a value and turn it into what generators use.

        Raises
        ------
        InstanceError
            Naming the parameter, what was got and what was expected.
        """
        if value is None:
            if self.default is None:
                return None
            raise self._refuse(name, value)
        return getattr(self, f"_read_{self.kind}")(name, value)

    def _refuse(self, name: str, value: object, expected: str = "") -> InstanceError:
        wanted = expected or _EXPECTED[self.kind]
        if not expected and self.unit:
            wanted += f" in {self.unit}"
        return InstanceError(f"parameters.{name}: got {value!r}, expected {wanted}")

    def _bounded(self, name: str, number: float, value: object) -> float:
        if not self.low <= number <= self.high:
            bounds = (
                f">= {self.low:g}"
                if self.high == math.inf
                else f"{self.low:g} to {self.high:g}"
            )
            raise self._refuse(name, value, bounds)
        return number

    def _read_int(self, name: str, value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise self._refuse(name, value)
        return int(self._bounded(name, value, value))

    def _read_number(self, name: str, value: object) -> float:
        number = _number(value)
        if number is None:
            raise self._refuse(name, value)
        return self._bounded(name, number, value)

    def _read_text(self, name: str, value: object) -> str:
        if not isinstance(value, str) or not value:
            raise self._refuse(name, value)
        return value

    def _read_flag(self, name: str, value: object) -> bool:
        if not isinstance(value, bool):
            raise self._refuse(name, value)
        return value

    def _read_texts(self, name: str, value: object) -> list[str]:
        if (
            not isinstance(value, list | tuple)
            or not value
            or not all(isinstance(item, str) and item for item in value)
        ):
            raise self._refuse(name, value)
        return list(value)

    def _read_numbers(self, name: str, value: object) -> list[float]:
        if not isinstance(value, list | tuple):
            raise self._refuse(name, value)
        numbers = [self._read_number(f"{name}[{n}]", v) for n, v in enumerate(value)]
        if math.fsum(numbers) > 1.0:
            raise self._refuse(name, value)
        return numbers

    def _read_quantity(self, name: str, value: object) -> float:
        return self._bounded(name, self._quantity(name, value), value)

    def _read_range(self, name: str, value: object) -> tuple[float, float]:
        ends = value if isinstance(value, list | tuple) else [value, value]
        if len(ends) != 2:
            raise self._refuse(name, value)
        low, high = (
            self._bounded(name, self._quantity(name, end), value) for end in ends
        )
        if low > high:
            raise self._refuse(name, value, "[low, high] with low <= high")
        return low, high

    def _quantity(self, name: str, value: object) -> float:
        if self.unit is None:
            number = _number(value)
            if number is None:
                raise self._refuse(name, value)
            return number
        if not isinstance(value, int | float | str) or isinstance(value, bool):
            raise self._refuse(name, value)
        try:
            return parse_quantity(value, self.unit)
        except ValueError as exc:
            raise InstanceError(f"parameters.{name}: {exc}") from exc

    def _read_points(self, name: str, value: object) -> list[tuple[float, float]]:
        if not isinstance(value, list | tuple) or not value:
            raise self._refuse(name, value)
        points = []
        for item in value:
            pair = list(item) if isinstance(item, list | tuple) else []
            numbers = [_number(part) for part in pair]
            if len(numbers) != 2 or numbers[0] is None or numbers[1] is None:
                raise self._refuse(name, item)
            points.append((numbers[0], numbers[1]))
        return points

    def _read_table(self, name: str, value: object) -> dict[str, Any]:
        if not isinstance(value, Mapping) or not all(isinstance(k, str) for k in value):
            raise self._refuse(name, value)
        return dict(value)

    def _read_tables(self, name: str, value: object) -> list[dict[str, Any]]:
        if not isinstance(value, list | tuple) or not value:
            raise self._refuse(name, value)
        return [self._read_table(f"{name}[{n}]", item) for n, item in enumerate(value)]

    def _read_homes(self, name: str, value: object) -> str | int | list[str]:
        if isinstance(value, str):
            return self._read_text(name, value)
        if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
            return value
        if isinstance(value, list | tuple):
            return self._read_texts(name, value)
        raise self._refuse(name, value)


def _number(value: object) -> float | None:
    """Return a finite number as float; None for anything else, also for bools."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A family of instances: what `generate` makes, and its parameters.

    Attributes
    ----------
    name
        As `generate` is asked for it.
    description
        One sentence for people.
    parameters
        By name.
    """

    name: str
    description: str
    parameters: Mapping[str, Parameter]

    def read(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Check parameters and fill in defaults.

        Raises
        ------
        InstanceError
            For an unknown parameter or a value of a wrong kind.
        """
        for name in given:
            if name not in self.parameters:
                near = difflib.get_close_matches(str(name), list(self.parameters), 2)
                hint = (
                    " or ".join(repr(known) for known in near)
                    or f"one of {', '.join(sorted(self.parameters))}"
                )
                raise InstanceError(
                    f"parameters.{name}: got an unknown parameter of family "
                    f"{self.name!r}, expected {hint}"
                )
        return {
            name: parameter.read(name, given.get(name, parameter.default))
            for name, parameter in self.parameters.items()
        }
