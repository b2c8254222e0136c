"""``demo``: the whole story on a database of its own, in a temporary directory, in under a minute.

A narrator around the same classes that the commands use; nothing here is a special
path of the product.
"""

from __future__ import annotations

import json
import os
import signal
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reconciler.cli.demo_data import CONFIG, SPECS, write_dump
from reconciler.cli.demo_place import end_servers, interruptible, place, pool_settings
from reconciler.errors import PermanentError, RefusedError
from reconciler.host import Host, open_host
from reconciler.loop import Reconciler
from reconciler.proc import environment, run
from reconciler.spec.diagnostics import render_text
from reconciler.spec.edit import Value, add_document, remove_document, set_field
from reconciler.state.observed import CloneManifest, SnapshotManifest
from reconciler.status import words

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from reconciler.commits import Commits
    from reconciler.state.observed import Volume
    from reconciler.view import View

_SPECS = "shop.yaml"


def run_demo(*, keep: bool) -> int:
    """Tell the story; return the exit code. Everything is removed at the end unless ``keep``."""
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    started = time.monotonic()
    with interruptible(), place(keep=keep) as directory, ExitStack() as stack:
        story = _open(console, directory, stack)
        stack.callback(story.end, keep=keep)
        story.tell()
        if not keep:
            story.clean_up()
    console.print(f"\nDone in {time.monotonic() - started:.0f} s. {_goodbye(directory, keep=keep)}")
    return 0


@dataclass(slots=True)
class Story:
    """The steps of the demo, in order."""

    console: Console
    repository: Path
    host: Host
    commits: Commits
    reconciler: Reconciler

    def tell(self) -> None:
        """Go through the steps."""
        self.build()
        self.diverge()
        self.edit()
        self.refuse()
        self.repair()
        self.reset()

    def build(self) -> None:
        """From a commit to an image and two clones."""
        self._step("A commit asks for an image built from a dump, and for two clones of it")
        self._console_file(_SPECS)
        seconds, view = self._timed_pass()
        for refused in view.plan.refused if view.plan is not None else ():  # such as by a disk that is nearly full
            raise RefusedError(refused.message)
        snapshot = next(v for v in self._volumes() if isinstance(v.manifest, SnapshotManifest))
        self._done(f"snapshot {snapshot.id} built and sealed, two clones delivered in {seconds:.1f} s")
        self._bytes()

    def diverge(self) -> None:
        """A change in one clone stays in it."""
        self._step("A developer deletes every order in one clone; the other does not see it")
        self._sql("shop-dev", "DELETE FROM orders")
        counts = {name: self._orders(name) for name in ("shop-dev", "shop-test")}
        self._done(", ".join(f"{name} has {count} orders" for name, count in counts.items()))
        self._bytes()

    def edit(self) -> None:
        """A commit that edits the specs changes what exists."""
        self._step("A pull request is merged: one more clone, and a read-only user in shop-test")
        text = (self.repository / _SPECS).read_text()
        users = [{"name": "app", "role": "owner"}, {"name": "report", "role": "readonly"}]
        text = set_field(text, "Clone", "shop-test", path=["spec", "users"], value=users)
        text = add_document(text, _clone("shop-qa"))
        self._commit(text, "Add a clone for QA and a reporting user")
        seconds, view = self._timed_pass()
        self._plan(view)
        self._done(f"applied in {seconds:.2f} s; nothing else was touched")

    def refuse(self) -> None:
        """A broken commit changes nothing."""
        self._step("A commit with a mistake arrives; nothing of it is applied")
        good = (self.repository / _SPECS).read_text()
        self._commit(good.replace("owner: testers", "ownr: testers", 1), "Break it")
        _seconds, view = self._timed_pass()
        self._show(render_text(view.commit.diagnostics, colour=True))
        self._done("the last good commit stays in force, and so do the clones")
        self._commit(good, "Mend it")
        self._timed_pass()

    def repair(self) -> None:
        """Drift is repaired by the next pass."""
        self._step("A server dies (SIGKILL); the next pass notices and starts it again")
        _kill(self.host, self._volume_of("shop-qa"))
        seconds, view = self._timed_pass()
        self._plan(view)
        self._done(f"shop-qa answers again after {seconds:.2f} s, with {self._orders('shop-qa')} orders")

    def reset(self) -> None:
        """A clone goes back to its snapshot."""
        self._step("The developer wants the orders back: reset")
        self.host.state.requests.submit("reset", "shop-dev", now=self.host.clock.now(), requested_by="demo")
        seconds, _view = self._timed_pass()
        self._done(f"shop-dev has {self._orders('shop-dev')} orders again after {seconds:.2f} s")

    def clean_up(self) -> None:
        """Remove everything by asking for nothing, as a user would."""
        self._step("Clean-up: a commit that asks for nothing, approved because it deletes everything")
        text = (self.repository / _SPECS).read_text()
        for kind, name in (("Clone", "shop-dev"), ("Clone", "shop-test"), ("Clone", "shop-qa"), ("Image", "shop")):
            if f"name: {name}" in text:
                text = remove_document(text, kind, name)
        self._commit(text or "# nothing\n", "Remove everything")
        for _attempt in range(3):
            self.host.state.requests.submit("approve", now=self.host.clock.now(), requested_by="demo")
            self._timed_pass()
            if not self._volumes():
                break
        left = len(self._volumes()) + sum(len(r.servers()) for r in self.host.runtimes.values())
        self._done(f"{left} volumes and servers left")

    def end(self, *, keep: bool) -> None:
        """Abandon what goes on and, unless ``keep``, end every server: also after an error or Ctrl-C."""
        self.reconciler.close(abandon=True)
        if not keep:
            end_servers(self.host)

    def _timed_pass(self) -> tuple[float, View]:
        started = time.monotonic()
        view = self.reconciler.one_pass()
        tasks = self.reconciler.in_flight
        with self.console.status("working …"):
            self.reconciler.settle(view)
        for task in tasks:
            if task.error is not None:
                raise PermanentError(f"{task.key}: {task.error}")
        return time.monotonic() - started, view

    def _sql(self, clone: str, statement: str) -> str:
        manifest = self._volume_of(clone).manifest
        assert isinstance(manifest, CloneManifest)  # noqa: S101 - _volume_of returns nothing else
        from reconciler.state.servers import Endpoint

        endpoint = Endpoint("127.0.0.1", manifest.port or 0, "shop", "app")
        password = self.host.state.credentials.credential(manifest.clone, "app")
        argv, extra = self.host.engine("postgres").shell(endpoint, password, manifest.major)
        return run([*argv, "-XAtqc", statement], env=environment(extra)).text.strip()

    def _orders(self, clone: str) -> str:
        return self._sql(clone, "SELECT count(*) FROM orders")

    def _volumes(self) -> tuple[Volume, ...]:
        return tuple(volume for storage in self.host.pools.values() for volume in storage.volumes())

    def _volume_of(self, clone: str) -> Volume:
        mine = [v for v in self._volumes() if isinstance(v.manifest, CloneManifest) and v.manifest.clone == clone]
        return max(mine, key=lambda v: v.manifest.generation if isinstance(v.manifest, CloneManifest) else 0)

    def _commit(self, text: str, message: str) -> None:
        (self.repository / _SPECS).write_text(text)
        _git(self.repository, "add", "-A")
        _git(self.repository, "commit", "--quiet", "--message", message)

    def _step(self, title: str) -> None:
        self.console.print(f"\n[bold cyan]▸ {title}[/]")

    def _done(self, text: str) -> None:
        self.console.print(f"  [green]✔[/] {text}")

    def _console_file(self, name: str) -> None:
        from rich.syntax import Syntax

        self.console.print(
            Syntax((self.repository / name).read_text(), "yaml", theme="ansi_dark", background_color="default")
        )

    def _plan(self, view: View) -> None:
        from reconciler.plan.render import plan_text

        if view.plan is not None:
            self._show(plan_text(view.plan, colour=True))

    def _show(self, coloured: str) -> None:
        from rich.text import Text

        self.console.print(Text.from_ansi(coloured))

    def _bytes(self) -> None:
        """Show what each volume holds, and what only it holds."""
        for pool in self.host.pools.values():
            usage = pool.usage([volume.id for volume in self._volumes()])
            for volume, used in sorted(usage.items()):
                own = "unknown" if used.exclusive_bytes is None else words.size(used.exclusive_bytes)
                self.console.print(f"    {volume:<32} {words.size(used.logical_bytes):>8}, {own:>8} of its own")


