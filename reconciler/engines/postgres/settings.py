"""Configuration files of builds and clones.

Called by ``engine``. What a source brought along (postgresql.conf, postgresql.auto.conf,
includes, pg_hba.conf, pg_ident.conf) is replaced, never merged: it can name
archives, primaries, commands and libraries of production.
"""

from __future__ import annotations

import ipaddress
import os
import re
from typing import TYPE_CHECKING

from reconciler import proc
from reconciler.engines import files
from reconciler.engines.postgres import contained, server
from reconciler.engines.postgres.parameters import PRELOAD, REQUIRED_PRELOADS, libraries
from reconciler.errors import CommandError, NotInstalledError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path, PurePath

    from reconciler.engines.base import BuildWork, CloneWork, InstalledServer
    from reconciler.proc import Account
    from reconciler.state.servers import Software

MAP = "reconciler"
BUILD_WAL_GIB = 4
"""WAL that a build may keep before a checkpoint lets go of it."""

_NO_FILES = ("config_file=/dev/null", "hba_file=/dev/null", "ident_file=/dev/null", "data_directory=/")
_FATAL = re.compile(r"FATAL: +(.*)")
_EVENT_TRIGGERS_SETTING = 17
_SYNC_IO = 18
_ORIGINS_SETTING = 18
_MiB = 1 << 20
_Settings = dict[str, str]


def check_values(installed: InstalledServer, wanted: Mapping[str, str], account: Account | None) -> None:
    """Insist that the server takes the settings of a document: its program is asked, and starts nothing.

    Settings of extensions are known to it only with their libraries, so those are not judged.

    Raises:
        UnsupportedError: a name or a value is not the server's; the message is its own.

    """
    named = [f"{name}={value}" for name, value in wanted.items() if name.lower() != PRELOAD]
    if not named or installed.origin == "container":  # there, the server's start tells
        return
    words = [word for setting in (*_NO_FILES, *named) for word in ("-c", setting)]
    program = server.program(installed, "postgres")
    try:
        proc.run(
            [program, "-C", "data_directory", *words], env=server.server_environment(), account=account, timeout=30
        )
    except CommandError as error:
        told = _FATAL.search(error.stderr)
        if told is None:
            raise
        raise UnsupportedError(f"the server refuses a parameter: {told[1]}", reason="ParameterInvalid") from error


def write_build(work: BuildWork, installed: InstalledServer, required: Mapping[str, str]) -> None:
    """Write the configuration of a build's private server.

    Raises:
        NotInstalledError: a library that the data needs is not installed.

    """
    data = server.data_directory(work)
    wishes = {name.lower(): value for name, value in work.parameters.items()}
    chosen = wishes | {name: value for name, value in required.items() if not _enough(wishes.get(name), value)}
    preload = _needed_libraries(required.get(PRELOAD, ""), wishes.get(PRELOAD, ""))
    values = _build_defaults(work) | chosen | _build_rules(work, installed) | {PRELOAD: preload}
    check_preload(preload, installed)
    names = [server.admin_role(work), server.BUILDER]
    people = dict.fromkeys(_people(work.account, work.software), names)
    _write(data, values, _hba(()), _ident(people), work.account)


def write_clone(work: CloneWork, installed: InstalledServer, chosen: Mapping[str, str]) -> None:
    """Write the configuration of a clone; ``chosen`` are checked parameters with the required ones.

    Raises:
        NotInstalledError: a library or TLS is asked for that the installation lacks.

    """
    data = server.data_directory(work)
    values = _clone_defaults(work) | dict(chosen) | _clone_rules(work)
    check_preload(values.get(PRELOAD, ""), installed)
    if work.tls is not None:
        if installed.origin != "container" and not any(
            name.startswith("libssl.") for name in server.linked_libraries(installed)
        ):
            raise NotInstalledError(
                f"PostgreSQL {installed.version} in {installed.directory} is built without TLS",
                hint=f"install the package postgresql-{installed.major}",
            )
        files.write_file(data, "server.crt", work.tls[0].read_bytes(), work.account)
        files.write_file(data, "server.key", work.tls[1].read_bytes(), work.account)
        values |= {"ssl": "on", "ssl_cert_file": "server.crt", "ssl_key_file": "server.key"}
    people = {name: [server.admin_role(work), server.BUILDER] for name in _people(None, work.software)}
    if work.account is not None:
        for name in _people(work.account, work.software):
            people.setdefault(name, [server.BUILDER])
    hba = _hba(_networks(work), reject=(server.admin_role(work), server.BUILDER))
    _write(data, values, hba, _ident(people), work.account)


