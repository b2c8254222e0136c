"""From an action to the function that performs it."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from reconciler.apply import clones, documents, images, mirrors, points, templates
from reconciler.plan.actions import (
    BuildSnapshot,
    ClearTombstone,
    CopyPrimary,
    CreateClone,
    CutPoint,
    DeleteClone,
    DeleteSnapshot,
    DropRaw,
    DropTemplate,
    DropVolume,
    ExpireClone,
    FollowPrimary,
    KeepRaw,
    LeavePrimary,
    LoadTemplate,
    QuarantineSnapshot,
    ReleaseSnapshot,
    RemoveDocuments,
    RenameClone,
    RenameImage,
    ReplaceClone,
    ReplayArchive,
    RestartClone,
    RestoreClone,
    StartClone,
    StopClone,
    StopServer,
    UpdateClone,
)

if TYPE_CHECKING:
    from reconciler.apply.context import Work
    from reconciler.plan.actions import Action


def perform(work: Work, action: Action) -> None:  # noqa: C901, PLR0912, PLR0915 - one flat match over the closed union
    """Perform one action.

    Raises:
        ReconcilerError: it could not be done; the class says whether trying again can help.

    """
    match action:
        case BuildSnapshot():
            images.build(work, action)
        case CutPoint():
            points.cut(work, action)
        case LoadTemplate():
            templates.load(work, action)
        case DropTemplate():
            templates.drop(work, action)
        case DeleteSnapshot():
            images.delete(work, action)
        case RenameImage():
            images.rename(work, action)
        case CopyPrimary():
            mirrors.copy(work, action)
        case FollowPrimary():
            mirrors.follow(work, action)
        case ReplayArchive():
            mirrors.replay(work, action)
        case LeavePrimary():
            mirrors.leave(work, action)
        case KeepRaw():
            mirrors.keep_raw(work, action)
        case DropRaw():
            mirrors.drop_raw(work, action)
        case QuarantineSnapshot():
            images.quarantine(work, action)
        case ReleaseSnapshot():
            images.release(work, action)
        case CreateClone():
            clones.create(work, action)
        case ReplaceClone():
            clones.replace_clone(work, action)
        case RestoreClone():
            clones.restore(work, action)
        case UpdateClone():
            clones.update(work, action)
        case RestartClone():
            clones.restart(work, action)
        case StartClone():
            clones.start_clone(work, action)
        case StopClone():
            clones.stop_clone(work, action)
        case RenameClone():
            clones.rename(work, action)
        case DeleteClone():
            clones.delete(work, action)
        case ExpireClone():
            clones.expire(work, action)
        case ClearTombstone():
            work.host.state.clear_tombstone(action.clone)
        case RemoveDocuments():
            documents.remove(work, action)
        case DropVolume():
            clones.drop(work, action)
        case StopServer():
            work.runtime(action.runtime).stop(action.server)
        case _:
            assert_never(action)
