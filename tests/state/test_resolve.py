from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from reconciler.ids import CloneName, ImageName
from reconciler.repository import DirectoryTree
from reconciler.spec.documents import SpecFile
from reconciler.spec.loader import DocumentCache, load_tree, parse_config
from reconciler.state.conditions import Kind, ObjectKey
from reconciler.state.desired import (
    Check,
    DocumentRef,
    DumpSource,
    Phase,
    PrimarySource,
    Refresh,
    Retention,
    Script,
    SourcePath,
    User,
    Window,
)
from reconciler.state.resolve import Resolution, ResolveCache, resolve

if TYPE_CHECKING:
    from pathlib import Path

    from reconciler.spec.config import Config
    from reconciler.state.desired import Desired, DesiredClone, DesiredImage

IMAGE = """\
apiVersion: reconciler/v1
kind: Image
metadata: {name: shop, labels: {team: payments, host: alpha}}
spec:
  engine: postgres
  version: "18"
  source:
    dump: {path: dumps/shop.sql, globals: dumps/roles.sql}
  databases: [shop]
  params: {region: eu}
  scripts:
    - {path: sql/trim.sql.j2, database: shop}
    - inline: |
        INSERT INTO account
        VALUES (1);
      database: shop
      phase: afterMasking
  masking: [pii]
  checks:
    - {sql: "SELECT count(*) > 0 FROM account", database: shop}
  parameters: {work_mem: 64MB}
  retention: {keep: 5}
"""
POLICY = """\
apiVersion: reconciler/v1
kind: MaskingPolicy
metadata: {name: pii}
spec:
  key: {secret: masking-key}
  rules:
    - table: public.account
      columns: {email: email}
"""
CLONE = """\
apiVersion: reconciler/v1
kind: Clone
metadata: {name: shop-dev, labels: {host: alpha}}
spec:
  image: shop
  owner: payments
  ttl: 8h
  users: [{name: app, password: {secret: shop-app}}]
  params: {size: small}
  scripts:
    - {path: sql/seed.sql.j2}
"""
FILES = {
    "shop.yaml": IMAGE,
    "pii.yaml": POLICY,
    "clones/dev.yaml": CLONE,
    "dumps/shop.sql": "SELECT 1;",
    "dumps/roles.sql": "CREATE ROLE x;",
    "sql/trim.sql.j2": "DELETE FROM account WHERE region <> '{{ params.region }}';\n",
    "sql/seed.sql.j2": "-- {{ clone.name }} of {{ image.name }}: {{ params.region }} {{ params.size }}\n",
}
SHOP = ImageName("shop")
DEV = CloneName("shop-dev")


def written(root: Path, files: dict[str, str]) -> DirectoryTree:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return DirectoryTree(root)


def resolved(root: Path, files: dict[str, str] | None = None, *, config: str | None = None) -> Resolution:
    tree = written(root, FILES | (files or {}))
    loaded = load_tree(tree)
    assert loaded.valid, loaded.diagnostics
    return resolve(loaded.documents, tree, config=None if config is None else host(root, config))


def host(root: Path, text: str) -> Config:
    config, diagnostics = parse_config(SpecFile("reconciler.yaml", text.encode()), base=root)
    assert config is not None, diagnostics
    return config


def desired(resolution: Resolution) -> Desired:
    assert resolution.desired is not None, resolution.diagnostics
    return resolution.desired


def image(root: Path, text: str = IMAGE, files: dict[str, str] | None = None) -> DesiredImage:
    return desired(resolved(root, {"shop.yaml": text, **(files or {})})).images[SHOP]


def clone(root: Path, text: str = CLONE, files: dict[str, str] | None = None) -> DesiredClone:
    return desired(resolved(root, {"clones/dev.yaml": text, **(files or {})})).clones[DEV]


