"""What a pool or a runtime asks of attestations, and what is not delivered without."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from reconciler.ids import RuntimeName
from reconciler.plan.actions import BuildSnapshot
from reconciler.plan.policy import judge
from reconciler.plan.settings import AttestationRules, PlanSettings, PolicySettings
from reconciler.state.observed import Attestation
from tests.plan.world import (
    HOUR,
    NOW,
    OTHER_POOL,
    POOL,
    PROCESS,
    a_clone,
    a_generation,
    a_pool,
    a_request,
    a_snapshot,
    an_image,
    asked,
    clone_key,
    planned,
    reason,
    seen,
    served,
    snapshot_id,
    steps,
)

if TYPE_CHECKING:
    from reconciler.plan.actions import Plan
    from reconciler.state.desired import Desired
    from reconciler.state.observed import Observed

KEY, STRANGER = "a" * 64, "b" * 64
SIGNED, UNSIGNED = Attestation("d" * 64, KEY), Attestation("d" * 64)
FOREIGN = Attestation("d" * 64, STRANGER)
ANY = AttestationRules(pools={POOL: "any"}, trusted=frozenset({KEY}))
ONLY_SIGNED = AttestationRules(pools={POOL: "signed"}, trusted=frozenset({KEY}))
DEV = clone_key("dev")


def judged(desired: Desired, observed: Observed, rules: AttestationRules, **settings: Any) -> Plan:  # noqa: ANN401 - as dataclass
    made = planned(desired, observed, settings=PlanSettings(pools=frozenset({POOL}), attestation=rules))
    return judge(made, desired, observed, NOW, settings=PolicySettings(attestation=rules, **settings))


def refused(made: Plan) -> list[str]:
    return [refusal.message for refusal in made.refused if refusal.rule == "attestation"]


@pytest.mark.parametrize(
    ("rules", "attestation", "lacks"),
    [
        (AttestationRules(), None, None),
        (ANY, UNSIGNED, None),
        (ANY, SIGNED, None),
        (ANY, None, "has no attestation"),
        (ANY, FOREIGN, "which this host does not trust"),
        (ONLY_SIGNED, SIGNED, None),
        (ONLY_SIGNED, UNSIGNED, "is not signed"),
        (ONLY_SIGNED, None, "has no attestation"),
        (ONLY_SIGNED, FOREIGN, "which this host does not trust"),
        (AttestationRules(pools={POOL: "signed"}), FOREIGN, None),
        (AttestationRules(pools={OTHER_POOL: "signed"}), None, None),
        (AttestationRules(runtimes={PROCESS: "any"}), None, "has no attestation"),
        (AttestationRules(pools={POOL: "any"}, runtimes={PROCESS: "signed"}), UNSIGNED, "is not signed"),
        (AttestationRules(runtimes={RuntimeName("docker"): "any"}), None, None),
    ],
)
def test_a_clone_is_made_only_of_what_has_the_attestation_that_is_asked_for(
    rules: AttestationRules, attestation: Attestation | None, lacks: str | None
) -> None:
    made = judged(asked(an_image(), a_clone()), seen(a_snapshot(attestation=attestation)), rules)
    if lacks is None:
        assert (steps(made), refused(made)) == (["create dev"], [])
    else:
        (message,) = refused(made)
        assert lacks in message
        assert (steps(made), reason(made, DEV, "Stalled")) == ([], "AttestationRequired")


def test_the_message_says_who_asks_and_what_to_do() -> None:
    (message,) = refused(judged(asked(an_image(), a_clone()), seen(a_snapshot()), ONLY_SIGNED))
    assert message == (
        f"clone dev is not delivered: snapshot {snapshot_id()} has no attestation (it was built before there were any),"
        " and pool default requires a signed one (requireAttestation); build another with: reconciler refresh shop"
    )


def test_a_reset_is_a_delivery() -> None:
    clone = a_clone()
    observed = seen(a_snapshot(), *served(a_generation(clone)), a_request("reset", "dev"))
    made = judged(asked(an_image(), clone), observed, ANY)
    assert (steps(made), len(refused(made))) == ([], 1)


def test_an_undo_is_a_delivery() -> None:
    clone = a_clone()
    old, new = snapshot_id(age=3 * HOUR), snapshot_id()
    snapshots = a_snapshot(age=3 * HOUR), a_snapshot(attestation=UNSIGNED)
    first = a_generation(clone, old, ready_at=NOW - HOUR / 2)
    second = a_generation(clone, new, generation=2, ready_at=NOW - HOUR / 4)
    wish = a_request("undo", "dev")
    made = judged(asked(an_image(), clone), seen(*snapshots, first, *served(second), wish), ANY)
    assert (steps(made), len(refused(made))) == ([], 1)
    gone = judged(asked(an_image(), clone), seen(snapshots[1], first, *served(second), wish), ANY)
    assert "cannot be brought back" in refused(gone)[0]


def test_clones_that_exist_are_left_as_they_are() -> None:
    clone = a_clone()
    made = judged(asked(an_image(), clone), seen(a_snapshot(), a_generation(clone)), ONLY_SIGNED)
    assert (steps(made), refused(made)) == (["start dev"], [])


def test_what_this_plan_builds_will_have_one_and_a_signed_one_where_the_host_has_a_key() -> None:
    desired = asked(an_image(), a_clone())
    assert refused(judged(desired, seen(), ANY)) == []
    (message,) = refused(judged(desired, seen(), ONLY_SIGNED))
    assert "will not be signed" in message
    assert "attestation.key" in message
    signs = AttestationRules(pools={POOL: "signed"}, trusted=frozenset({KEY}), signs=True)
    assert refused(judged(desired, seen(), signs)) == []


def test_a_refresh_on_request_builds_what_has_the_attestation() -> None:
    wish = a_request("refresh", "shop")
    for attestation, builds in ((None, 1), (UNSIGNED, 1), (SIGNED, 0)):
        made = judged(asked(an_image()), seen(a_snapshot(attestation=attestation), wish), ONLY_SIGNED)
        assert len([action for action in made.actions if isinstance(action, BuildSnapshot)]) == builds


def test_a_pool_is_that_of_the_snapshot_not_of_the_document() -> None:
    moved = an_image(pool=OTHER_POOL)
    pools = (a_pool(), a_pool(OTHER_POOL))
    made = judged(asked(moved, a_clone()), seen(a_snapshot(), *pools), ANY)
    assert len(refused(made)) == 1
