"""From the repository to a desired state: the commit in force and what is wrong with the newest one.

A commit is atomic: invalid documents leave the last good commit in force. So do a
remote that does not answer, a branch that is gone, a missing signature, of which nothing
is read then, and a history that was rewritten, until somebody approves that. Called at
the start of every pass; unchanged commits cost nothing but the fetch.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from reconciler.engine_rules import refused_parameters
from reconciler.errors import ReconcilerError
from reconciler.spec.loader import DocumentCache, load_tree
from reconciler.state.conditions import Condition, not_ready, ready, stalled
from reconciler.state.resolve import ResolveCache, resolve

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from reconciler.repository import Change, Repository, SourceTree
    from reconciler.spec.config import Config
    from reconciler.spec.diagnostics import Diagnostic
    from reconciler.state.conditions import ObjectKey
    from reconciler.state.desired import Desired


SIGNATURE_REASONS = frozenset(
    {"CommitNotSigned", "SignerUnknown", "SignerExpired", "SignerRevoked", "SignatureInvalid"}
)
"""Reasons of a commit that bears no signature that counts."""


@dataclass(frozen=True, slots=True)
class Commit:
    """The commit in force: its tree and what it asks for; None when there never was a good one.

    ``held`` is the newest commit where it rewrites history: in force once it is approved.
    ``unverified``: it can be looked at, but bears no signature that counts, so it is not applied.
    """

    tree: SourceTree | None
    desired: Desired | None
    conditions: tuple[Condition, ...]
    diagnostics: tuple[Diagnostic, ...] = ()
    attempted: str | None = None
    held: Commit | None = None
    unverified: bool = False


class Commits:
    """Reads commits for one host; keeps what it parsed."""

    def __init__(self, repository: Repository, config: Config) -> None:
        self._repository = repository
        self._config = config
        self._documents = DocumentCache()
        self._objects = ResolveCache()
        self._resolved: dict[str, tuple[Desired | None, tuple[Diagnostic, ...]]] = {}
        self._settled = True

    def newest(self) -> Commit:
        """Return the newest commit of the branch if it is good, else the last good one and why."""
        tree = None
        try:
            tree = self._repository.fetch()
            verified = self._verified(tree)
            desired, diagnostics = self._resolve(tree)
        except ReconcilerError as error:  # whatever keeps it from being read, timers go on
            attempted = tree.revision if tree is not None and error.reason in SIGNATURE_REASONS else None
            return self._last_good(_refused(error), (), attempted)
        if desired is None:
            number = "1 error" if len(diagnostics) == 1 else f"{len(diagnostics)} errors"
            message = f"{number} in {tree.revision}; first: {diagnostics[0].summary}"
            conditions = (not_ready("InvalidSpec", message), stalled("InvalidSpec", message), *verified)
            return self._last_good(conditions, diagnostics, tree.revision)
        message = f"at {tree.revision}; {tree.rewrite}" if tree.rewrite else f"at {tree.revision}"
        newest = Commit(tree, desired, (ready("Fetched", message), *verified), diagnostics, tree.revision)
        return self._held(newest, tree.rewrite) if self._waits(tree) else newest

    def _waits(self, tree: SourceTree) -> bool:
        """Whether a revision that rewrites history was approved by nobody yet."""
        if not tree.rewrite or self._config.repository.force_push == "follow":
            return False
        good = self._repository.last_good()
        return good is not None and good.revision != tree.revision

    def _held(self, newest: Commit, rewrite: str) -> Commit:
        message = f"{rewrite}; the last good commit stays in force until reconciler apply --approve"
        conditions = (not_ready("HistoryRewritten", message), stalled("HistoryRewritten", message))
        return replace(self._last_good(conditions, newest.diagnostics, newest.attempted), held=newest)

    def at(self, revision: str) -> Commit:
        """Return one named commit, to be looked at also when it bears no signature that counts.

        Raises:
            InputError: there is no such revision.

        """
        tree = self._repository.tree(revision)
        desired, diagnostics = self._resolve(tree)
        try:
            return Commit(tree, desired, self._verified(tree), diagnostics, tree.revision)
        except ReconcilerError as error:
            return Commit(tree, desired, _refused(error), diagnostics, tree.revision, unverified=True)

    def _verified(self, tree: SourceTree) -> tuple[Condition, ...]:
        """Return what there is to say of a commit's signature; nothing where none is asked for.

        Raises:
            ReconcilerError: it bears none that counts, or that cannot be told.

        """
        signature = self._repository.verify(tree)
        if signature is None:
            return ()
        return (Condition(type="SourceVerified", status="True", reason="Verified", message=str(signature)),)

    def in_force(self) -> Commit:
        """Return the last good commit, without contacting the remote."""
        return self._last_good((), (), None)

    def history(self, paths: Iterable[str]) -> Mapping[str, Change]:
        """Return who changed each file last, as far as it is known."""
        return self._repository.history(paths)

    def responsible(self, keys: Iterable[ObjectKey], commit: Commit) -> Mapping[ObjectKey, str]:
        """Say who is behind what a commit asks of objects: the last change of a document, or else the commit itself.

        What cannot be told is left out.
        """
        desired, wanted = commit.desired, frozenset(keys)
        if desired is None or commit.tree is None or not wanted:
            return {}
        files = {key: file for key in wanted if (file := desired.file_of(key)) is not None}
        try:
            changes = self._repository.history(frozenset(files.values()))
            made = self._repository.change(commit.tree.revision)
        except ReconcilerError:
            return {}
        found = {key: changes.get(files[key], made) if key in files else made for key in wanted}
        return {key: f"{change.author} in {change.commit[:12]}" for key, change in found.items() if change is not None}

    def remember(self, commit: Commit) -> None:
        """Make a good commit the one that stays in force when later ones are not."""
        if commit.tree is not None and commit.desired is not None and commit.attempted == commit.tree.revision:
            self._repository.mark_good(commit.tree.revision)

    def settle(self) -> None:
        """Let the garbage collector pass over what a commit left in memory: it stays until the next one.

        With thousands of objects each of its full runs would take longer than a pass in
        which nothing changed. This is one more such run: for when nothing waits for it.
        """
        if not self._settled:
            gc.unfreeze()
            gc.collect()
            gc.freeze()
            self._settled = True

    def _last_good(
        self, conditions: tuple[Condition, ...], diagnostics: Sequence[Diagnostic], attempted: str | None
    ) -> Commit:
        try:
            tree = self._repository.last_good()
        except ReconcilerError:
            tree = None
        desired = self._resolve(tree)[0] if tree is not None else None
        return Commit(tree, desired, conditions, tuple(diagnostics), attempted)

    def _resolve(self, tree: SourceTree) -> tuple[Desired | None, tuple[Diagnostic, ...]]:
        if tree.revision not in self._resolved:
            loaded = load_tree(
                tree,
                self._documents,
                selector=self._config.selector,
                max_file_bytes=self._config.repository.limits.file_size,
            )
            errors = tuple(d for d in loaded.diagnostics if d.severity == "error")
            if errors:
                self._resolved = {**self._one_older(), tree.revision: (None, errors)}
            else:
                resolution = resolve(loaded.documents, tree, config=self._config, cache=self._objects)
                refused = refused_parameters(loaded.documents)
                self._resolved = {
                    **self._one_older(),
                    tree.revision: (None if refused else resolution.desired, (*resolution.diagnostics, *refused)),
                }
            self._settled = False
        return self._resolved[tree.revision]

    def _one_older(self) -> dict[str, tuple[Desired | None, tuple[Diagnostic, ...]]]:
        """Keep the newest other commit: the last good one is read again and again while the head is broken."""
        return dict(list(self._resolved.items())[-1:])


def _refused(error: ReconcilerError) -> tuple[Condition, ...]:
    """Return what is said of a commit that could not be read, or must not be applied."""
    said = (not_ready(error.reason, str(error)), stalled(error.reason, str(error)))
    if error.reason not in SIGNATURE_REASONS:
        return said
    return (*said, Condition(type="SourceVerified", status="False", reason=error.reason, message=str(error)))
