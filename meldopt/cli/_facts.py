"""One fact of the catalogue, printed whole."""

from __future__ import annotations

from typing import Any

from ._output import console, print_json


def as_dict(fact: Any) -> dict[str, Any]:
    """Return the fields of a fact by name."""
    import msgspec

    values: dict[str, Any] = msgspec.to_builtins(fact)
    return values


def print_facts(fact: Any, *, as_json: bool) -> None:
    """Print every field of a fact."""
    values = as_dict(fact)
    if as_json:
        print_json(values)
        return
    out = console()
    width = max(map(len, values))
    for key, value in values.items():
        if value is None or value == "":
            continue
        if isinstance(value, dict):
            value = ", ".join(f"{name} {item:g}" for name, item in value.items())
        elif isinstance(value, float):
            value = f"{value:g}"
        out.print(f"{key:<{width}}  {value}", soft_wrap=True)