def test_the_size_of_a_directory_is_what_its_files_add_up_to(tmp_path: Path) -> None:
    text = IMAGE.replace("path: dumps/shop.sql,", "path: dumps/shop/,")
    found = image(tmp_path, text, {"dumps/shop/toc.dat": "1234", "dumps/shop/1/2.dat": "56", "dumps/shop.txt": "789"})
    assert isinstance(found.source, DumpSource)
    assert (found.source.path.path, found.source.path.size_bytes) == ("dumps/shop", 6)


def test_an_image_is_resolved_with_its_files_and_rendered_scripts(tmp_path: Path) -> None:
    found = image(tmp_path)

    tree = DirectoryTree(tmp_path)
    assert found.document == DocumentRef("shop.yaml", 1)
    assert found.source == DumpSource(
        SourcePath("dumps/shop.sql", tree.object_id("dumps/shop.sql"), len(FILES["dumps/shop.sql"])),
        SourcePath("dumps/roles.sql", tree.object_id("dumps/roles.sql"), len(FILES["dumps/roles.sql"])),
    )
    assert found.scripts == (
        Script("sql/trim.sql.j2", "DELETE FROM account WHERE region <> 'eu';\n", "shop", Phase.BEFORE_MASKING),
        Script("shop.yaml", "INSERT INTO account\nVALUES (1);\n", "shop", Phase.AFTER_MASKING, first_line=14),
    )
    assert found.checks == (Check("SELECT count(*) > 0 FROM account", "shop", "shop.yaml", first_line=20),)
    assert found.masking_keys == ("masking-key",)
    assert (found.engine, found.version, found.databases, found.retention.keep) == ("postgres", "18", ("shop",), 5)
    assert not found.superuser_scripts


def test_a_clone_is_resolved_and_its_templates_see_image_clone_and_params_of_both(tmp_path: Path) -> None:
    found = clone(tmp_path)

    assert found.scripts == (Script("sql/seed.sql.j2", "-- shop-dev of shop: eu small\n"),)
    assert (found.image, found.owner, found.ttl, found.snapshot) == ("shop", "payments", timedelta(hours=8), "latest")
    assert found.users == (User("app", "owner", found.users[0].password),)
    assert found.users[0].password == "shop-app"


def test_what_is_asked_of_refreshes_and_retention_is_resolved(tmp_path: Path) -> None:
    text = IMAGE.replace("keep: 5", "keep: 5, daily: 7, weekly: 4, monthly: 6, maxAge: 30d")
    text = text.replace("{name: shop,", "{name: shop, annotations: {reconciler/refresh: now},")
    one = "{schedule: 0 22 * * *, duration: 6h}"
    window = Window("0 22 * * *", timedelta(hours=6))
    for written, windows in ((one, (window,)), (f"[{one}, {one}]", (window, window)), ("[]", ())):
        refresh = f"  refresh: {{timezone: Europe/Paris, window: {written}}}\n  retention:"
        found = image(tmp_path, text.replace("  retention:", refresh))
        assert found.refresh == Refresh(None, "Europe/Paris", windows=windows)
        assert found.retention == Retention(5, timedelta(days=30), daily=7, weekly=4, monthly=6)
        assert found.asked == "now"


