"""What an instance file holds: typed, strict, written by people.

An `Instance` is the pair of a small JSON document (`InstanceSpec`) and the big arrays
that sit in an ``.npz`` beside it. `meldopt.builder.build_problem` turns it into the
checked, indexed arrays that solvers read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, dataclass_transform

import msgspec

from .errors import FileFormatError, InstanceError
from .files import (
    FORMAT_VERSION,
    arrays_to_bytes,
    check_writable,
    decode,
    digest,
    read_arrays,
    read_bytes,
    write_bytes,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

Quantity = float | str
"""A number in the base unit or text with a unit (`meldopt.units`)."""

Dataflow = Literal["home", "roam"]


@dataclass_transform(
    frozen_default=True, kw_only_default=True, field_specifiers=(msgspec.field,)
)
class _Spec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of everything in a file: immutable, by keyword, no unknown keys."""


class FormatSpec(_Spec, kw_only=True, omit_defaults=True):
    """A storage format: a catalogue name, or numbers of its own, or both."""

    name: str
    bits_per_weight: float | None = None
    precision: str | None = None


class ModelSpec(_Spec, kw_only=True, omit_defaults=True):
    """The model: a catalogue name, any number of it overridden, and its profile."""

    catalogue: str | None = None
    profile: str | dict[str, Any] | None = None
    digest: str | None = None
    domains: list[str] | None = None
    loss_formats: list[str] | None = None
    layers: int | None = None
    experts: int | list[int] | None = None
    layer_ids: list[int] | None = None
    top_k: float | None = None
    parameters_per_expert: float | None = None
    hidden_size: int | None = None
    activation_bits: float = 16.0
    bytes_out: Quantity | None = None
    bytes_back: Quantity | None = None
    backbone: Quantity | None = None
    context: Quantity = 0.0
    fuse_factor: float = 0.0
    calibration: float = 1.0
    fallback_loss: Quantity | None = None


class TierSpec(_Spec, kw_only=True, omit_defaults=True):
    """A memory tier of a server; what is left out comes from the device."""

    capacity: Quantity | None = None
    read: Quantity | None = None
    compute: dict[str, Quantity] | None = None
    formats: list[str] | None = None
    processor: str | None = None
    power: Quantity | None = None


class ServerSpec(_Spec, kw_only=True, omit_defaults=True):
    """A server: a catalogue device, or tiers written out, or both."""

    name: str
    device: str | None = None
    tiers: dict[str, TierSpec] | None = None
    reserve: Quantity = 0.0


class LinkSpec(
    _Spec,
    kw_only=True,
    omit_defaults=True,
    rename={"from_": "from"},
):
    """A link: ``between`` two servers (both ways) or directed ``from`` … ``to``."""

    between: tuple[str, str] | None = None
    from_: str | None = None
    to: str | None = None
    bandwidth: Quantity
    latency: Quantity = 0.0
    energy: Quantity = 0.0


class ClusterSpec(_Spec, kw_only=True, omit_defaults=True):
    """Servers and the directed bandwidth graph between them."""

    servers: list[ServerSpec]
    links: list[LinkSpec] = []
    distance: list[list[float]] | None = None


class ApplicationSpec(_Spec, kw_only=True, omit_defaults=True):
    """A class of requests with its own routing statistics and requirements."""

    name: str
    domain: str | dict[str, float] | None = None
    quality_budget: Quantity | None = None
    latency_target: Quantity | None = None
    trusted: list[str] | None = None


class DemandSpec(_Spec, kw_only=True):
    """Tokens per second of one application that enter at one home."""

    application: str
    home: str
    rate: Quantity


class WorkloadSpec(_Spec, kw_only=True, omit_defaults=True):
    """Applications, their demands, and who hosts the backbone."""

    applications: list[ApplicationSpec]
    demands: list[DemandSpec]
    hosts: list[str] | None = None


class CountSpec(_Spec, kw_only=True, omit_defaults=True):
    """Bounds on the number of copies in a set; ``"each"`` makes a row for each."""

    name: str
    layers: list[int] | Literal["each"] | None = None
    experts: list[int] | Literal["each"] | None = None
    servers: list[str] | Literal["each"] | None = None
    tiers: list[str] | None = None
    formats: list[str] | None = None
    min: int | None = None
    max: int | None = None


class UniformSpec(_Spec, kw_only=True, omit_defaults=True):
    """Experts whose copies share one format."""

    name: str
    layers: list[int] | Literal["each"] | None = None
    experts: list[int] | None = None


class CopySpec(_Spec, kw_only=True, omit_defaults=True):
    """A set of possible copies: what is left out is any."""

    layer: int | None = None
    expert: int | None = None
    server: str | None = None
    tier: str | None = None
    format: str | None = None


class BudgetSpec(
    _Spec,
    kw_only=True,
    omit_defaults=True,
    rename={"from_": "from"},
):
    """A cap on transfer budgets, per (layer, from, to), per pair or per link."""

    layer: int | Literal["each"] | None = None
    from_: str | None = None
    to: str | None = None
    link: tuple[str, str] | None = None
    max: Quantity


