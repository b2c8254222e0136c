"""The action for pull requests: its steps run as GitHub's runner runs them, against what a loop published."""

from __future__ import annotations

import json
import re
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sarif_pydantic import Sarif

from tests.actions.runner import ROOT, Comments, Place, Run, run_action
from tests.loop.conftest import IMAGE, World
from tests.repository.shared import Remote
from tests.support import PROGRAM

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLES = Path(__file__).parent / "examples"
EVENT = EXAMPLES / "pull_request.json"
BRANCH = "origin/reconciler-status:status.json"
PLAN = "<!-- reconciler plan 1/1 -->\n### Plan for nothing\n"
GIB = 2**30


def clone(name: str, **spec: str) -> str:
    more = "".join(f"  {key}: {value}\n" for key, value in spec.items())
    return f"apiVersion: reconciler/v1\nkind: Clone\nmetadata: {{name: {name}}}\nspec:\n  image: shop\n{more}"


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Remote:
    """Return a repository that a loop follows, with the status that it published."""
    path = tmp_path_factory.mktemp("host")
    remote = Remote(path)
    remote.push({"specs/a.yaml": IMAGE, "specs/b.yaml": clone("dev"), "specs/c.yaml": clone("old")})
    settings = {
        "repository": {"url": str(remote.path), "path": "specs"},
        "status": {"publish": {"ref": "reconciler-status"}},
        "masking": {"unmasked": "deny"},
    }
    with ExitStack() as stack:
        world = World(path, stack, settings=settings)
        for _ in range(3):
            world.apply()
        world.reconciler.close(abandon=False)
    return remote


@pytest.fixture
def comments() -> Iterator[Comments]:
    with Comments() as server:
        yield server


class Checkout:
    """A checkout of the pull request on a runner."""

    def __init__(self, path: Path, remote: Remote, comments: Comments) -> None:
        self.path, self._runs, self._comments = path / "checkout", path, comments
        remote._git(path, "clone", "--quiet", "--depth=1", f"file://{remote.path}", str(self.path))
        status = json.loads(remote.git("show", "reconciler-status:status.json"))
        self.status = path / "status.json"
        self.status.write_text(json.dumps(_with_figures(status)))

    def write(self, name: str, text: str) -> None:
        (self.path / "specs" / name).write_text(text)

    def run(self, **inputs: str) -> Run:
        temp = self._runs / f"temp-{len(list(self._runs.iterdir()))}"
        place = Place(self.path, temp, EVENT, self._comments.url)
        return run_action(place, {"path": "specs", "program": str(PROGRAM), **inputs})

    def comment(self, plan: str, event: Path = EVENT, **inputs: str) -> Run:
        """Run the last step but one alone, after others that made this plan."""
        report = self._runs / f"report-{len(list(self._runs.iterdir()))}"
        report.mkdir()
        (report / "plan.md").write_text(plan)
        outputs = {"steps.install.outputs.report": str(report), "steps.validate.outputs.valid": "true"}
        place = Place(self.path, report, event, self._comments.url)
        return run_action(place, inputs, only="Comment", outputs=outputs)


@pytest.fixture
def checkout(tmp_path: Path, host: Remote, comments: Comments) -> Checkout:
    return Checkout(tmp_path, host, comments)


def _with_figures(status: dict[str, Any]) -> dict[str, Any]:
    """Say of the snapshot that it took three minutes and has 5 GiB, which on this pool are copied for each clone."""
    for volume in status["observed"]["volumes"]:
        if volume["manifest"]["kind"] == "snapshot":
            volume["manifest"]["created_at"] = "2026-11-20T12:03:00Z"
            status["host"]["sizes"][volume["id"]] = 5 * GIB
    for pool in status["observed"]["pools"].values():
        pool |= {"instant_clones": False, "free_bytes": 900 * GIB, "total_bytes": 1000 * GIB, "reserve_bytes": 0}
    return status


def example(name: str) -> str:
    return (EXAMPLES / name).read_text()