def test_what_a_build_verifies_is_resolved_with_the_lines_of_its_checks(tmp_path: Path) -> None:
    verify = "  verify:\n    amcheck: true\n    checks:\n      - {sql: SELECT 42 = 42}\n  retention:"
    text = IMAGE.replace("  retention:", verify)
    line = 1 + text.splitlines().index("      - {sql: SELECT 42 = 42}")
    found = image(tmp_path, text).verify
    assert found is not None
    (check,) = found.checks
    assert (found.amcheck, check.sql, check.first_line) == (True, "SELECT 42 = 42", line)
    assert image(tmp_path).verify is None


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("parameters: {work_mem: 64MB}", "parameters: {work_mem: 8MB}"),
        ("team: payments", "team: sales"),
        ("keep: 5", "keep: 6"),
        ("dumps/shop.sql", "dumps/other.sql"),
        ("params: {region: eu}", "params: {region: eu, unused: x}"),
        ("kind: Image", "# a comment\nkind: Image"),
        ("  retention:", "  suspend: true\n  refresh: {schedule: 0 2 * * *}\n  retention:"),
        ("  retention:", "  verify: {amcheck: false}\n  retention:"),
        ("keep: 5", "keep: 5, daily: 7, weekly: 4, monthly: 6"),
        ("{name: shop,", "{name: shop, annotations: {reconciler/refresh: now},"),
        ("{name: shop,", "{name: shop, formerly: old-shop,"),
    ],
)
def test_what_asks_for_no_new_build_leaves_the_spec_digest_alone(tmp_path: Path, old: str, new: str) -> None:
    other = image(tmp_path, IMAGE.replace(old, new), {"dumps/other.sql": "SELECT 2;"})

    assert IMAGE.replace(old, new) != IMAGE
    assert other.spec_digest == image(tmp_path).spec_digest


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('version: "18"', 'version: "17"'),
        ("engine: postgres", "engine: mariadb"),
        ("databases: [shop]", "databases: [shop, other]"),
        ("region: eu", "region: us"),
        ("VALUES (1)", "VALUES (2)"),
        ("afterMasking", "beforeMasking"),
        ("> 0", "> 1"),
        (", globals: dumps/roles.sql", ""),
        ("dump: {path: dumps/shop.sql, globals: dumps/roles.sql}", "files: {path: dumps}"),
        ("masking: [pii]", "unmasked: {reason: x}"),
        ("  retention:", "  verify: {amcheck: true}\n  retention:"),
        ("  retention:", "  verify: {checks: [{sql: SELECT true, database: shop}]}\n  retention:"),
        ("trim.sql.j2, database: shop", "trim.sql.j2, database: other"),
    ],
)
def test_what_changes_the_build_changes_the_spec_digest(tmp_path: Path, old: str, new: str) -> None:
    assert image(tmp_path, IMAGE.replace(old, new)).spec_digest != image(tmp_path).spec_digest


def test_the_text_of_a_script_and_the_rules_of_a_policy_are_part_of_the_spec_digest(tmp_path: Path) -> None:
    before = image(tmp_path).spec_digest

    assert image(tmp_path, files={"sql/trim.sql.j2": "DELETE FROM b;"}).spec_digest != before
    assert image(tmp_path, files={"pii.yaml": POLICY.replace("email: email", "email: hash")}).spec_digest != before


def test_another_file_of_the_host_changes_the_spec_digest_and_a_renamed_one_of_the_commit_does_not(
    tmp_path: Path,
) -> None:
    one, other = (IMAGE.replace("dumps/shop.sql", f"/backups/{name}.sql") for name in ("one", "other"))
    dump = {"dumps/renamed.sql": FILES["dumps/shop.sql"]}

    assert image(tmp_path, one).spec_digest != image(tmp_path, other).spec_digest
    renamed = image(tmp_path, IMAGE.replace("dumps/shop.sql", "dumps/renamed.sql"), files=dump)
    assert renamed.spec_digest == image(tmp_path).spec_digest


def test_the_name_of_the_masking_key_is_not_part_of_the_spec_digest(tmp_path: Path) -> None:
    before = image(tmp_path)
    after = image(tmp_path, files={"pii.yaml": POLICY.replace("masking-key", "other-key")})

    assert after.spec_digest == before.spec_digest
    assert after.masking_keys == ("other-key",)


def test_the_scripts_digest_of_a_clone_follows_its_scripts_and_params_only(tmp_path: Path) -> None:
    before = clone(tmp_path).scripts_digest

    assert clone(tmp_path, CLONE.replace("owner: payments", "owner: sales")).scripts_digest == before
    assert clone(tmp_path, CLONE.replace("size: small", "size: large")).scripts_digest != before
    assert clone(tmp_path, files={"sql/seed.sql.j2": "SELECT 3;"}).scripts_digest != before


