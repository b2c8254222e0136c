"""What this host lets an image and its clones use: directories, secrets, superuser rights.

Called by :mod:`reconciler.state.resolve`, and for :meth:`Grants.roots` by those who open
sources. Everything here depends on the host's configuration, so it never makes a commit
invalid: it stalls the object alone. Paths are compared as written; that they are no
symlinks out of the image's roots is for those who open them.
"""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reconciler.spec.config import Config, Grant

Refusal = tuple[str, str]
"""Reason (CamelCase) and message of a condition."""
_ADD_TO_GRANT = "add it to a grant of the host's configuration (grants)"


class Grants:
    """The grants of a host; without a configuration (``validate``) everything is granted but superuser rights."""

    def __init__(self, config: Config | None) -> None:
        self._roots = None if config is None else config.sources.roots
        self._grants = None if config is None else config.grants
        self._repositories = None if config is None else config.sources.repositories
        self._maskers = None if config is None else config.masking.maskers.keys()
        self._known: dict[str, tuple[Grant, ...]] = {}

    def refusal(
        self,
        image: str,
        *,
        paths: Iterable[str] = (),
        secrets: Iterable[str] = (),
        maskers: Iterable[str] = (),
        repository: str | None = None,
        container_image: str | None = None,
        instance: str | None = None,
    ) -> Refusal | None:
        """Return why ``image`` (or a clone of it) may not use one of these; None when it may use all."""
        for path in paths:
            if path.startswith("/") and (refused := self._path(image, path)):
                return refused
        for secret in secrets:
            if self._grants is not None and not self._secret(image, secret):
                what = f"the secret {secret} is not granted to image {image} and its clones on this host"
                return "SecretNotGranted", f"{what}; {_ADD_TO_GRANT}"
        if repository is not None and (refused := self._repository(image, repository)):
            return refused
        if (refused := self._runs_on(image, container_image, instance)) is not None:
            return refused
        for masker in maskers:
            if self._maskers is not None and masker not in self._maskers:
                known = ", ".join(sorted(self._maskers)) or "none"
                what = f"this host has no masker {masker} (there are: {known})"
                return "MaskerUnknown", f"{what}; define it under masking.maskers of the host's configuration"
        return None

    def roots(self, image: str) -> tuple[Path, ...]:
        """Return the directories of the host below which sources of ``image`` lie, wherever links lead."""
        everything = tuple(self._roots or ())
        if self._grants is None:
            return everything
        granted = [root for grant in self._of(image) for root in grant.roots]
        # of two directories, one in the other, the inner one is in both; others have nothing in common
        return (
            *(root for root in granted if any(root.is_relative_to(outer) for outer in everything)),
            *(root for root in everything if any(root.is_relative_to(outer) for outer in granted)),
        )

    def superuser_scripts(self, image: str) -> bool:
        """Whether SQL of the image and its clones runs with superuser rights; only ever by an explicit grant."""
        return any(grant.superuser_scripts for grant in self._of(image))

    def _path(self, image: str, path: str) -> Refusal | None:
        if self._roots is None:
            return None
        if not any(_below(path, str(root)) for root in self._roots):
            what = f"{path} is under none of this host's source directories ({self._listed or 'there are none'})"
            return "SourceNotGranted", f"{what}; add its directory to sources.roots of the host's configuration"
        if self._grants is None or any(_below(path, str(root)) for grant in self._of(image) for root in grant.roots):
            return None
        return "SourceNotGranted", f"{path} is not granted to image {image} on this host; {_ADD_TO_GRANT}"

    def _repository(self, image: str, name: str) -> Refusal | None:
        if self._repositories is None:
            return None
        if name not in self._repositories:
            known = ", ".join(sorted(self._repositories)) or "none"
            what = f"this host has no backup repository {name} (there are: {known})"
            return "RepositoryUnknown", f"{what}; define it under sources.repositories of the host's configuration"
        patterns = None if self._grants is None else [p for grant in self._of(image) for p in grant.repositories]
        if patterns is None or any(fnmatchcase(name, pattern) for pattern in patterns):
            return None
        what = f"the backup repository {name} is not granted to image {image} on this host"
        return "SourceNotGranted", f"{what}; {_ADD_TO_GRANT}"

    def _secret(self, image: str, secret: str) -> bool:
        return any(fnmatchcase(secret, pattern) for grant in self._of(image) for pattern in grant.secrets)

    def _runs_on(self, image: str, container: str | None, instance: str | None) -> Refusal | None:
        """Return why servers of an image may not run in a container, or its clones not be on an instance."""
        if self._grants is None:
            return None
        granted = [*self._of(image)]
        images = [pattern for grant in granted for pattern in grant.container_images]
        if container is not None and not any(fnmatchcase(container, pattern) for pattern in images):
            what = f"the container image {container} is not granted to image {image} and its clones on this host"
            return "ContainerImageNotGranted", f"{what}; {_ADD_TO_GRANT}"
        instances = [pattern for grant in granted for pattern in grant.instances]
        if instance is not None and not any(fnmatchcase(instance, pattern) for pattern in instances):
            what = f"the instance {instance} is not granted to image {image} and its clones on this host"
            return "InstanceNotGranted", f"{what}; {_ADD_TO_GRANT}"
        return None

    def _of(self, image: str) -> tuple[Grant, ...]:
        found = self._known.get(image)
        if found is None:
            found = tuple(grant for grant in self._grants or () if fnmatchcase(image, grant.images))
            self._known[image] = found
        return found

    @cached_property
    def _listed(self) -> str:
        return ", ".join(map(str, self._roots or ()))


def _below(path: str, root: str) -> bool:
    return PurePosixPath(path).is_relative_to(root)
