"""Options and types that several commands share."""

from __future__ import annotations

import json
import math
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from meldopt.errors import FileFormatError

if TYPE_CHECKING:
    from collections.abc import Callable

F = TypeVar("F", bound="Callable[..., Any]")


class Fraction(click.ParamType):  # type: ignore[type-arg]
    """A fraction, written ``0.005`` or ``0.5%``."""

    name = "gap"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Turn the text into a fraction of 0 or more."""
        if isinstance(value, float):
            return value
        text = str(value).strip()
        try:
            number = float(text.removesuffix("%"))
        except ValueError:
            number = math.nan
        if text.endswith("%"):
            number /= 100
        if not (math.isfinite(number) and number >= 0):
            self.fail(
                f"got {value!r}, expected a fraction or a percentage: 0.005 or 0.5%",
                param,
                ctx,
            )
        return number


class Positive(click.ParamType):  # type: ignore[type-arg]
    """A number of 0 or more; ``inf`` is no limit."""

    def __init__(self, name: str) -> None:
        self.name = name

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Turn the text into a number of 0 or more."""
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not number >= 0:
            self.fail(f"got {value!r}, expected a number of 0 or more", param, ctx)
        return number


def instance_argument(command: F) -> F:
    """Add the argument INSTANCE."""
    return click.argument("instance", metavar="INSTANCE")(command)


def json_option(command: F) -> F:
    """Add ``--json``."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Print one JSON object instead."
    )(command)


def seed_option(command: F) -> F:
    """Add ``--seed``."""
    return click.option(
        "--seed",
        type=click.IntRange(min=0),
        default=0,
        show_default=True,
        metavar="INTEGER",
        help="Random seed.",
    )(command)


def setting_options(what: str) -> Callable[[F], F]:
    """Add ``--set`` and ``--config`` for parameters of something."""

    def add(command: F) -> F:
        command = click.option(
            "--config",
            metavar="FILE.toml",
            help=f"Read parameters {what} from a TOML file; --set wins over it.",
        )(command)
        return click.option(
            "--set",
            "settings",
            multiple=True,
            metavar="KEY=VALUE",
            help=f"Set a parameter {what}; may be repeated.",
        )(command)

    return add


def read_settings(settings: tuple[str, ...], config: str | None) -> dict[str, Any]:
    """Combine the parameters of a TOML file and of the command line."""
    values: dict[str, Any] = {}
    if config is not None:
        path = Path(config)
        try:
            values |= tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as exc:
            raise FileFormatError(f"{path}: cannot be read: {exc.strerror}") from exc
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
            raise FileFormatError(f"{path}: is not valid TOML: {exc}") from exc
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key.strip():
            raise click.UsageError(f"got {setting!r}, expected KEY=VALUE")
        values[key.strip()] = parse_value(text.strip())
    return values


def parse_value(text: str) -> Any:
    """Read a value as JSON where it is JSON (numbers, lists, true), else as text."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