@pytest.mark.parametrize(
    ("old", "new", "where", "summary"),
    [
        ("path: dumps/shop.sql", "path: dumps/shp.sql", (8, 18), "dumps/shp.sql does not exist in the repository"),
        ("dumps/roles.sql", "absent.sql", (8, 43), "absent.sql does not exist in the repository"),
        ("sql/trim.sql.j2", "sql/absent.sql", (12, 14), "sql/absent.sql does not exist in the repository"),
        ("sql/trim.sql.j2", "/etc/x.sql", (12, 14), "scripts are kept in the spec repository"),
        ("sql/trim.sql.j2", "sql/dir.sql", (12, 14), "sql/dir.sql is a directory; a file is needed here"),
        ("sql/trim.sql.j2", "sql/latin1.sql", (12, 14), "sql/latin1.sql is not UTF-8 text (line 2)"),
    ],
)
def test_a_file_that_cannot_be_used_is_reported_at_the_field_that_names_it(
    tmp_path: Path, old: str, new: str, where: tuple[int, int], summary: str
) -> None:
    (tmp_path / "sql").mkdir()
    (tmp_path / "sql/latin1.sql").write_bytes(b"ok\n\xfc\n")

    found = resolved(tmp_path, {"shop.yaml": IMAGE.replace(old, new), "sql/dir.sql/x": "x"})

    assert found.desired is None
    (finding,) = found.diagnostics
    assert (finding.file, (finding.line, finding.column)) == ("shop.yaml", where)
    assert finding.summary == summary
    assert finding.code == "R030"


def test_a_misspelt_path_comes_with_a_suggestion(tmp_path: Path) -> None:
    (finding,) = resolved(tmp_path, {"shop.yaml": IMAGE.replace("dumps/shop.sql", "dump/shop.sql")}).diagnostics

    assert finding.hint == 'did you mean "dumps/shop.sql"?'


def test_a_template_error_is_reported_in_the_template_and_points_to_the_document(tmp_path: Path) -> None:
    (finding,) = resolved(tmp_path, {"sql/trim.sql.j2": "SELECT 1;\n{{ clone.name }}\n"}).diagnostics

    assert (finding.code, finding.file, finding.line) == ("R031", "sql/trim.sql.j2", 2)
    assert "'clone' is undefined" in finding.summary
    assert finding.snippet == ("SELECT 1;", "{{ clone.name }}")
    assert (finding.related[0].file, finding.related[0].line) == ("shop.yaml", 12)


def test_every_error_of_the_commit_is_reported_at_once(tmp_path: Path) -> None:
    broken = {
        "shop.yaml": IMAGE.replace("dumps/shop.sql", "a.sql").replace("sql/trim.sql.j2", "b.sql"),
        "clones/dev.yaml": CLONE.replace("sql/seed.sql.j2", "c.sql"),
    }

    found = resolved(tmp_path, broken)

    assert [(finding.file, finding.summary.split()[0]) for finding in found.diagnostics] == [
        ("clones/dev.yaml", "c.sql"),
        ("shop.yaml", "a.sql"),
        ("shop.yaml", "b.sql"),
    ]


@pytest.mark.parametrize("style", ["|", "|-", ">"])
def test_the_line_of_an_inline_script_is_that_of_its_first_statement_even_if_written_twice(
    tmp_path: Path, style: str
) -> None:
    script = f"    - inline: {style}\n        SELECT 7;\n"
    text = IMAGE.replace("  masking: [pii]", f"{script}{script}  masking: [pii]")

    lines = [script.first_line for script in image(tmp_path, text).scripts[2:]]

    assert [text.splitlines()[line - 1].strip() for line in lines] == ["SELECT 7;", "SELECT 7;"]
    assert lines[0] != lines[1]