class LimitsSpec(_Spec, kw_only=True, omit_defaults=True):
    """Rows of the problem beside memory, compute, links and quality."""

    busy: float = 0.8
    link_busy: float | None = None
    reuse: float = 1.0
    copies: int | None = None
    allow_missing: bool = False
    coverage: Literal["any-server"] | list[list[str]] | None = None
    count: list[CountSpec] = []
    uniform: list[UniformSpec] = []
    pin: list[CopySpec] = []
    forbid: list[CopySpec] = []
    budgets: list[BudgetSpec] = []


class ObjectiveSpec(_Spec, kw_only=True, omit_defaults=True):
    """Weights of the terms of the objective."""

    serial: float = 0.0
    parallel: float = 0.0
    fluid: float = 0.0
    bottleneck: float = 0.0
    traffic: float = 0.0
    energy: float = 0.0
    quality: float = 0.0
    pair: float = 0.0


class InstanceSpec(_Spec, kw_only=True, omit_defaults=True):
    """The JSON document of an instance."""

    format_version: int
    name: str
    about: dict[str, Any] = {}
    dataflow: Dataflow = "home"
    model: ModelSpec
    formats: list[str | FormatSpec]
    cluster: ClusterSpec
    workload: WorkloadSpec
    limits: LimitsSpec = LimitsSpec()
    objective: ObjectiveSpec = ObjectiveSpec(serial=1.0)


class RecipeSpec(_Spec, kw_only=True, omit_defaults=True):
    """How an instance is generated: a family, a seed and its parameters."""

    family: str
    seed: int
    parameters: dict[str, Any] = {}


class RecipeFile(_Spec, kw_only=True, omit_defaults=True):
    """The JSON document of an instance that a generator makes on reading."""

    format_version: int
    name: str
    about: dict[str, Any] = {}
    recipe: RecipeSpec
    digest: str


