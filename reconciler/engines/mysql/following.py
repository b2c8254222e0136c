"""A mirror's server: its settings, the way into the primary, and what it says of itself.

Called by :mod:`.mirror`. It is reached over its private socket only, writes nothing of its
own, and follows by global transaction ids, which are in the same transactions as the data:
whatever ends it, it goes on from where its data is. The way into the primary, with the
password, is told to it at every start by the file of statements beside its socket, and kept
by it in the same private directory, of which no copy has anything.
"""

from __future__ import annotations

import json
import re
import shutil
import zlib
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from reconciler.engines import files
from reconciler.engines.mysql import relaylog, server, settings
from reconciler.engines.mysql.link import text
from reconciler.handover import give

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from reconciler.engines.base import MirrorWork
    from reconciler.engines.mysql.link import Link
    from reconciler.engines.mysql.primary import Primary
    from reconciler.engines.mysql.product import Product

STATE = "mirror.json"
"""In the directory of the mirror, and so of every copy: how far it had come when it was at rest."""
AS_PRIMARY = ("lower_case_table_names", "default_storage_engine", "innodb_default_row_format")
"""Settings of the primary by which statements mean what they mean there."""
_RELAY = "relay"
_ABOUT_RELAY, _ABOUT_PRIMARY = "relay.info", "master.info"
_RETRY_SECONDS = 5
_GAVE_UP = 1236
_WARM: Mapping[str, str] = {
    "innodb_buffer_pool_size": "128M",
    "innodb_log_file_size": f"{settings.BUILD_LOG_MIB}M",
    "innodb_flush_log_at_trx_commit": "2",  # a crash of the host loses a second, which it fetches again
    "innodb_strict_mode": "OFF",  # what the primary has, it may have
    "performance_schema": "OFF",
    "skip_networking": "ON",
    "read_only": "ON",
    "max_allowed_packet": "1G",
    "slave_max_allowed_packet": "1G",
    "max_relay_log_size": "16M",
    "relay_log_space_limit": "4G",
    "slave_net_timeout": "60",
    "slave_skip_errors": "1051",  # what was dropped may never have been here: views that read nothing
}
_TABLE = re.compile(r"on table ([^;\s]+);")
_SEQUENCE = re.compile(r"(\d+)-\d+-(\d+)")


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a mirror has come."""

    receiving: bool
    applying: bool
    begun: bool
    """Whether it was told whom to follow since its server started."""
    gtid: str
    as_of: datetime | None
    refused: str = ""
    """What the primary, or the network, says; empty: nothing."""
    stuck: str = ""
    """Why it cannot apply what it received; quotes no value."""
    gone: bool = False
    """Whether the primary has not, or never had, the log that it would go on with."""


def write(work: MirrorWork, product: Product, here: Primary, *, private: bool) -> None:
    """Write the settings of a mirror's server, and the statements that it begins with; ``private``: with TLS."""
    state = read_state(work.directory)
    relay = work.directory / _RELAY
    shutil.rmtree(relay, ignore_errors=True)  # it gets them again from where its data is
    for name in (_ABOUT_RELAY, _ABOUT_PRIMARY):  # of logs that are not there it would not start to follow
        files.remove(work.run_directory, name)
    relay.mkdir(mode=0o700)
    give(relay, work.account)
    ignored = {"replicate_wild_ignore_table": ("mysql.%", "sys.%", *state.get("absent", "").split())}
    values = {
        **settings.COMMON,
        **_WARM,
        **product.settings,
        **settings.rules(work, product),
        **{name: state[name] for name in (*AS_PRIMARY, *settings.LAYOUT) if name in state},
        "server_id": str(zlib.crc32(work.server.encode()) or 1),
        "relay_log": str(relay / "relay"),
        "relay_log_index": str(relay / "relay.index"),
        "relay_log_info_file": str(work.run_directory / _ABOUT_RELAY),
        "master_info_file": str(work.run_directory / _ABOUT_PRIMARY),
    }
    settings.write(work, values, work.account, repeated=ignored)
    server.prepare_admin(work, product, more=_begin(work, here, private=private))