def steady(text: str) -> str:
    """Return text without what differs from run to run: commits, times, hashes."""
    text = re.sub(r"\d{8}t\d{6}z-[0-9a-f]{8}", "{id}", text)
    return re.sub(r"sha1:[0-9a-f]{40}", "sha1:{commit}", re.sub(r"`[0-9a-f]{16}`", "`{hash}`", text))


def test_a_plan_is_in_the_summary_and_in_one_comment_that_is_kept_up_to_date(
    checkout: Checkout, comments: Comments
) -> None:
    comments.add("Looks good to me.", login="ada")
    checkout.write("b.yaml", clone("dev") + "---\n" + clone("demo", ttl="8h"))
    (checkout.path / "specs" / "c.yaml").unlink()
    checkout.write("a.yaml", IMAGE.replace("database shop", "database shop; more"))

    run = checkout.run(status=str(checkout.status))

    assert (run.failed, run.annotations, run.outputs["valid"], run.outputs["changes"]) == ("", [], "true", "true")
    assert steady(run.summary) == example("summary-plan.md")
    assert steady(comments.bodies[1]) == example("comment-plan.md")
    assert Path(run.outputs["plan"]).read_text() in run.summary

    checkout.run(status=str(checkout.status))
    assert comments.writes == ["POST"], "two plans of one commit are the same"
    checkout.write("b.yaml", clone("dev"))
    checkout.run(status=str(checkout.status))
    assert (comments.writes, len(comments.bodies)) == (["POST", "PATCH"], 2)
    assert "Clone/demo" not in comments.bodies[1]
    assert comments.bodies[0] == "Looks good to me."


def test_the_page_shows_that_comment() -> None:
    _marker, *lines, _empty, _commit = example("comment-plan.md").splitlines()
    page = (ROOT / "docs/pull-requests.md").read_text()
    assert "```markdown\n" + "\n".join(lines) + "\n```" in page


def test_findings_are_annotations_the_summary_a_comment_and_sarif_and_the_check_fails(
    checkout: Checkout, comments: Comments
) -> None:
    checkout.write("b.yaml", clone("dev", ownr="'| <img src=x> @team'", ttl="soon"))

    run = checkout.run(status=str(checkout.status), sarif="findings.sarif")

    assert (run.failed, run.outputs["valid"], run.outputs["plan"]) == ("Verdict", "false", "")
    assert run.annotations == example("annotations.txt").splitlines()
    assert run.summary == example("summary-findings.md")
    assert comments.bodies == [example("comment-findings.md")]
    document = json.loads((checkout.path / "findings.sarif").read_text())
    assert len(Sarif.model_validate({k: v for k, v in document.items() if k != "$schema"}).runs[0].results or []) == 2

    checkout.write("b.yaml", clone("dev"))
    checkout.run()
    assert "### Specs: valid" in comments.bodies[0]


def test_the_status_is_taken_from_the_branch_that_the_loop_publishes_to(checkout: Checkout, comments: Comments) -> None:
    assert checkout.run(status=BRANCH).outputs["changes"] == "false"
    assert "**No changes**" in comments.bodies[0]
    checkout.write("d.yaml", IMAGE.replace("name: shop", "name: two").replace("empty: {}", "image: shop"))
    checkout.write("d.yaml", (checkout.path / "specs/d.yaml").read_text() + "  unmasked: {reason: a test}\n")
    assert "this host denies" in checkout.run(status=BRANCH).summary


def test_without_a_status_there_is_a_warning_and_no_failure(checkout: Checkout, comments: Comments) -> None:
    run = checkout.run(status="origin/nowhere:status.json")
    assert (run.failed, run.outputs["valid"], run.outputs["plan"]) == ("", "true", "")
    assert [line.split("::")[1] for line in run.annotations] == ["warning title=No plan"]
    assert "### No plan" in comments.bodies[0]