class _Kind(msgspec.Struct):
    recipe: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Instance:
    """An instance: what files hold, before any of it is indexed.

    Attributes
    ----------
    spec
        The JSON document; `ModelSpec.profile` says nothing here, arrays do.
    arrays
        Profile arrays by name; the file format page lists names and shapes.
    source
        Where it came from, for messages: a path, or the name.
    """

    spec: InstanceSpec
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    source: str = ""

    def __post_init__(self) -> None:
        import numpy as np

        # One spelling for what means the same, hence one digest: defaults are left
        # out, and a whole number where a decimal one is meant becomes one.
        try:
            written = _written(self.spec)
            spec = msgspec.convert(written, InstanceSpec)
        except (msgspec.ValidationError, TypeError, OverflowError) as exc:
            raise InstanceError(f"{self.source or self.spec.name}: {exc}") from exc
        for place, number in _not_finite(written, "$"):
            raise InstanceError(
                f"{self.source or self.spec.name}: {place}: got {number}, expected a "
                "finite number"
            )
        object.__setattr__(self, "spec", spec)
        frozen = {}
        for name in sorted(self.arrays):
            array = np.array(self.arrays[name])
            if array.dtype.kind not in "fiub":
                raise InstanceError(
                    f"{self.source or self.spec.name}: profile array {name!r}: got "
                    f"dtype {array.dtype}, expected numbers"
                )
            if array.dtype.kind != "b":
                array = array.astype(
                    np.float64 if array.dtype.kind == "f" else np.int64, copy=False
                )
            array.flags.writeable = False
            frozen[name] = array
        object.__setattr__(self, "arrays", MappingProxyType(frozen))
        if not self.source:
            object.__setattr__(self, "source", self.spec.name)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by parts: a mapping proxy cannot be pickled."""
        return _restore, (self.spec, dict(self.arrays), self.source)

    @property
    def name(self) -> str:
        """Name of the instance."""
        return self.spec.name

    def digest(self) -> str:
        """Fingerprint of what decides the problem.

        The free ``about`` block and the place and digest of the profile file are left
        out: the same problem has the same digest wherever its arrays are kept.
        """
        model = msgspec.structs.replace(self.spec.model, profile=None, digest=None)
        spec = msgspec.structs.replace(self.spec, about={}, model=model)
        return digest(spec, self.arrays)

    def replace(self, **changes: Any) -> Instance:
        """Return a copy with some of the fields of its spec changed."""
        return Instance(
            spec=msgspec.structs.replace(self.spec, **changes),
            arrays=self.arrays,
            source=self.source,
        )


def _written(value: Any) -> Any:
    """Turn a document into plain values; what equals its default is left out.

    ``omit_defaults`` looks at identity: it keeps a default that was written out.
    """
    if isinstance(value, msgspec.Struct):
        plain = {}
        for part in msgspec.structs.fields(value):
            item = getattr(value, part.name)
            default = part.default
            if part.default_factory is not msgspec.NODEFAULT:
                default = part.default_factory()
            if default is msgspec.NODEFAULT or item != default:
                plain[part.encode_name] = _written(item)
        return plain
    if isinstance(value, dict):
        return {key: _written(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_written(item) for item in value]
    return value


def _not_finite(value: Any, place: str) -> Iterator[tuple[str, float]]:
    """Find what JSON cannot say: it would be written as null."""
    if isinstance(value, float):
        if not math.isfinite(value):
            yield place, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _not_finite(item, f"{place}.{key}")
    elif isinstance(value, list | tuple):
        for position, item in enumerate(value):
            yield from _not_finite(item, f"{place}[{position}]")


def _restore(
    spec: InstanceSpec, arrays: dict[str, NDArray[Any]], source: str
) -> Instance:
    return Instance(spec=spec, arrays=arrays, source=source)


def read_instance(path: str | Path) -> Instance:
    """Read an instance file, its arrays or its recipe.

    Parameters
    ----------
    path
        A path, ``-`` for standard input, or the name of a bundled instance such as
        ``mixtral-8x7b/metro-4``. A path that exists wins over a name.

    Raises
    ------
    FileFormatError
        If the file or its ``.npz`` is missing, malformed, newer than this release, or
        has another digest than it says.
    """
    from .library import locate

    if str(path) == "-":
        import sys

        data, source, folder = sys.stdin.buffer.read(), "<stdin>", Path()
    else:
        found = locate(path)
        data, source, folder = read_bytes(found), str(found), found.parent
    return parse_instance(data, source, folder)


def parse_instance(data: bytes, source: str, folder: Path) -> Instance:
    """Turn the bytes of an instance file into an `Instance`."""
    try:
        recipe = msgspec.json.decode(data, type=_Kind).recipe is not msgspec.UNSET
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        recipe = False
    if recipe:
        return _cook(decode(data, RecipeFile, source), source)
    spec = decode(data, InstanceSpec, source)
    profile = spec.model.profile
    arrays: dict[str, NDArray[Any]] = {}
    if isinstance(profile, str):
        path = folder / profile
        arrays = read_arrays(path)
        if spec.model.digest is None:
            raise FileFormatError(
                f"{source}: $.model.digest: missing, expected the digest of {profile}"
            )
        got = digest(None, arrays)
        if got != spec.model.digest:
            raise FileFormatError(
                f"{path}: got digest {got}, expected {spec.model.digest} as "
                f"{source} says in $.model.digest"
            )
    elif profile is not None:
        arrays = _inline(profile, source)
    return Instance(spec=spec, arrays=arrays, source=source)


def _inline(profile: dict[str, Any], source: str) -> dict[str, NDArray[Any]]:
    import numpy as np

    arrays = {}
    for name, value in profile.items():
        try:
            array = np.array(value)
        except ValueError as exc:
            raise FileFormatError(
                f"{source}: $.model.profile.{name}: got rows of unequal length, "
                "expected an array"
            ) from exc
        if array.dtype.kind not in "fiub":
            raise FileFormatError(
                f"{source}: $.model.profile.{name}: got {array.dtype}, expected numbers"
            )
        arrays[name] = array
    return arrays


def _cook(file: RecipeFile, source: str) -> Instance:
    from .generate import generate

    made = generate(
        file.recipe.family,
        name=file.name,
        seed=file.recipe.seed,
        parameters=file.recipe.parameters,
        source=source,
    )
    got = made.digest()
    if got != file.digest:
        raise FileFormatError(
            f"{source}: $.digest: got {file.digest}, but the recipe makes {got}"
        )
    return Instance(
        spec=msgspec.structs.replace(made.spec, about=file.about),
        arrays=made.arrays,
        source=source,
    )


def write_instance(
    instance: Instance, path: str | Path, *, inline_below: int = 2000
) -> None:
    """Write an instance; its arrays go beside it unless they are few numbers.

    Parameters
    ----------
    instance
        What to write.
    path
        Target ``NAME.json``; arrays go to ``NAME.npz`` in the same folder.
    inline_below
        Arrays with fewer numbers in all than this are written into the JSON.
    """
    path = Path(path)
    check_writable(path)
    arrays = dict(instance.arrays)
    profile: str | dict[str, Any] | None = None
    fingerprint = None
    # The shape of an array without numbers would be lost in JSON.
    whole = min((array.size for array in arrays.values()), default=0) == 0
    if arrays and (
        whole or sum(array.size for array in arrays.values()) >= inline_below
    ):
        target = path.with_suffix(".npz")
        check_writable(target)
        write_bytes(target, arrays_to_bytes(arrays))
        profile, fingerprint = target.name, digest(None, arrays)
    elif arrays:
        profile = {name: array.tolist() for name, array in sorted(arrays.items())}
    model = msgspec.structs.replace(
        instance.spec.model, profile=profile, digest=fingerprint
    )
    spec = msgspec.structs.replace(
        instance.spec, model=model, format_version=FORMAT_VERSION
    )
    text = msgspec.json.format(msgspec.json.encode(spec), indent=1)
    write_bytes(path, text + b"\n")