def write_standby(data: Path, chosen: Mapping[str, str], *, socket: Path, user: str, account: Account | None) -> None:
    """Write the configuration of a private standby, which ``user`` of the primary's is asked as, by us alone."""
    major = int(files.read_small(data / "PG_VERSION") or server.OLDEST_MAJOR)
    values = {
        **_common(major),
        "listen_addresses": "",
        "port": str(server.SOCKET_PORT),
        "unix_socket_directories": _socket_directory(socket),
        "cluster_name": _cluster_name("mirror"),
        "log_min_messages": "fatal",
        "log_statement": "none",
        "log_min_error_statement": "panic",
        **chosen,
    }
    _write(data, values, _hba(()), _ident({name: [user] for name in _people(None)}), account)


def check_preload(value: str, installed: InstalledServer) -> None:
    """Refuse libraries to preload that the installation does not have."""
    if installed.origin == "container":
        return
    root = installed.directory.parent / "lib"
    missing = [
        name for name in libraries(value) if not any((place / f"{name}.so").is_file() for place in (root, *_sub(root)))
    ]
    if missing:
        raise NotInstalledError(
            f"PostgreSQL {installed.version} in {installed.directory} lacks the libraries {', '.join(missing)}",
            hint="install the packages of these extensions for this version",
        )


def _sub(root: Path) -> tuple[Path, ...]:
    return (root / "postgresql",)


def _needed_libraries(*values: str) -> str:
    """Return the libraries that data needs; others measure, and write statements with their values into our log."""
    found = dict.fromkeys(library for value in values for library in libraries(value))
    return ",".join(library for library in found if library in REQUIRED_PRELOADS)


def _enough(wish: str | None, least: str) -> bool:
    return wish is not None and wish.isdigit() and least.isdigit() and int(wish) >= int(least)


def _common(major: int) -> _Settings:
    values = {
        "unix_socket_permissions": "0700",
        "huge_pages": "off",
        "logging_collector": "off",
        "log_destination": "stderr",
        "log_line_prefix": "%m [%p] %q%u@%d ",
        "archive_mode": "off",
        "max_logical_replication_workers": "0",
        "password_encryption": "scram-sha-256",
        "lc_messages": "C",
        "bonjour": "off",
    }
    if major >= _SYNC_IO:
        values["io_method"] = "sync"  # no io workers: fewer processes per server
    return values


def _build_defaults(work: BuildWork) -> _Settings:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "timezone": "UTC",
        "shared_buffers": f"{max(64, min(512, memory // 16 // _MiB))}MB",
        "maintenance_work_mem": f"{max(64, min(1024, memory // 16 // _MiB))}MB",
        "work_mem": "32MB",
        "max_parallel_maintenance_workers": str(max(0, work.jobs - 1)),
        "max_wal_size": f"{BUILD_WAL_GIB}GB",
        "checkpoint_timeout": "1h",
        "checkpoint_completion_target": "0.1",
        "jit": "off",
    }


def _build_rules(work: BuildWork, installed: InstalledServer) -> _Settings:
    major = int(installed.major)
    values = _common(major) | {
        "listen_addresses": "",
        "port": str(server.socket_port(work)),
        "unix_socket_directories": _sockets(work),
        "cluster_name": _cluster_name(f"build {work.snapshot}"),
        "max_wal_senders": "0",
        "wal_level": "minimal",
        # recovery needs a place for every origin that the WAL mentions
        "max_active_replication_origins" if major >= _ORIGINS_SETTING else "max_replication_slots": "1000",
        "fsync": "off",
        "full_page_writes": "off",
        "synchronous_commit": "off",
        "autovacuum": "off",
        "track_counts": "on",  # they say which tables were written, and have old rows in their files
        # nobody goes on with a build that crashed; recovering, with WAL that fills the disk, it would hear no signal
        "restart_after_crash": "off",
        # neither statements nor rows of production belong into our logs; errors of ours and of scripts are told
        "log_min_messages": "fatal",
        "log_statement": "none",
        "log_min_duration_statement": "-1",
        "log_min_error_statement": "panic",
        "log_error_verbosity": "terse",
        "log_parameter_max_length_on_error": "0",
    }
    if major >= _EVENT_TRIGGERS_SETTING:
        values["event_triggers"] = "off"
    return values