def test_who_may_not_write_gets_the_summary_and_a_notice(checkout: Checkout, comments: Comments) -> None:
    comments.status = 403
    run = checkout.run(status=str(checkout.status))
    assert (run.failed, comments.bodies) == ("", [])
    assert run.annotations[0].startswith("::notice title=No comment::this token may not comment here (403)")
    assert "### Plan for" in run.summary


def test_a_passing_fault_of_the_host_is_tried_again(checkout: Checkout, comments: Comments) -> None:
    comments.faults = 1
    assert checkout.comment(PLAN).annotations == []
    assert len(comments.bodies) == 1


def test_a_push_has_nothing_to_comment_on(checkout: Checkout, comments: Comments, tmp_path: Path) -> None:
    event = tmp_path / "push.json"
    event.write_text(json.dumps({"ref": "refs/heads/main", "repository": {"full_name": "octo/specs"}}))
    run = checkout.comment(PLAN, event)
    assert (run.failed, run.annotations, comments.bodies) == ("", [], [])


def test_without_plan_and_findings_there_is_no_comment(checkout: Checkout, comments: Comments) -> None:
    run = checkout.run()
    assert (run.failed, run.annotations, comments.writes) == ("", [], [])


def test_comments_of_others_are_left_alone_and_each_host_has_its_own(checkout: Checkout, comments: Comments) -> None:
    forged = comments.add("<!-- reconciler:default:1 -->\nforged", login="mallory")["body"]
    for number in range(120):
        comments.add(f"comment {number}", login="ada")
    checkout.comment(PLAN)
    checkout.comment(PLAN, name="alpha 0")
    checkout.comment(PLAN, name="alpha 0")
    assert (comments.bodies[0], comments.writes) == (forged, ["POST", "POST"])
    assert comments.bodies[-1].startswith("<!-- reconciler:alpha-0:1 -->\n**alpha 0**\n\n### Plan")


@pytest.mark.long
def test_a_long_plan_is_several_comments_and_those_that_are_too_many_go(checkout: Checkout, comments: Comments) -> None:
    checkout.write("many.yaml", "---\n".join(clone(f"demo-{number:04}") for number in range(600)))
    plan = checkout.run(status=str(checkout.status)).outputs["plan"]
    assert len(comments.bodies) > 1
    assert all(len(body) < 65_536 for body in comments.bodies)
    assert sum(body.count("| create |") for body in comments.bodies) == 600
    assert comments.bodies[1].startswith("<!-- reconciler:default:2 -->\n### Plan for")
    checkout.comment(Path(plan).read_text())
    assert comments.writes == ["POST"] * len(comments.bodies)
    comments.add(comments.bodies[0])  # as two runs at once would leave it
    checkout.comment(PLAN)
    assert len(comments.bodies) == 1
    assert comments.bodies[0].startswith("<!-- reconciler:default:1 -->\n### Plan for nothing")


def test_a_text_that_no_comment_can_hold_is_cut_at_a_line(checkout: Checkout, comments: Comments) -> None:
    checkout.comment(PLAN + "| a row |\n" * 9_000)
    assert 64_000 < len(comments.bodies[0]) <= 65_536
    assert "| a row |\n\nThe summary of the step has all of it.\n" in comments.bodies[0].replace("\n\n\n", "\n\n")


@pytest.mark.long
def test_text_of_specs_is_no_command_of_the_workflow(checkout: Checkout) -> None:
    shutil.rmtree(checkout.path / "specs")
    (checkout.path / "specs").mkdir()
    for number in range(12):
        checkout.write(
            f"::add-mask::{number:02}.yaml", f"apiVersion: reconciler/v1\nkind: '##[error]::warning::{number}'\n"
        )
    run = checkout.run()
    assert run.failed == "Verdict"
    assert len(run.annotations) == 10
    assert all(line.startswith("::error file=specs/") for line in run.annotations)
    others = [line for line in run.log.splitlines() if line not in run.annotations]
    assert len([line for line in others if line.startswith("specs/::add-mask::1")]) == 2
    assert not [line for line in others if line.lstrip().startswith("::") or "##[" in line]