class TestHost:
    """What only the host knows stalls single objects and never the commit."""

    ABSOLUTE = IMAGE.replace("dumps/shop.sql, globals: dumps/roles.sql", "/backups/shop/shop.dump")

    def problems(self, root: Path, config: str, text: str = ABSOLUTE) -> dict[str, str]:
        found = desired(resolved(root, {"shop.yaml": text}, config=config))
        return {str(key): reason for key, (reason, _) in found.problems.items()}

    def test_without_a_configuration_everything_is_granted_but_superuser_rights(self, tmp_path: Path) -> None:
        found = desired(resolved(tmp_path, {"shop.yaml": self.ABSOLUTE}))

        assert found.problems == {}
        assert found.images[SHOP].source == DumpSource(SourcePath("/backups/shop/shop.dump"))
        assert not found.images[SHOP].superuser_scripts

    @pytest.mark.parametrize(
        ("roots", "granted"),
        [
            ("[]", False),
            ("[/backups]", True),
            ("[/backups/shop]", True),
            ("[/backup]", False),
            ("[/backups/sh]", False),
        ],
    )
    def test_an_absolute_path_needs_a_root_of_the_host(self, tmp_path: Path, roots: str, *, granted: bool) -> None:
        expected = {} if granted else {"Image/shop": "SourceNotGranted"}

        assert self.problems(tmp_path, f"sources: {{roots: {roots}}}") == expected

    @pytest.mark.parametrize(
        ("grant", "reasons"),
        [
            ("{images: 'shop*', roots: [/backups/shop], secrets: ['*']}", {}),
            ("{images: 'other*', roots: [/backups/shop], secrets: ['*']}", {"Image": "SourceNotGranted", "Clone": ""}),
            ("{images: shop, roots: [/backups/other], secrets: ['*']}", {"Image": "SourceNotGranted"}),
            ("{images: shop, roots: [/backups], secrets: ['masking-*']}", {"Clone": "SecretNotGranted"}),
            ("{images: shop, roots: [/backups], secrets: ['shop-*']}", {"Image": "SecretNotGranted"}),
        ],
    )
    def test_grants_bind_roots_and_secrets_to_images_and_their_clones(
        self, tmp_path: Path, grant: str, reasons: dict[str, str]
    ) -> None:
        found = self.problems(tmp_path, f"sources: {{roots: [/backups]}}\ngrants: [{grant}]")

        names = {"Image": "Image/shop", "Clone": "Clone/shop-dev"}
        assert found == {names[kind]: reason or "SecretNotGranted" for kind, reason in reasons.items()}

    def test_a_problem_tells_the_administrator_what_to_add(self, tmp_path: Path) -> None:
        found = resolved(tmp_path, {"shop.yaml": self.ABSOLUTE}, config="sources: {roots: [/data]}")

        reason, message = found.problems[ObjectKey(Kind.IMAGE, "shop")]
        assert reason == "SourceNotGranted"
        assert message.startswith(
            "/backups/shop/shop.dump is under none of this host's source directories (/data); add"
        )

    def test_the_secret_of_a_live_source_needs_a_grant(self, tmp_path: Path) -> None:
        text = IMAGE.replace("dump: {path: dumps/shop.sql, globals: dumps/roles.sql}", "primary: {url: {secret: dsn}}")
        found = desired(resolved(tmp_path, {"shop.yaml": text}, config="grants: [{secrets: ['shop-*', 'mask*']}]"))

        assert found.images[SHOP].source == PrimarySource(found.images[SHOP].source.url, "physical")  # type: ignore[union-attr]  # as asserted
        assert list(found.problems) == [ObjectKey(Kind.IMAGE, "shop")]

    def test_the_archive_of_a_primary_is_granted_as_sources_are(self, tmp_path: Path) -> None:
        source = "primary: {url: {secret: dsn}, mode: archive, archive: /backups/wal}"
        text = IMAGE.replace("dump: {path: dumps/shop.sql, globals: dumps/roles.sql}", source)
        refused = desired(resolved(tmp_path, {"shop.yaml": text}, config="sources: {roots: [/data]}"))
        assert refused.problems[ObjectKey(Kind.IMAGE, "shop")][0] == "SourceNotGranted"
        found = desired(resolved(tmp_path, {"shop.yaml": text}, config="sources: {roots: [/backups]}"))
        assert found.problems == {}
        mirrored = found.images[SHOP].mirrored
        assert mirrored is not None
        assert mirrored.archive == SourcePath("/backups/wal")

    def test_superuser_scripts_need_an_explicit_grant_and_extend_to_clones(self, tmp_path: Path) -> None:
        granted = "grants: [{images: 'sh*', superuserScripts: true, secrets: ['*']}]"
        other = "grants: [{images: other, superuserScripts: true}, {images: shop, secrets: ['*']}]"

        for config, expected in ((granted, True), (other, False), ("{}", False)):
            found = desired(resolved(tmp_path, config=config))
            assert (found.images[SHOP].superuser_scripts, found.clones[DEV].superuser_scripts) == (expected, expected)

    def test_clones_run_the_container_image_of_their_image_and_a_grant_binds_both(self, tmp_path: Path) -> None:
        text = IMAGE + "  container: {image: registry.example/postgres@sha256:0123}\n"
        for images, granted in (("['registry.example/*']", True), ("[registry.example/other]", False)):
            config = f"grants: [{{secrets: ['*'], containerImages: {images}}}]"
            found = desired(resolved(tmp_path, {"shop.yaml": text}, config=config))
            assert {found.images[SHOP].container_image, found.clones[DEV].container_image} == {
                "registry.example/postgres@sha256:0123"
            }
            assert {reason for reason, _ in found.problems.values()} == (
                set() if granted else {"ContainerImageNotGranted"}
            )

    def test_each_instance_is_a_runtime_that_a_grant_has_to_allow(self, tmp_path: Path) -> None:
        text = CLONE.replace("spec:\n", "spec:\n  runtime: instance\n  instance: shared\n")
        for names, granted in (("['sh*']", True), ("[other]", False)):
            config = f"grants: [{{secrets: ['*'], roots: [/], instances: {names}}}]"
            found = desired(resolved(tmp_path, {"clones/dev.yaml": text}, config=config))
            assert found.clones[DEV].runtime == "instance/shared"
            reasons = {reason for key, (reason, _) in found.problems.items() if key.kind is Kind.CLONE}
            assert reasons == (set() if granted else {"InstanceNotGranted"})

    def test_a_selector_takes_documents_with_its_labels_only(self, tmp_path: Path) -> None:
        alpha = desired(resolved(tmp_path, config="selector: {host: alpha}"))
        beta = desired(resolved(tmp_path, config="selector: {host: beta}"))

        assert (set(alpha.images), set(alpha.clones)) == ({SHOP}, {DEV})
        assert (beta.images, beta.clones, beta.problems) == ({}, {}, {})

    def test_documents_of_other_hosts_must_be_valid_too(self, tmp_path: Path) -> None:
        found = resolved(
            tmp_path, {"shop.yaml": IMAGE.replace("dumps/shop.sql", "absent")}, config="selector: {host: beta}"
        )

        assert found.desired is None

    def test_a_clone_whose_image_is_left_to_other_hosts_is_stalled_alone(self, tmp_path: Path) -> None:
        found = desired(
            resolved(
                tmp_path, {"shop.yaml": IMAGE.replace("host: alpha", "host: beta")}, config="selector: {host: alpha}"
            )
        )

        assert found.problems[ObjectKey(Kind.CLONE, "shop-dev")][0] == "ImageNotSelected"