def standing(work: MirrorWork, link: Link) -> Standing:
    """Ask a running mirror."""
    found = _status(link)
    state = read_state(work.directory)
    gtid = position(link)
    as_of = datetime.fromisoformat(state["as_of"]) if "as_of" in state else None
    if found is None:
        return Standing(receiving=False, applying=False, begun=False, gtid=gtid, as_of=as_of)
    applied = relaylog.last_commit(work.directory / _RELAY / found["Relay_Log_File"], int(found["Relay_Log_Pos"] or 0))
    times = [one for one in (as_of, applied) if one is not None]
    stopped = int(found["Last_SQL_Errno"] or 0)
    return Standing(
        receiving=found["Slave_IO_Running"] == "Yes",
        applying=found["Slave_SQL_Running"] == "Yes",
        begun=True,
        gtid=gtid,
        as_of=max(times, default=None),
        refused=found["Last_IO_Error"],
        stuck=failed_at(stopped, found["Last_SQL_Error"]) if stopped else "",
        gone=int(found["Last_IO_Errno"] or 0) == _GAVE_UP,
    )


def position(link: Link) -> str:
    """Return up to where a server has applied, the same for the same place."""
    return ",".join(sorted(str(link.value("SELECT @@GLOBAL.gtid_slave_pos") or "").split(",")))


def behind(own: str, theirs: str) -> int:
    """Return how many transactions one position lacks of another."""
    have = {domain: int(number) for domain, number in _SEQUENCE.findall(own)}
    wanted = {domain: int(number) for domain, number in _SEQUENCE.findall(theirs)}
    return sum(max(0, number - have.get(domain, 0)) for domain, number in wanted.items())


def note(work: MirrorWork, standing: Standing) -> None:
    """Note how far a mirror at rest has come, where every copy of it has that."""
    facts = read_state(work.directory) | {"gtid": standing.gtid}
    if standing.as_of is not None:
        facts["as_of"] = standing.as_of.isoformat()
    write_state(work, facts)


def read_state(directory: Path) -> dict[str, str]:
    """Return what was noted of a mirror."""
    found = files.read_small(directory / STATE)
    return {} if found is None else {str(key): str(value) for key, value in json.loads(found).items()}


def write_state(work: MirrorWork, facts: Mapping[str, str]) -> None:
    """Replace what is noted of a mirror."""
    files.write_file(work.directory, STATE, json.dumps(dict(facts), sort_keys=True), work.account)


def failed_at(code: int, said: str) -> str:
    """Return why nothing is applied any more, without the statement and the values that the server quotes."""
    table = _TABLE.search(said)
    where = f" at table {table[1]}" if table is not None else ""
    return f"what the primary did cannot be done here{where} (error {code})"


def _begin(work: MirrorWork, here: Primary, *, private: bool) -> str:
    """Return the statements with which a mirror begins to follow."""
    words = [
        f"MASTER_HOST = {text(here.host)}",
        f"MASTER_PORT = {here.port}",
        f"MASTER_USER = {text(here.user)}",
        f"MASTER_PASSWORD = {text(here.password)}",
        "MASTER_USE_GTID = slave_pos",
        f"MASTER_CONNECT_RETRY = {_RETRY_SECONDS}",
        "MASTER_HEARTBEAT_PERIOD = 10",
        f"MASTER_SSL = {int(private)}",
        f"MASTER_SSL_VERIFY_SERVER_CERT = {int(private and here.tls == 'VERIFY_IDENTITY')}",
    ]
    if private:
        words += [f"MASTER_SSL_{name} = {text(str(path))}" for name, path in _certificates(work, here).items()]
    return f"CHANGE MASTER TO {', '.join(words)};\nSTART SLAVE;\n"


def _certificates(work: MirrorWork, here: Primary) -> dict[str, Path]:
    """Put the files that the URL names where the mirror's account can read them."""
    found = {}
    checked = here.tls in ("VERIFY_CA", "VERIFY_IDENTITY")
    for name, path in (("CA", here.ca if checked else None), ("CERT", here.certificate), ("KEY", here.key)):
        if path is not None:
            target = f"primary.{name.lower()}"
            with open(path, "rb") as file:  # noqa: PTH123 - a path of the URL
                files.write_file(work.run_directory, target, file.read(), work.account)
            found[name] = work.run_directory / target
    return found


def _status(link: Link) -> dict[str, str] | None:
    found = link.named("SHOW SLAVE STATUS")
    return {name: "" if value is None else str(value) for name, value in found[0].items()} if found else None
