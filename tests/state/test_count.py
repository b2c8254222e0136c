"""One document with ``count`` is so many clones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconciler.repository import DirectoryTree
from reconciler.spec.documents import SpecFile
from reconciler.spec.loader import load
from reconciler.state.resolve import ResolveCache, resolve

if TYPE_CHECKING:
    from pathlib import Path

    from reconciler.state.desired import DesiredClone

IMAGE = """\
apiVersion: reconciler/v1
kind: Image
metadata: {name: shop}
spec: {engine: postgres, source: {empty: {}}, databases: [shop]}
"""
CLONE = """\
apiVersion: reconciler/v1
kind: Clone
metadata: {name: dev}
spec:
  image: shop
  count: 3
  port: 5601
  scripts: [{path: seed.sql.j2}]
"""


def clones(root: Path, *documents: str) -> dict[str, DesiredClone]:
    (root / "seed.sql.j2").write_text("-- {{ clone.name }}\n")
    data = "---\n".join((IMAGE, *documents)).encode()
    loaded = load([SpecFile("specs.yaml", data)])
    assert loaded.valid, loaded.diagnostics
    cache = ResolveCache()
    first = resolve(loaded.documents, DirectoryTree(root), cache=cache)
    again = resolve(loaded.documents, DirectoryTree(root), cache=cache)
    assert first.desired is not None, first.diagnostics
    assert again.desired == first.desired
    return {str(name): clone for name, clone in first.desired.clones.items()}


def problems(*documents: str) -> list[tuple[str, str]]:
    found = load([SpecFile("specs.yaml", "---\n".join((IMAGE, *documents)).encode())]).diagnostics
    return [(one.code, one.summary) for one in found]


def test_clones_are_numbered_on_ports_that_follow_each_other(tmp_path: Path) -> None:
    found = clones(tmp_path, CLONE)
    assert {name: (clone.port, clone.number) for name, clone in found.items()} == {
        "dev-1": (5601, 1),
        "dev-2": (5602, 2),
        "dev-3": (5603, 3),
    }
    assert {clone.document.line for clone in found.values()} == {6}


def test_templates_see_the_numbered_name(tmp_path: Path) -> None:
    assert clones(tmp_path, CLONE)["dev-2"].scripts[0].text == "-- dev-2\n"


def test_a_count_of_one_is_numbered_as_well(tmp_path: Path) -> None:
    assert list(clones(tmp_path, CLONE.replace("count: 3", "count: 1"))) == ["dev-1"]


def test_numbered_clones_are_renamed_each(tmp_path: Path) -> None:
    renamed = clones(tmp_path, CLONE.replace("{name: dev}", "{name: test, formerly: dev}"))
    assert [clone.formerly for clone in renamed.values()] == ["dev-1", "dev-2", "dev-3"]


def test_the_first_can_be_the_one_that_there_was_without_a_count(tmp_path: Path) -> None:
    renamed = clones(tmp_path, CLONE.replace("{name: dev}", "{name: dev, formerly: dev}"))
    assert [clone.formerly for clone in renamed.values()] == ["dev", None, None]


def test_names_and_ports_of_other_documents_are_not_taken_twice() -> None:
    other = "apiVersion: reconciler/v1\nkind: Clone\nmetadata: {name: dev-2}\nspec: {image: shop, port: 5603}\n"
    assert problems(CLONE, other) == [
        ("R020", 'Clone "dev-2" is defined twice'),
    ]
    assert problems(CLONE, other.replace("dev-2", "qa")) == [("R023", "port 5603 is already taken by clone dev")]
    assert problems(CLONE, CLONE.replace("  count: 3\n  port: 5601\n", "")) == [
        ("R020", 'Clone "dev" is defined twice')
    ]


def test_numbered_names_and_ports_have_to_exist() -> None:
    long = "d" * 62
    assert problems(CLONE.replace("name: dev", f"name: {long}")) == [
        ("R027", "with its number this name has 64 characters, and 63 is the most")
    ]
    assert problems(CLONE.replace("5601", "65534")) == [("R017", "3 ports from 65534 on go beyond 65535")]
    assert problems(CLONE.replace("count: 3", "count: 0"))[0][1] == "this must be at least 1"