class TestCache:
    def changed(self, root: Path, files: dict[str, str]) -> set[str]:
        """Return which objects are looked at again after ``files`` changed."""
        documents, cache = DocumentCache(), ResolveCache()
        tree = written(root, FILES)
        before = desired(resolve(load_tree(tree, documents).documents, tree, cache=cache))
        later = written(root, files)
        after = desired(resolve(load_tree(later, documents).documents, later, cache=cache))
        assert after == desired(resolve(load_tree(later).documents, later))
        images = {str(name) for name, value in after.images.items() if value is not before.images[name]}
        return images | {str(name) for name, value in after.clones.items() if value is not before.clones[name]}

    def test_unchanged_documents_give_the_same_values(self, tmp_path: Path) -> None:
        assert self.changed(tmp_path, {"README.md": "x"}) == set()

    @pytest.mark.parametrize(
        ("file", "text", "changed"),
        [
            ("sql/trim.sql.j2", "SELECT 4;", {"shop"}),
            ("sql/seed.sql.j2", "SELECT 4;", {"shop-dev"}),
            ("dumps/shop.sql", "SELECT 4;", {"shop"}),
            ("pii.yaml", POLICY.replace("email: email", "email: hash"), {"shop"}),
            ("shop.yaml", IMAGE.replace("region: eu", "region: us"), {"shop", "shop-dev"}),
            ("clones/dev.yaml", CLONE.replace("8h", "9h"), {"shop-dev"}),
        ],
    )
    def test_what_depends_on_a_changed_file_is_resolved_again(
        self, tmp_path: Path, file: str, text: str, changed: set[str]
    ) -> None:
        assert self.changed(tmp_path, {file: text}) == changed

    def test_errors_are_reported_every_time(self, tmp_path: Path) -> None:
        documents, cache = DocumentCache(), ResolveCache()
        tree = written(tmp_path, FILES | {"shop.yaml": IMAGE.replace("dumps/shop.sql", "absent")})
        loaded = load_tree(tree, documents).documents

        first = resolve(loaded, tree, cache=cache)

        assert first.diagnostics
        assert resolve(loaded, tree, cache=cache).diagnostics == first.diagnostics


