from __future__ import annotations

import base64
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import pytest
from run_records import many, record, write_records

from meldopt.builder import build_problem
from meldopt.compare.folder import Folder, file_digest
from meldopt.compare.page import to_html
from meldopt.compare.records import ViolationRecord
from meldopt.compare.report import TABLES, build_report
from meldopt.instance import read_instance
from meldopt.library import best_plan
from meldopt.plan import read_plan, write_plan
from meldopt.score import score

if TYPE_CHECKING:
    from pathlib import Path

    from meldopt.compare.records import RunRecord

VOID = {"meta", "img", "br", "hr", "input", "link"}


class Page(HTMLParser):
    """What a page holds; fails where elements do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.widths: list[int] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if "id" in found:
            self.ids.append(found["id"] or "")
        for name in ("src", "href"):
            if name in found:
                self.links.append(found[name] or "")
        if tag == "img":
            self.images.append(found)
        if tag == "tr":
            self.widths.append(0)
        if tag in ("td", "th"):
            self.widths[-1] += 1
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


def page_of(folder: Path, records: list[RunRecord], **options: object) -> Page:
    """Return the page of these records."""
    report = build_report(write_records(folder, records), index={}, **options)  # type: ignore[arg-type]
    return Page(to_html(report))


@pytest.fixture
def real(tmp_path: Path) -> Path:
    """Return a folder with a real plan that is judged anew, and one that is not."""
    name = "tiny/memory"
    instance = read_instance(name)
    problem = build_problem(instance)
    folder = Folder(tmp_path / "real")
    folder.prepare()
    digest = problem.instance_digest
    folder.keep_instance(instance, digest)
    plan = read_plan(best_plan(name) or "", problem)
    judged = score(problem, plan)
    file = "plans/best.plan.json"
    write_plan(plan, folder.path / file, problem=problem)
    changes = {
        "instance_digest": digest,
        "terms": dict(judged.terms),
        "plan": file,
        "plan_digest": file_digest(folder.path / file),
    }
    write_records(
        folder.path,
        [
            record(name, "exact", judged.objective, bound=judged.objective, **changes),
            record(name, "other", 2 * judged.objective, **changes),
            record(
                name,
                "blind",
                0.0,
                **changes | {"plan_digest": "sha256:q"},
                status="violating",
                violations=[ViolationRecord(row="memory", where="lab/gpu", amount=3.0)],
            ),
        ],
    )
    return folder.path


def test_page_needs_no_network(tmp_path: Path) -> None:
    """Everything is inside: links stay on the page, and a browser may load nothing."""
    pytest.importorskip("matplotlib")
    records = many(4, 2, 1)
    report = build_report(write_records(tmp_path, records), index={})
    text = to_html(report)
    page = Page(text)
    inside = set(page.ids)
    assert len(page.ids) == len(inside)  # no id stands twice
    for link in page.links:
        assert link.startswith("data:image/svg+xml;base64,") or link[1:] in inside
    assert "default-src 'none'" in text
    outside = re.sub(r"data:[^\"]*", "", text)
    assert not re.search(r"@import|url\(|<link|<script src|fetch\(", outside)


def test_pictures_are_vectors_and_are_described(tmp_path: Path) -> None:
    """Each is a whole SVG of its own with a text for those who do not see it."""
    pytest.importorskip("matplotlib")
    page = page_of(tmp_path, many(4, 4, 1))
    assert len(page.images) >= 5
    for image in page.images:
        assert image["alt"]
        drawn = base64.b64decode((image["src"] or "").partition(",")[2])
        assert ET.fromstring(drawn.decode()).tag.endswith("svg")
    assert page.words.count("is better") >= 2  # captions say how to read them


def test_it_is_readable_without_script(tmp_path: Path) -> None:
    """Every instance and table is in the page itself; nothing is hidden at first."""
    pytest.importorskip("matplotlib")
    report = build_report(write_records(tmp_path, many(4, 6, 1)), index={})
    text = to_html(report)
    page = Page(text)
    body = text.partition("<script>")[0]
    assert "hidden" not in body.partition("</style>")[2]
    for n in range(6):
        assert f"instance_{n}" in page.words
        assert f"instance-{n + 1}" in page.ids


def test_rows_are_as_wide_as_their_heads(tmp_path: Path) -> None:
    """Each table has one cell for each column."""
    report = build_report(write_records(tmp_path, many(3, 3, 1)), index={}, plans=False)
    text = to_html(report, pictures=False)
    for table in re.findall(r"<table.*?</table>", text, re.DOTALL):
        assert len(set(Page(table).widths)) == 1


def test_odd_names_are_escaped(tmp_path: Path) -> None:
    """A name is text, whatever is in it."""
    pytest.importorskip("matplotlib")
    bad = "</script><b>&\"'"
    records = [
        record(f"f/<i>{n}", label, 1.0 + n, error=bad, options={"x": bad})
        for n in range(2)
        for label in (bad, "b", "c")
    ]
    records.append(record("f/<i>0", "d", None, status="crashed", error=bad))
    report = build_report(write_records(tmp_path, records), index={})
    text = to_html(report)
    assert "<b>" not in text
    assert "<i>" not in text
    assert text.count("</script>") == 1
    assert bad in Page(text).words


def test_plans_are_drawn(real: Path) -> None:
    """The best plan, and that of the reference: placements, links and a front."""
    pytest.importorskip("matplotlib")
    report = build_report(real, against="other")
    (chapter,) = report.chapters
    assert [one.name for one in chapter.pictures] == [
        "front-1",
        "placement-1",
        "links-1",
        "placement-1-against",
        "links-1-against",
    ]
    assert chapter.notes == ()
    page = Page(to_html(report))
    assert "Placement: the best plan, by exact (seed 0)" in page.words
    assert "memory 1 lab/gpu 3" in page.words  # what the violating plan breaks
    front = report.tables["fronts"]
    assert [row[2] for row in front.rows] == ["exact", "other"]
    # Both have the same terms and bytes: neither dominates the other.
    assert [row[-1] for row in front.rows] == ["yes", "yes"]


def test_plans_that_are_gone_are_said(real: Path) -> None:
    """A report does not fail for a plan or an instance that cannot be read."""
    (real / "plans" / "best.plan.json").write_text("{}")
    (chapter,) = build_report(real).chapters
    assert any("cannot be drawn" in note for note in chapter.notes)
    (chapter,) = build_report(real, plans=False).chapters
    assert chapter.pictures == ()


def test_a_plan_that_was_not_judged_is_not_drawn(real: Path) -> None:
    """Another plan in its place, good as it may be, is said to be another."""
    path = real / "plans" / "best.plan.json"
    path.write_bytes(path.read_bytes() + b" ")
    (chapter,) = build_report(real).chapters
    assert [one.name for one in chapter.pictures] == ["front-1"]
    assert "is not the plan that was judged" in chapter.notes[0]
    assert chapter.front is not None
    assert not chapter.front.bytes_known


def test_an_instance_that_is_gone_is_said(tmp_path: Path) -> None:
    """Without the instance there is no memory and no placement, and a reason."""
    runs = [record("f/a", label, 1.0, plan="p.json") for label in "xy"]
    (chapter,) = build_report(write_records(tmp_path, runs), index={}).chapters
    assert [one.name for one in chapter.pictures] == ["front-1"]
    assert "the instance cannot be read: f/a: no such file" in chapter.notes[0]
    assert chapter.front is not None
    assert not chapter.front.bytes_known


def test_instances_of_one_name_are_told_apart(tmp_path: Path) -> None:
    """A file that changed between runs is two instances, with their digests."""
    runs = [
        record("f/a", "x", 1.0),
        record("f/a", "x", 2.0, instance_digest="sha256:0123456789", key="k"),
    ]
    report = build_report(write_records(tmp_path, runs), index={}, plans=False)
    assert report.chapters[1].name == "f/a (01234567)"
    assert len(report.tables["instances"].rows) == 2


def test_warnings_come_first(tmp_path: Path) -> None:
    """Contradictions, missing pairs and solvers that are not ranked are said."""
    runs = [
        record("f/a", "x", 1.0),
        record("f/a", "y", None, bound=2.0, status="unknown"),
        record("f/b", "x", 1.0),
    ]
    report = build_report(write_records(tmp_path, runs), index={}, plans=False)
    first, second, third = report.warnings
    assert "the bound 2 of y is above the objective 1 of x" in first
    assert "1 pair of a case and a solver was not run" in second
    assert "not ranked, since no plan kept every row: y" in third
    text = to_html(report, pictures=False)
    assert text.index('class="warning"') < text.index("What was compared")


def test_ranks_are_of_complete_cases(tmp_path: Path) -> None:
    """A case that one solver was not run on ranks nobody."""
    runs = [
        record(f"f/{name}", label, 1.0 + k)
        for name in "abc"
        for k, label in enumerate("xyz")
        if (name, label) != ("c", "x")
    ]
    report = build_report(write_records(tmp_path, runs), index={}, plans=False)
    ranks = report.tables["ranks"]
    assert ranks.rows == (("x", 1.0), ("y", 2.0), ("z", 3.0))
    assert "Over 2 cases" in ranks.caption


def test_one_case_has_no_profile(tmp_path: Path) -> None:
    """Of one case there is nothing to be the mean or the share of."""
    runs = [record("f/a", label, 1.0, bound=0.5) for label in "xy"]
    report = build_report(write_records(tmp_path, runs), index={}, plans=False)
    assert [one.name for one in report.pictures] == ["gap-over-time"]


@pytest.mark.parametrize(
    "records",
    [
        [],
        [record("f/a", "x", 1.0)],
        [record("f/a", "x", None, status="crashed"), record("f/a", "y", None)],
        [record("f/a", label, 1.0) for label in "xyz"],
        [record("f/a", "x", 0.0, bound=0.0), record("f/a", "y", 0.0)],
        [record("f/a", "x", 1.0, history=[], runtime_s=0.0, bound=0.5)],
    ],
    ids=["none", "one", "all crashed", "no bound", "objective 0", "no time"],
)
def test_odd_comparisons(tmp_path: Path, records: list[RunRecord]) -> None:
    """A page is made of whatever there is."""
    pytest.importorskip("matplotlib")
    page = page_of(tmp_path, records)
    assert ("No run has ended yet" in page.words) == (not records)


def test_same_results_same_page(real: Path) -> None:
    """The same records give the same bytes; nothing tells when it was made."""
    pytest.importorskip("matplotlib")
    assert to_html(build_report(real)) == to_html(build_report(real))


def test_every_table_has_a_place() -> None:
    """Names of tables are those that the command knows."""
    assert len(set(TABLES)) == len(TABLES)
    assert all(re.fullmatch(r"[a-z0-9-]+", name) for name in TABLES)
