"""What is killed at every side effect: for each change of the world, what is there before and what must be after."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.support import clone, document, image

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support import World

    Step = Callable[[World], object]
    Request = tuple[Any, str]

PRODUCTION = [("Product 1",), ("Product 2",), ("Product 3",)]
WORK = [*PRODUCTION, ("somebody's work",)]
NAMES = "SELECT name FROM product ORDER BY id"


def nothing(_world: World) -> None:
    """Do nothing."""


@dataclass(frozen=True)
class Scenario:
    """``prepare`` once; ``change`` before each run; ``requests`` are served by it; ``check`` after it converged."""

    prepare: Step
    change: Step
    check: Step = nothing
    requests: tuple[Request, ...] = ()
    chain: int = 1
    """How many runs are killed in a row before one may converge; more than one where a run takes seconds."""
    parts: int = 1
    """In how many tests the places are divided, so that workers share them."""
    everywhere: bool = False
    """Whether also the pass around the work is killed: opening, reading, reporting. It is the same for all."""


def snapshot_only(world: World) -> None:
    world.write("shop.yaml", image("shop"))
    world.converge()


def working_clone(world: World, **spec: Any) -> None:  # noqa: ANN401 - as YAML
    """A clone in which somebody worked, and another one that nothing may happen to."""
    snapshot_only(world)
    world.write("dev.yaml", clone("dev", **spec))
    world.write("bystander.yaml", clone("bystander"))
    world.converge()
    for name in ("dev", "bystander"):
        leave_work(world, name)


def leave_work(world: World, name: str) -> None:
    world.sql(name, "INSERT INTO product VALUES (4, 'somebody''s work')")


def two_images(world: World) -> None:
    world.write("other.yaml", image("other"))
    working_clone(world)


def two_snapshots(world: World) -> None:
    working_clone(world)
    new = "INSERT INTO product VALUES (5, 'of the new snapshot')"
    scripts = [*image("shop")["spec"]["scripts"], {"inline": new, "database": "shop"}]
    world.write("shop.yaml", image("shop", scripts=scripts, retention={"keep": 5}))
    world.converge()


def reset_before(world: World) -> None:
    working_clone(world)
    world.apply(("reset", "dev")).require()
    world.converge()


def change_users(world: World) -> None:
    (world.root / "secrets" / "report").write_text("a-password-from-outside")
    users = [{"name": "app", "role": "owner"}, {"name": "report", "role": "readonly", "password": {"secret": "report"}}]
    world.write("dev.yaml", clone("dev", users=users, owner="payments"))


def write_clone(**spec: Any) -> Step:  # noqa: ANN401 - as YAML
    return lambda world: world.write("dev.yaml", clone("dev", **spec))


def rename(world: World) -> None:
    dev = clone("develop")["spec"]
    world.write("dev.yaml", document("Clone", "develop", {**dev, "image": "store"}, formerly="dev"))
    world.write("bystander.yaml", clone("bystander", image="store"))
    world.write("shop.yaml", document("Image", "store", image("store")["spec"], formerly="shop"))


def bystander_lives(world: World) -> None:
    assert world.sql("bystander", NAMES) == WORK


def work_is_there(world: World) -> None:
    bystander_lives(world)
    assert world.sql("dev", NAMES) == WORK


def fresh(world: World) -> None:
    assert world.sql("dev", NAMES) == PRODUCTION


def users_changed(world: World) -> None:
    work_is_there(world)
    with world.host() as host:
        assert host.state.credentials.users(world.current("dev").clone) == {"app"}
    password = "a-password-from-outside"
    assert world.sql("dev", NAMES, user="report", password=password) == WORK


def replaced(world: World) -> None:
    """The clone is new, and what it was before is one undo away."""
    bystander_lives(world)
    assert ("somebody's work",) not in world.sql("dev", NAMES)
    world.apply(("undo", "dev")).require()
    work_is_there(world)


def replaced_by_commit(world: World) -> None:
    """The clone is of the other image, and reverting the commit brings back what it was before."""
    bystander_lives(world)
    fresh(world)
    world.write("dev.yaml", clone("dev"))
    world.apply().require()
    work_is_there(world)


def recreated(world: World) -> None:
    """The clone is of the new snapshot, and what it was before is one undo away once its document allows it."""
    assert world.sql("dev", NAMES) == [*PRODUCTION, ("of the new snapshot",)]
    world.write("dev.yaml", clone("dev"))
    replaced(world)


def undone(world: World) -> None:
    """The work is back, and so is, one undo away, what was there instead of it."""
    work_is_there(world)
    world.apply(("undo", "dev")).require()
    fresh(world)


def renamed(world: World) -> None:
    bystander_lives(world)
    assert world.sql("develop", NAMES) == WORK


def port_moved(world: World) -> None:
    assert world.current("dev").port == world.ports[30]
    work_is_there(world)


def gone(world: World) -> None:
    bystander_lives(world)
    assert world.generations("dev") == {}


SCENARIOS = {
    "build": Scenario(
        nothing, lambda world: world.write("shop.yaml", image("shop")), chain=4, parts=6, everywhere=True
    ),
    "clone": Scenario(snapshot_only, write_clone(), fresh, everywhere=True),
    "update": Scenario(working_clone, change_users, users_changed),
    "replace": Scenario(two_images, write_clone(image="other"), replaced_by_commit),
    "recreate": Scenario(two_snapshots, write_clone(onRefresh="recreate"), recreated),
    "reset": Scenario(working_clone, nothing, replaced, requests=(("reset", "dev"),), everywhere=True),
    "undo": Scenario(reset_before, nothing, undone, requests=(("undo", "dev"),)),
    "restart": Scenario(working_clone, lambda world: write_clone(port=world.ports[30])(world), port_moved),
    "stop": Scenario(working_clone, write_clone(state="stopped"), bystander_lives),
    "rename": Scenario(working_clone, rename, renamed),
    "expire": Scenario(working_clone, write_clone(expires="2020-01-01T00:00:00Z"), gone),
    "delete": Scenario(reset_before, lambda world: world.remove("dev.yaml"), gone, everywhere=True),
    "delete-image": Scenario(two_images, lambda world: world.remove("other.yaml"), work_is_there),
}
