"""What a person would do instead: shell scripts around btrfs and pg_ctl.

Used by the topics that serve clones. The scripts get every path as an argument.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconciler.engines.postgres import server
from reconciler.handover import give

if TYPE_CHECKING:
    from pathlib import Path

    from bench.installation import Installation

CLONE = """\
source=$1 target=$2 port=$3 programs=$4 as=$5
btrfs --quiet subvolume snapshot "$source" "$target"
$as "$programs/pg_ctl" --pgdata="$target/data" --options="-p $port" --log="$target/data/log" --silent --wait start
"$programs/psql" -XAtqc 'SELECT 1' -h 127.0.0.1 -p "$port" -U reconciler_admin bench
"""
"""One more clone until it answers: the floor."""
CLONES = """\
source=$1 target=$2 first=$3 programs=$4 as=$5 number=$6 lanes=$7 script=$8
seq "$number" | xargs -P "$lanes" -I N sh -c '
sh -euc "$1" sh "$2" "$3-N" "$(($4 + N))" "$5" "$6"' sh "$script" "$source" "$target" "$first" "$programs" "$as"
"""
"""Many clones with some parallelism."""
REMOVE = """\
programs=$1 as=$2
shift 2
for target; do
    $as "$programs/pg_ctl" --pgdata="$target/data" --mode=immediate --silent --wait stop
    btrfs --quiet subvolume delete "$target"
done
"""
_HBA = "local all all trust\nhost all all 127.0.0.1/32 trust\n"


def prepare(opened: Installation, snapshot: Path, name: str, settings: str = "") -> Path:
    """Make a subvolume that servers can be started on without the product: configured by hand, minimally."""
    target = opened.by_hand / name
    opened.script('btrfs --quiet subvolume snapshot "$1" "$2"', snapshot, target)
    give(target, opened.account)  # a snapshot's own directory lets nobody in
    data = target / "data"
    for file, text in (
        ("postgresql.conf", "unix_socket_directories = ''\n" + settings),
        ("pg_hba.conf", _HBA),
        ("pg_ident.conf", ""),
    ):
        (data / file).write_text(text)
        give(data / file, opened.account)
    return target


def programs() -> Path:
    """Return the server's programs where the account of clones can reach them."""
    return server.program(server.choose(), "pg_ctl").parent


def switch(opened: Installation) -> str:
    """Return the words that run a command under the account of clones."""
    account = opened.account
    return "" if account is None else f"setpriv --reuid={account.uid} --regid={account.gid} --clear-groups"
