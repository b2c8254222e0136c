"""What ``init`` writes: a spec repository and a configuration that work at once."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from reconciler.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

_CONFIG = """\
# What differs from host to host. Run `reconciler plan`, then `reconciler apply` or `reconciler run`.
apiVersion: reconciler/v1
kind: Config
repository: {{path: ./specs}}   # a plain directory; for git: {{url: https://git.example/specs.git, branch: main}}
state: {state}
"""

_IMAGE = """\
apiVersion: reconciler/v1
kind: Image
metadata: {name: shop}
spec:
  engine: postgres
  source: {empty: {}}                  # or: {dump: {path: dumps/shop.sql}}
  databases: [shop]
  scripts:
    - {path: sql/shop.sql, database: shop}
  checks:
    - {sql: "SELECT count(*) > 0 FROM product", database: shop}
  retention: {keep: 3}
"""

_CLONE = """\
apiVersion: reconciler/v1
kind: Clone
metadata: {name: shop-dev}
spec:
  image: shop
  owner: developers
  users:
    - {name: app, role: owner}         # its password is generated: reconciler url shop-dev
"""

_SQL = """\
CREATE TABLE product (
    product_id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL,
    price numeric(10, 2) NOT NULL CHECK (price >= 0)
);

INSERT INTO product (name, price)
SELECT 'Product ' || number, number * 1.5 FROM generate_series(1, 1000) AS number;
"""


def write_starter(directory: Path) -> list[Path]:
    """Write the starter files and return their paths.

    Raises:
        InputError: one of them exists; nothing was written.

    """
    directory.mkdir(parents=True, exist_ok=True)  # before the look: the umask decides as well
    state = "./state" if _reachable(directory) else f"/var/lib/reconciler/{directory.resolve().name}"
    files = {
        directory / "reconciler.yaml": _CONFIG.format(state=state),
        directory / "specs" / "shop.yaml": _IMAGE + "---\n" + _CLONE,
        directory / "specs" / "sql" / "shop.sql": _SQL,
        directory / ".gitignore": "state/\n",
    }
    for path in files:
        if path.exists():
            raise InputError(f"{path} exists; nothing was written", hint="name another directory")
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return list(files)


def _reachable(directory: Path) -> bool:
    """Whether other accounts can reach the directory; servers run under their own when the reconciler is root."""
    if os.geteuid() != 0:
        return True
    path = directory.resolve()
    return all(step.stat().st_mode & stat.S_IXOTH for step in (path, *path.parents))
