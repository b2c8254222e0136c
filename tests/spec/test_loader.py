"""Loading the files of a commit, cold and warm."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from reconciler.ids import Revision
from reconciler.repository import Entry
from reconciler.spec.documents import SpecFile
from reconciler.spec.loader import DocumentCache, is_spec_path, load, load_tree
from reconciler.spec.yaml12 import MAX_FILE_BYTES, Span

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path


def image(name: str, source: str = "{empty: {}}", more: str = "") -> str:
    return (
        f"apiVersion: reconciler/v1\nkind: Image\nmetadata: {{name: {name}}}\n"
        f"spec: {{engine: postgres, source: {source}{more}}}\n"
    )


def clone(name: str, of: str = "shop", more: str = "", labels: str = "{}") -> str:
    return (
        f"apiVersion: reconciler/v1\nkind: Clone\nmetadata: {{name: {name}, labels: {labels}}}\n"
        f"spec: {{image: {of}{more}}}\n"
    )


class MemoryTree:
    """A revision whose files are in memory; remembers what was read."""

    def __init__(self, files: Mapping[str, str]) -> None:
        self.files = {path: text.encode() for path, text in sorted(files.items())}
        self.reads: list[str] = []
        self.revision = Revision("main@sha1:0")
        self.rewrite = ""

    def entries(self) -> Mapping[str, Entry]:
        return {path: Entry(str(hash(data)), len(data)) for path, data in self.files.items()}

    def read(self, path: str) -> bytes:
        self.reads.append(path)
        return self.files[path]

    def read_many(self, paths: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        for path in paths:
            yield path, self.read(path)

    def object_id(self, path: str) -> str | None:
        return self.entries()[path].object_id if path in self.files else None

    def extract(self, path: str, target: Path) -> None:
        target.write_bytes(self.files[path])


def codes(*texts: str, selector: Mapping[str, str] | None = None) -> list[str]:
    files = [SpecFile(f"{number}.yaml", text.encode()) for number, text in enumerate(texts)]
    return [found.code for found in load(files, selector=selector).diagnostics]


def test_documents_know_where_they_are_written() -> None:
    text = "# first\n" + image("shop") + "---\n\n" + clone("dev", more=", port: 5601")
    first, second = load([SpecFile("a.yaml", text.encode(), "blob")]).documents
    assert (first.key, first.file, first.line, first.object_id) == (("Image", "shop"), "a.yaml", 2, "blob")
    assert (second.key, second.line) == (("Clone", "dev"), 8)
    assert second.position("spec", "port") == Span(11, 27, 11, 31)
    assert second.position("spec", "port", key=True) == Span(11, 21, 11, 25)


def test_a_diagnostic_of_a_document_points_into_its_file() -> None:
    [document] = load([SpecFile("a.yaml", image("shop").encode())]).documents
    found = document.diagnostic("R030", "not there", "spec", "engine", hint="look")
    assert str(found) == "a.yaml:4:16: error[R030]: not there"
    assert found.snippet[-1].startswith("spec:")


def test_files_of_a_tree_that_are_no_specs_are_not_read() -> None:
    tree = MemoryTree({"images/shop.yaml": image("shop"), "README.md": "x", "sql/a.sql": "x", ".ci/x.yaml": "x"})
    assert load_tree(tree).valid
    assert tree.reads == ["images/shop.yaml"]


@pytest.mark.parametrize(
    ("path", "expected"), [("a.yaml", True), ("a/b.yml", True), ("a.json", False), (".x/a.yaml", False)]
)
def test_spec_files_are_known_by_their_name(path: str, expected: bool) -> None:  # noqa: FBT001 - a table
    assert is_spec_path(path) is expected


def test_only_files_that_changed_are_read_again() -> None:
    cache = DocumentCache()
    tree = MemoryTree({"a.yaml": image("shop"), "b.yaml": clone("dev")})
    before = load_tree(tree, cache)
    tree.files["b.yaml"] = clone("test").encode()
    tree.reads.clear()
    after = load_tree(tree, cache)
    assert tree.reads == ["b.yaml"]
    assert [document.name for document in after.documents] == ["shop", "test"]
    assert after.documents[0] is before.documents[0]


def test_a_broken_head_does_not_push_the_last_good_revision_out_of_the_cache() -> None:
    cache = DocumentCache()
    good, bad = MemoryTree({"a.yaml": image("shop")}), MemoryTree({"a.yaml": "{"})
    load_tree(good, cache)
    for _ in range(3):
        assert not load_tree(bad, cache).valid
        assert load_tree(good, cache).valid
    assert (good.reads, bad.reads) == (["a.yaml"], ["a.yaml"])


def test_an_unchanged_commit_gives_the_same_result() -> None:
    cache = DocumentCache()
    tree = MemoryTree({"a.yaml": image("shop")})
    assert load_tree(tree, cache) is load_tree(tree, cache)


def test_errors_are_found_again_from_the_cache() -> None:
    cache = DocumentCache()
    files = [SpecFile("a.yaml", b"{", "1"), SpecFile("b.yaml", clone("dev").encode(), "2")]
    assert load(files, cache).diagnostics == load(files, cache).diagnostics != ()


def test_a_file_that_is_too_large_is_refused_without_reading_it() -> None:
    tree = MemoryTree({"a.yaml": "#" * (MAX_FILE_BYTES + 1), "b.yaml": image("shop")})
    [found] = load_tree(tree).diagnostics
    assert (found.code, found.file) == ("R002", "a.yaml")
    assert tree.reads == ["b.yaml"]


def test_every_error_of_every_file_is_reported_in_order() -> None:
    assert codes(clone("Bad", more=", prot: 1"), "{", "kind: X\n", image("shop")) == ["R016", "R012", "R003", "R010"]


def test_the_number_of_findings_in_a_file_is_bounded() -> None:
    text = clone("dev", more=", users: [" + "{x: 1}," * 1000 + "]")
    result = load([SpecFile("a.yaml", text.encode())])
    assert len(result.diagnostics) <= 102
    assert result.diagnostics[-1].code == "R099"


def test_a_reference_to_a_broken_document_is_no_second_error() -> None:
    assert codes(image("shop", "{}"), clone("dev")) == ["R017"]


def test_nothing_is_said_about_references_while_a_file_cannot_be_read() -> None:
    assert codes("{", clone("dev")) == ["R003"]
    assert codes(clone("dev")) == ["R021"]


def test_the_configuration_of_a_host_is_no_spec() -> None:
    file = SpecFile("reconciler.yaml", b"apiVersion: reconciler/v1\nkind: Config\n")
    assert [found.code for found in load([file]).diagnostics] == ["R026"]
    assert load([file], config_allowed=True).valid


def test_clones_of_one_host_cannot_share_a_port() -> None:
    one, two = clone("a", more=", port: 5601"), clone("b", more=", port: 5601")
    assert codes(image("shop"), one, two) == ["R023"]
    assert codes(image("shop"), one, clone("b", more=", port: 5602")) == []
    assert codes(image("shop"), one, clone("b", more=", port: 5601, runtime: kubernetes")) == []


def test_clones_of_two_hosts_can_share_a_port() -> None:
    alpha = clone("a", more=", port: 5601", labels="{host: alpha}")
    beta = clone("b", more=", port: 5601", labels="{host: beta}")
    assert codes(image("shop"), alpha, beta) == []
    assert codes(image("shop"), alpha, beta, selector={"host": "alpha"}) == []
    assert codes(image("shop"), alpha, beta, selector={}) == ["R023"]


def test_a_circle_is_reported_once() -> None:
    circle = [image("a", "{image: b}"), image("b", "{image: c}"), image("c", "{image: a}"), image("d", "{image: a}")]
    [found] = load([SpecFile(f"{n}.yaml", text.encode()) for n, text in enumerate(circle)]).diagnostics
    assert (found.code, found.file) == ("R022", "0.yaml")
    assert found.summary.endswith("a → b → c → a")
    assert codes(image("a", "{image: a}")) == ["R022"]


def test_a_long_chain_of_images_is_no_circle() -> None:
    chain = "---\n".join([image("i0"), *(image(f"i{n}", f"{{image: i{n - 1}}}") for n in range(1, 2000))])
    assert codes(chain) == []


def test_kinds_have_names_of_their_own() -> None:
    assert codes(image("shop"), clone("shop")) == []


def test_a_snapshot_of_the_name_before_is_no_warning() -> None:
    renamed = image("shop").replace("name: shop", "name: shop, formerly: store")
    assert codes(renamed, clone("dev", more=", snapshot: store-20261122t020000z-1a2b3c4d")) == []
    assert codes(renamed, clone("dev", more=", snapshot: other-20261122t020000z-1a2b3c4d")) == ["R025"]


def test_a_quarantine_names_snapshots_by_id_and_better_those_of_its_image() -> None:
    assert codes(image("shop", more=", quarantine: [shop-20261122t020000z-1a2b3c4d]")) == []
    assert codes(image("shop", more=", quarantine: [other-20261122t020000z-1a2b3c4d]")) == ["R025"]
    assert codes(image("shop", more=", quarantine: [latest]")) == ["R016"]
    assert codes(image("shop", more=f", quarantine: [{', '.join(['shop-20261122t020000z-1a2b3c4d'] * 2)}]")) == ["R017"]
