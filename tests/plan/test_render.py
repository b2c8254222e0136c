"""How a plan is shown."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import timedelta

from reconciler.plan.markdown import plan_markdown, plan_parts
from reconciler.plan.policy import judge
from reconciler.plan.render import plan_json, plan_text, summary
from reconciler.plan.settings import PolicySettings
from reconciler.state.conditions import Condition, Kind, ObjectKey
from tests.plan.world import (
    HOUR,
    NOW,
    REVISION,
    a_clone,
    a_generation,
    a_pool,
    a_snapshot,
    an_image,
    asked,
    planned,
    seen,
    served,
    snapshot_id,
)

SNAP = snapshot_id()
STORY = (
    asked(an_image(spec_digest="d2" * 32), an_image("store"), a_clone("new"), a_clone("moved", image="store")),
    seen(
        a_snapshot(),
        a_snapshot("store"),
        *served(a_generation(a_clone("moved")), a_generation(a_clone("old"))),
    ),
)


def test_json_has_what_the_contract_names() -> None:
    made = planned(*STORY)
    shown = json.loads(json.dumps(plan_json(made)))
    assert list(shown) == ["revision", "hash", "actions", "refused", "summary", "waiting"]
    assert (shown["revision"], shown["hash"]) == (REVISION, made.hash)
    assert [(a["action"], a["kind"], a["name"], a["destructive"]) for a in shown["actions"]] == [
        ("build", "Image", "shop", False),
        ("replace", "Clone", "moved", True),
        ("create", "Clone", "new", False),
        ("delete", "Clone", "old", True),
    ]
    assert shown["summary"] == {"create": 3, "update": 0, "delete": 2}
    assert all(action["reason"] for action in shown["actions"])


def test_json_tells_what_waits_for_what_and_which_snapshot() -> None:
    create = next(a for a in plan_json(planned(*STORY))["actions"] if a["action"] == "create")
    assert create["snapshot"] == "shop-20261122t120000z-d2d2d2d2"
    assert create["after"] == [{"kind": "Image", "name": "shop"}]


def test_json_of_a_refusal_names_rule_message_and_actions() -> None:
    desired, observed = asked(), seen(*served(a_generation(a_clone())))
    made = judge(planned(desired, observed), desired, observed, NOW, settings=PolicySettings())
    (refused,) = plan_json(made)["refused"]
    assert (refused["rule"], [a["name"] for a in refused["actions"]]) == ("prune-limit", ["dev"])
    assert "no documents left" in refused["message"]


def test_text_marks_what_destroys_and_says_what_is_lost() -> None:
    text = plan_text(planned(*STORY))
    assert text.splitlines() == [
        "Images",
        "  + build shop shop-20261122t120000z-d2d2d2d2",
        "      what it is built from changed in git",
        "",
        "Clones",
        f"  ±!replace moved from {snapshot_id('store')}",
        "      its image is store now, not shop",
        "      what was written to moved.1 is replaced; undo brings it back until the grace time ends",
        "  + create new from shop-20261122t120000z-d2d2d2d2",
        "      there is no such clone yet",
        "      after Image/shop",
        "  -!delete old",
        "      its document was removed",
        "      what was written to old.1 is deleted for good",
        "",
        "Plan: 3 to create, 0 to update, 2 to delete.",
        f"Lines marked with ! destroy data. Hash of what they destroy: {planned(*STORY).hash}",
    ]


def test_text_of_nothing_says_so() -> None:
    assert plan_text(planned(asked(an_image()), seen(a_snapshot()))).startswith("No changes")


def test_text_shows_what_was_refused_and_why() -> None:
    clone = a_clone(ttl=HOUR, protected=True)
    text = plan_text(planned(asked(an_image(), clone), seen(a_snapshot(), *served(a_generation(clone)))))
    assert "  x protected: clone dev is protected: not expired" in text
    assert "      expire Clone/dev" in text
    assert text.endswith("Plan: 0 to create, 0 to update, 0 to delete.")


def test_colours_are_only_there_when_asked_for() -> None:
    made = planned(*STORY)
    assert "\x1b" not in plan_text(made)
    assert "\x1b[31m-!delete old\x1b[0m" in plan_text(made, colour=True)


def test_text_from_specs_cannot_steer_a_terminal() -> None:
    clone = a_clone(owner="evil\x1b[2Jname")
    made = planned(asked(an_image(), clone), seen(a_snapshot(), *served(a_generation(a_clone()))))
    assert "\x1b" not in plan_text(made)


def test_a_message_of_several_lines_keeps_them_below_its_object() -> None:
    broken = Condition(type="Stalled", status="True", reason="X", message="to add:\n    - table: a.b\n\x1b[2J")
    made = replace(planned(asked(), seen()), conditions={ObjectKey(Kind.IMAGE, "shop"): (broken,)})
    lines = plan_text(made).splitlines()
    assert lines[1:4] == ["  Image/shop: to add:", "        - table: a.b", "     [2J"]


def test_the_hash_names_the_destructive_actions_only() -> None:
    desired, observed = STORY
    without = asked(an_image(spec_digest="d2" * 32), an_image("store"), a_clone("moved", image="store"))
    other = asked(an_image(spec_digest="d2" * 32), an_image("store"), a_clone("new"), a_clone("old"))
    assert planned(without, observed).hash == planned(desired, observed).hash
    assert planned(other, observed).hash != planned(desired, observed).hash


def test_a_replacement_counts_as_create_and_delete() -> None:
    assert summary(planned(*STORY)) == {"create": 3, "update": 0, "delete": 2}


def test_markdown_shows_what_destroys_first_and_folds_what_is_long() -> None:
    plan = planned(*STORY)
    text = plan_markdown(plan)
    assert text.index("#### Destroys data") < text.index("#### Changes")
    assert f"Hash of what is destroyed: `{plan.hash}`" in text
    assert all(str(action.key) in text for action in plan.actions)
    assert "<details>" not in text
    many = replace(plan, actions=tuple(a for a in plan.actions if not a.destructive) * 20)
    assert plan_markdown(many).count("<details>") == 1


def test_a_long_plan_is_several_parts_that_each_fit_into_a_comment() -> None:
    plan = planned(*STORY)
    deletion = next(action for action in plan.actions if action.verb == "delete")
    build = replace(plan.actions[0], reason="ü|" * 700)
    many = replace(plan, actions=(build,) * 60 + (replace(deletion, reason="gone"),) * 500)
    parts = plan_parts(many)
    assert len(parts) > 1
    assert all(len(part.encode()) < 65_000 for part in parts)
    rows = [[line for line in part.splitlines() if line.startswith(("| delete", "| build"))] for part in parts]
    assert [line.split()[1] for part in rows for line in part] == ["delete"] * 500 + ["build"] * 60
    assert all(part.count("<details>") == part.count("</details>") for part in parts)
    assert all(part.startswith(f"### Plan for `{REVISION}` ({n} of {len(parts)})") for n, part in enumerate(parts, 1))
    assert "#### Changes (continued)\n" in parts[-1]
    text = plan_markdown(many)
    assert re.split(r"<!-- reconciler plan \d+/\d+ -->\n", text)[1:] == parts


def test_a_plan_beyond_all_bounds_is_cut_and_says_so() -> None:
    plan = planned(*STORY)
    many = replace(plan, actions=(replace(plan.actions[0], reason="x" * 9_000),) * 1_000, conditions={})
    parts = plan_parts(many)
    shown = sum(part.count("| build |") for part in parts)
    assert len(parts) == 10
    assert f"{1_000 - shown} more lines are left out" in parts[-1]


def test_what_work_takes_is_told_where_it_is_known() -> None:
    old, size = a_snapshot(created_at=NOW - HOUR + timedelta(minutes=3)), 5 * 2**30
    clone = a_generation(a_clone("dev"), ready_at=NOW - HOUR + timedelta(seconds=9))
    desired = asked(an_image(spec_digest="d2" * 32), an_image("store"), a_clone("dev"), a_clone("new", snapshot=SNAP))
    observed = seen(old, *served(clone), a_pool(free_bytes=2**40, total_bytes=2**40, instant_clones=False))
    settings = PolicySettings(sizes={old.id: size})
    plan = judge(planned(desired, observed), desired, observed, NOW, settings=settings)
    build, create = plan_json(plan)["actions"][:2], plan_json(plan)["actions"][-1]
    assert build[0]["estimate"] == {"bytes": size, "seconds": 180}
    assert "estimate" not in build[1], "nobody has built store yet"
    assert create["estimate"] == {"bytes": size, "seconds": 9}
    assert "      takes about 5.0 GiB and 3 min" in plan_text(plan).splitlines()
    text = plan_markdown(plan)
    assert "| about 5.0 GiB and 3 min |" in text
    assert "| build | Image/store |  | there" in text
    assert "Going by the last time, it takes about 10.0 GiB and 3 min of work." in text


def test_markdown_shows_what_is_refused_and_that_there_is_nothing() -> None:
    desired, observed = asked(), STORY[1]
    judged = judge(planned(desired, observed), desired, observed, NOW, settings=PolicySettings())
    assert "#### Refused: the commit has no documents left" in plan_markdown(judged)
    assert "**No changes**" in plan_markdown(planned(asked(), seen()))


def test_text_from_specs_is_no_markup_in_a_comment() -> None:
    plan = planned(*STORY)
    hostile = replace(plan.actions[0], reason="<b>@everyone</b> | x")
    assert r"\<b\>@&#8203;everyone\</b\> \| x" in plan_markdown(replace(plan, actions=(hostile,)))