def _clone_defaults(work: CloneWork) -> _Settings:
    segment = int(work.snapshot.facts.get("wal_segment_bytes", str(16 * _MiB))) // _MiB
    return {
        "timezone": "UTC",
        "shared_buffers": "64MB",
        "wal_level": "minimal",
        "max_wal_senders": "10" if work.parameters.get("wal_level", "minimal") != "minimal" else "0",
        # every byte written is a clone's own: keep little WAL, and never fill segments in advance
        "min_wal_size": f"{2 * segment}MB",
        "max_wal_size": f"{max(16 * segment, 256)}MB",
        "wal_recycle": "off",
        "wal_init_zero": "off",
        "checkpoint_timeout": "15min",
        "jit": "off",
    }


def _clone_rules(work: CloneWork) -> _Settings:
    return _common(int(work.snapshot.major)) | {
        "listen_addresses": "" if work.port is None else "*" if work.contained else work.host,
        "port": str(server.socket_port(work)),
        "unix_socket_directories": _sockets(work),
        "cluster_name": _cluster_name(work.clone),
    }


def _cluster_name(text: str) -> str:
    return text[:63]


def _sockets(work: server.Work) -> str:
    return _socket_directory(work.run_directory if work.software is None else contained.SOCKETS)


def _socket_directory(path: PurePath) -> str:
    """Quote a directory within the list that ``unix_socket_directories`` is."""
    return '"' + str(path).replace('"', '""') + '"'


def _people(account: Account | None, software: Software | None = None) -> list[str]:
    """Return the login names, as the server knows them, of the reconciler and of ``account``; root always may."""
    known = contained.login_names(software) if software is not None else {}
    uids = dict.fromkeys([0, os.geteuid(), *([account.uid] if account else [])])
    found = {uid: known.get(uid) or server.account_name(uid) for uid in uids}
    if found[os.geteuid()] is None:
        raise UnsupportedError(
            f"user id {os.geteuid()} has no login name on this host, and PostgreSQL cannot tell who connects",
            hint="add the user to /etc/passwd",
        )
    return [name for name in found.values() if name is not None]


def _networks(work: CloneWork) -> tuple[tuple[str, str], ...]:
    """Return (record type, network) of who may connect by TCP: this host, and what the configuration allows.

    Into a container, this host comes from the networks that it is in; so do their other containers.
    """
    if work.port is None:
        return ()
    own = ["127.0.0.0/8", "::1/128", *(["samenet"] if work.contained else [])]
    try:
        address = ipaddress.ip_address(work.host)
    except ValueError:
        address = None
    if address is not None and not address.is_loopback and not address.is_unspecified:
        own.append(f"{address}/{address.max_prefixlen}")
    far = "hostssl" if work.tls is not None else "host"
    return (*(("host", network) for network in own), *((far, str(ipaddress.ip_network(net))) for net in work.allow))


def _hba(networks: tuple[tuple[str, str], ...], *, reject: tuple[str, ...] = ()) -> str:
    lines = [
        f"local all all peer map={MAP}",
        *(f"host all {_quoted(name)} all reject" for name in reject if networks),
        *(f"{kind} all all {network} scram-sha-256" for kind, network in networks),
    ]
    return "\n".join(lines) + "\n"


def _ident(people: Mapping[str, list[str]]) -> str:
    rows = [f"{MAP} {_quoted(person)} {_quoted(role)}" for person, roles in people.items() for role in roles]
    return "\n".join(rows) + "\n"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _write(data: Path, values: Mapping[str, str], hba: str, ident: str, account: Account | None) -> None:
    lines = (f"{name} = '{_escaped(value)}'\n" for name, value in values.items())
    files.write_file(data, "postgresql.conf", "".join(lines), account)
    files.write_file(data, "postgresql.auto.conf", "", account)
    files.write_file(data, "pg_hba.conf", hba, account)
    files.write_file(data, "pg_ident.conf", ident, account)


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("'", "''")