def test_equal_commits_resolve_to_equal_values(tmp_path: Path) -> None:
    first, second = desired(resolved(tmp_path)), desired(resolved(tmp_path))

    assert first == second
    assert replace(first, images={}) != first


def test_a_quarantine_asks_for_no_new_build(tmp_path: Path) -> None:
    snapshot = "shop-20261122t020000z-1a2b3c4d"
    before, after = image(tmp_path), image(tmp_path, f"{IMAGE.rstrip()}\n  quarantine: [{snapshot}]\n")
    assert (after.quarantine, after.spec_digest) == ((snapshot,), before.spec_digest)


CHAIN = """\
apiVersion: reconciler/v1
kind: Clone
metadata: {name: second, labels: {host: alpha}}
spec: {image: {clone: third-2}}
---
apiVersion: reconciler/v1
kind: Clone
metadata: {name: third}
spec: {image: {clone: shop-dev}, count: 2}
"""


def test_a_clone_of_a_clone_is_of_the_image_at_the_end_of_the_chain(tmp_path: Path) -> None:
    found = desired(resolved(tmp_path, {"chain.yaml": CHAIN}))
    origins = {str(name): (str(one.image), one.source_clone) for name, one in found.clones.items()}
    assert origins == {
        "shop-dev": ("shop", None),
        "second": ("shop", "third-2"),
        "third-1": ("shop", "shop-dev"),
        "third-2": ("shop", "shop-dev"),
    }


def test_a_clone_of_a_clone_on_another_host_has_a_problem(tmp_path: Path) -> None:
    found = desired(resolved(tmp_path, {"chain.yaml": CHAIN}, config="selector: {host: alpha}"))
    assert found.problems[ObjectKey(Kind.CLONE, "second")][0] == "CloneNotSelected"