def _open(console: Console, directory: Path, stack: ExitStack) -> Story:
    """Make the dump, the repository and the host."""
    from reconciler.spec.config import Config

    repository = directory / "specs"
    (repository / "dumps").mkdir(parents=True)
    write_dump(repository / "dumps" / "shop.sql")
    (repository / _SPECS).write_text(SPECS)
    run(["git", "init", "--quiet", "--initial-branch", "main", repository])
    _git(repository, "add", "-A")
    _git(repository, "commit", "--quiet", "--message", "Ask for an image and two clones")
    size = words.size((repository / "dumps" / "shop.sql").stat().st_size)
    console.print(f"A spec repository with a dump of {size} in [bold]{directory}[/]")
    settings = CONFIG | {
        "state": str(directory / "state"),
        "repository": {"url": str(repository)},
        "pools": {"default": pool_settings(directory)},
    }
    (directory / "reconciler.yaml").write_text(json.dumps(settings))
    config = Config.model_validate(settings)
    host = stack.enter_context(open_host(config, writes=True, command="reconciler demo"))
    for name, storage in host.pools.items():
        pool = storage.probe()
        console.print(f"Pool {name}: driver [bold]{pool.driver}[/]{f', {pool.message}' if pool.message else ''}")
    commits = host.commits()
    return Story(console, repository, host, commits, Reconciler(host, commits))


def _git(repository: Path, *words: str) -> None:
    identity = {"GIT_AUTHOR_NAME": "demo", "GIT_AUTHOR_EMAIL": "demo@example.com"}
    committer = {"GIT_COMMITTER_NAME": "demo", "GIT_COMMITTER_EMAIL": "demo@example.com"}
    run(["git", "-C", repository, *words], env=environment(identity | committer | {"GIT_CONFIG_GLOBAL": os.devnull}))


def _clone(name: str) -> dict[str, Value]:
    return {
        "apiVersion": "reconciler/v1",
        "kind": "Clone",
        "metadata": {"name": name},
        "spec": {"image": "shop", "owner": "testers", "users": [{"name": "app", "role": "owner"}]},
    }


def _kill(host: Host, volume: Volume) -> None:
    import psutil

    for process in psutil.process_iter():
        try:
            if process.environ().get("RECONCILER_SERVER") == f"{host.installation}/{volume.id}":
                process.send_signal(signal.SIGKILL)
        except psutil.Error:
            continue


def _goodbye(directory: Path, *, keep: bool) -> str:
    if not keep:
        return "Everything was removed."
    return f"Kept: look around with reconciler --config {directory}/reconciler.yaml status"
