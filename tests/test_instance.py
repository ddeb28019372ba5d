"""Instances keep what they say through files, copies and processes."""

from __future__ import annotations

import io
import math
import pickle
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from documents import documents
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from random_problems import instances, random_instance

from meldopt.builder import build_problem
from meldopt.errors import FileFormatError, InstanceError
from meldopt.files import write_arrays
from meldopt.instance import (
    Instance,
    InstanceSpec,
    LimitsSpec,
    ModelSpec,
    ObjectiveSpec,
    RecipeFile,
    parse_instance,
    read_instance,
    write_instance,
)


def bare(spec: InstanceSpec) -> InstanceSpec:
    """Return a spec without the place of its arrays, as a file would hold it."""
    model = msgspec.structs.replace(spec.model, profile=None, digest=None)
    return msgspec.json.decode(
        msgspec.json.encode(msgspec.structs.replace(spec, model=model)),
        type=InstanceSpec,
    )


def assert_same(one: Instance, other: Instance) -> None:
    assert bare(one.spec) == bare(other.spec)
    assert set(one.arrays) == set(other.arrays)
    for name, array in one.arrays.items():
        assert other.arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(other.arrays[name], array)
    assert one.digest() == other.digest()


@settings(max_examples=100)
@given(
    spec=documents(InstanceSpec, format_version=1),
    arrays=st.dictionaries(
        st.sampled_from(["calls", "loss", "similar", "sample_experts"]),
        hnp.arrays(
            dtype=st.sampled_from([np.float64, np.float32, np.int64, np.uint16]),
            shape=hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=4),
            elements=st.integers(0, 100),
        ),
        max_size=3,
    ),
    inline=st.booleans(),
)
def test_any_instance_survives_its_file(
    spec: InstanceSpec,
    arrays: dict[str, np.ndarray],
    inline: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Whatever the types admit is read back as it was written, digest and all."""
    instance = Instance(spec=spec, arrays=arrays)
    path = tmp_path_factory.mktemp("instance") / "x.json"
    write_instance(instance, path, inline_below=10**6 if inline else 0)
    assert_same(read_instance(path), instance)
    first = path.read_bytes()
    write_instance(read_instance(path), path, inline_below=10**6 if inline else 0)
    assert path.read_bytes() == first


@given(instance=instances())
def test_sensible_instances_survive_their_files(
    instance: Instance, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The problem of a re-read instance has the same arrays, inline or in an .npz."""
    folder = tmp_path_factory.mktemp("instance")
    problem = build_problem(instance)
    for name, below in (("inline", 10**6), ("beside", 0)):
        path = folder / f"{name}.json"
        write_instance(instance, path, inline_below=below)
        assert (folder / f"{name}.npz").exists() == (name == "beside")
        again = read_instance(path)
        assert_same(again, instance)
        rebuilt = build_problem(again)
        assert rebuilt.instance_digest == problem.instance_digest
        for array in ("size_bytes", "calls", "format_loss", "route_latency", "weights"):
            np.testing.assert_array_equal(
                getattr(rebuilt, array), getattr(problem, array)
            )


@given(spec=documents(RecipeFile))
def test_any_recipe_survives_json(spec: RecipeFile) -> None:
    """A recipe document is encoded and decoded without loss."""
    text = msgspec.json.encode(spec)
    again = msgspec.json.decode(text, type=RecipeFile)
    assert msgspec.json.encode(again) == msgspec.json.encode(
        msgspec.convert(msgspec.to_builtins(spec), RecipeFile)
    )


@given(instance=instances())
def test_instances_survive_pickling(instance: Instance) -> None:
    """An instance and its problem travel to another process unharmed."""
    assert_same(pickle.loads(pickle.dumps(instance)), instance)
    problem = build_problem(instance)
    again = pickle.loads(pickle.dumps(problem))
    assert again.instance_digest == problem.instance_digest
    assert again.labels == problem.labels
    np.testing.assert_array_equal(again.transfer_s, problem.transfer_s)
    np.testing.assert_array_equal(again.size_bytes, problem.size_bytes)


def small(**changes: Any) -> Instance:
    instance = random_instance(5, dataflow="home", infeasible=False)
    return instance.replace(**changes) if changes else instance


def test_arrays_are_copied_and_frozen() -> None:
    """Neither the giver of an array nor a reader can change an instance."""
    given_ = np.array([[0.5, 0.5]])
    instance = Instance(spec=small().spec, arrays={"calls": given_})
    before = instance.digest()
    given_[0, 0] = 9.0
    assert instance.digest() == before
    with pytest.raises(ValueError, match="read-only"):
        instance.arrays["calls"][0, 0] = 9.0
    with pytest.raises(TypeError):
        instance.arrays["calls"] = given_  # type: ignore[index]


def test_whole_numbers_and_decimals_are_one_instance(tmp_path: Path) -> None:
    """24 in Python and 24.0 in the file have the same digest."""
    limits = msgspec.structs.replace(small().spec.limits, busy=1, reuse=2)
    whole = small(limits=limits)
    write_instance(whole, tmp_path / "x.json")
    assert read_instance(tmp_path / "x.json").digest() == whole.digest()
    decimal = msgspec.structs.replace(limits, busy=1.0, reuse=2.0)
    assert small(limits=decimal).digest() == whole.digest()


def test_a_default_written_out_is_a_default_left_out() -> None:
    """Saying what holds anyway changes neither the digest nor the problem."""
    base = small(limits=LimitsSpec(), objective=ObjectiveSpec(serial=1.0))
    spoken = msgspec.convert(
        {"busy": 0.8, "reuse": 1.0, "allow_missing": False, "count": []}, LimitsSpec
    )
    said = small(limits=spoken, objective=ObjectiveSpec(serial=float("1.0"), pair=0.0))
    assert said.digest() == base.digest()
    assert said.spec == base.spec


def test_digest_sees_what_decides_the_problem() -> None:
    """Every part of the document and every array changes the digest."""
    base = small()
    spec = base.spec
    replace = msgspec.structs.replace
    other = [
        base.replace(name="other"),
        base.replace(dataflow="roam"),
        base.replace(formats=[*spec.formats, "int4-g64"]),
        base.replace(model=replace(spec.model, fuse_factor=0.125)),
        base.replace(limits=replace(spec.limits, busy=0.123)),
        base.replace(objective=replace(spec.objective, serial=17.0)),
        base.replace(
            cluster=replace(
                spec.cluster,
                links=[replace(k, bandwidth=7.5) for k in spec.cluster.links],
            )
        ),
        base.replace(
            workload=replace(
                spec.workload,
                demands=[replace(d, rate=d.rate * 2) for d in spec.workload.demands],
            )
        ),
        Instance(spec=spec, arrays={**base.arrays, "calls": base.arrays["calls"] * 2}),
        Instance(spec=spec, arrays={}),
    ]
    digests = {instance.digest() for instance in other} | {base.digest()}
    assert len(digests) == len(other) + 1


def test_digest_does_not_see_notes_or_places() -> None:
    """The about block, the source and where arrays are kept change no digest."""
    base = small()
    model = msgspec.structs.replace(base.spec.model, profile="x.npz", digest="sha256:0")
    assert base.replace(about={"note": "hello"}).digest() == base.digest()
    assert base.replace(model=model).digest() == base.digest()
    moved = Instance(spec=base.spec, arrays=base.arrays, source="elsewhere.json")
    assert moved.digest() == base.digest()


def test_numbers_that_json_cannot_say_are_refused() -> None:
    """NaN and infinity in a spec are refused with their place, not written as null."""
    limits = msgspec.structs.replace(small().spec.limits, busy=math.nan)
    with pytest.raises(InstanceError, match=r"\$\.limits\.busy: got nan, expected"):
        small(limits=limits)
    model = ModelSpec(layers=1, experts=1, top_k=math.inf)
    with pytest.raises(InstanceError, match=r"\$\.model\.top_k: got inf, expected"):
        small(model=model)


def test_wrong_types_in_python_are_refused() -> None:
    """A spec written in Python is checked like one from a file."""
    limits = msgspec.structs.replace(small().spec.limits, copies="two")
    with pytest.raises(InstanceError, match=r"got `str` - at `\$\.limits\.copies`"):
        small(limits=limits)
    with pytest.raises(InstanceError, match=r"array 'calls': got dtype <U1"):
        Instance(spec=small().spec, arrays={"calls": np.array(["a"])})


# -- reading ---------------------------------------------------------------------------


def written(folder: Path) -> tuple[Path, Path, Instance]:
    instance = small()
    path = folder / "x.json"
    write_instance(instance, path, inline_below=0)
    return path, folder / "x.npz", instance


def test_a_wrong_digest_is_refused(tmp_path: Path) -> None:
    """An .npz that is not the one the document was written with is not used."""
    path, npz, instance = written(tmp_path)
    write_arrays(npz, {**instance.arrays, "calls": instance.arrays["calls"] * 1.5})
    with pytest.raises(
        FileFormatError, match=r"x\.npz: got digest sha256:\w+, expecte"
    ):
        read_instance(path)


def test_a_missing_digest_is_refused(tmp_path: Path) -> None:
    """Arrays in a file need the digest of the file."""
    path, _, _ = written(tmp_path)
    document = msgspec.json.decode(path.read_bytes())
    del document["model"]["digest"]
    path.write_bytes(msgspec.json.encode(document))
    with pytest.raises(FileFormatError, match=r"\$\.model\.digest: missing"):
        read_instance(path)


def test_missing_and_truncated_arrays_are_refused(tmp_path: Path) -> None:
    """A missing and a truncated .npz are each one line with its name."""
    path, npz, _ = written(tmp_path)
    npz.write_bytes(npz.read_bytes()[:-40])
    with pytest.raises(FileFormatError, match=r"x\.npz: is no readable \.npz"):
        read_instance(path)
    npz.unlink()
    with pytest.raises(FileFormatError, match=r"x\.npz: no such file"):
        read_instance(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("cluster"), "missing required field `cluster`"),
        (lambda d: d.update(sorvers=[]), "contains unknown field `sorvers`"),
        (
            lambda d: d["limits"].update(bussy=1),
            "$.limits: Object contains unknown field `bussy`",
        ),
        (
            lambda d: d["cluster"]["servers"][0].update(name=3),
            "$.cluster.servers[0].name: Expected `str`, got `int`",
        ),
        (lambda d: d.update(format_version=2), "$.format_version: got 2, expected at"),
        (lambda d: d.update(dataflow="fly"), "$.dataflow: Invalid enum value 'fly'"),
    ],
)
def test_documents_that_do_not_fit_are_refused(
    tmp_path: Path, change: Any, message: str
) -> None:
    """Missing, unknown and mistyped keys and a newer version name their place."""
    path, _, _ = written(tmp_path)
    document = msgspec.json.decode(path.read_bytes())
    document.setdefault("limits", {})
    change(document)
    path.write_bytes(msgspec.json.encode(document))
    with pytest.raises(FileFormatError) as caught:
        read_instance(path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_huge_numbers_in_a_file_are_refused_with_their_place(tmp_path: Path) -> None:
    """1e999 is no number of JSON's readers; the line says where it stands."""
    path, _, _ = written(tmp_path)
    document = msgspec.json.decode(path.read_bytes())
    document["workload"]["demands"][0]["rate"] = 12345.5
    text = msgspec.json.encode(document).replace(b"12345.5", b"1e999")
    path.write_bytes(text)
    with pytest.raises(
        FileFormatError, match=r"\$\.workload\.demands\[0\]\.rate: Number out of range"
    ):
        read_instance(path)


@pytest.mark.parametrize(
    ("profile", "message"),
    [
        ({"calls": [[1, 2], [3]]}, r"\$\.model\.profile\.calls: got rows of unequal"),
        ({"calls": [["a"]]}, r"\$\.model\.profile\.calls: got <U1, expected numbers"),
        ({"calls": [None]}, r"\$\.model\.profile\.calls: got object, expected numbers"),
    ],
)
def test_inline_arrays_are_checked(profile: dict[str, Any], message: str) -> None:
    """Ragged and non-numeric arrays in the document name the array."""
    document = msgspec.to_builtins(small().spec)
    document["model"]["profile"] = profile
    with pytest.raises(FileFormatError, match=message):
        parse_instance(msgspec.json.encode(document), "x.json", Path())


def test_directories_and_missing_files_are_refused(tmp_path: Path) -> None:
    """A folder in place of a file, and a name of nothing, are each one line."""
    with pytest.raises(FileFormatError, match="got a directory, expected a file"):
        read_instance(tmp_path)
    with pytest.raises(FileFormatError, match="no bundled instance of that name"):
        read_instance(tmp_path / "gone.json")
    with pytest.raises(FileFormatError, match="no bundled instance of that name"):
        read_instance("no-such-family/no-such-name")


def test_unwritable_targets_are_refused(tmp_path: Path) -> None:
    """A target that is a folder, or in none, is refused and nothing is left."""
    with pytest.raises(FileFormatError, match="is a directory"):
        write_instance(small(), tmp_path)
    with pytest.raises(FileFormatError, match="folder does not exist"):
        write_instance(small(), tmp_path / "no" / "x.json")
    (tmp_path / "x.npz").mkdir()
    with pytest.raises(FileFormatError, match=r"x\.npz: is a directory"):
        write_instance(small(), tmp_path / "x.json", inline_below=0)
    assert [path.name for path in tmp_path.iterdir()] == ["x.npz"]


class _Stdin:
    def __init__(self, data: bytes) -> None:
        self.buffer = io.BytesIO(data)


def test_a_dash_is_standard_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`-` reads the document from standard input; messages say so."""
    instance = small()
    write_instance(instance, tmp_path / "x.json", inline_below=10**6)
    monkeypatch.setattr(sys, "stdin", _Stdin((tmp_path / "x.json").read_bytes()))
    assert_same(read_instance("-"), instance)
    monkeypatch.setattr(sys, "stdin", _Stdin(b"{}"))
    with pytest.raises(FileFormatError, match=r"^<stdin>: "):
        read_instance("-")
