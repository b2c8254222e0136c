"""Settings of builds and clones: one file beside the data, and no other is read.

Called by ``engine``. What a source brought along (my.cnf, backup-my.cnf, mysqld-auto.cnf)
is never used: it can name plug-ins, primaries and files of production.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from reconciler import proc
from reconciler.engines import files
from reconciler.engines.mysql import contained, parameters, server
from reconciler.errors import CommandError, UnsupportedError
from reconciler.handover import give

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path, PurePath

    from reconciler.engines.base import BuildWork, CloneWork, InstalledServer
    from reconciler.engines.mysql.product import Product
    from reconciler.proc import Account

_MiB = 1 << 20
BUILD_LOG_MIB = 128
SEALED_LOG_MIB = 32
"""Redo of snapshots, and so of clones: what is written into it is a clone's own."""
LAYOUT = ("innodb_page_size", "innodb_data_file_path", "innodb_undo_tablespaces", "lower_case_table_names")
"""Settings that belong to a data directory: its server does not start, or does not find its tables, with others."""

COMMON: Mapping[str, str] = {
    "skip_name_resolve": "ON",
    "skip_log_bin": "ON",
    "skip_slave_start": "ON",
    "local_infile": "OFF",
    "event_scheduler": "OFF",
    "general_log": "OFF",
    "slow_query_log": "OFF",
    "log_output": "FILE",
    "innodb_buffer_pool_load_at_startup": "OFF",
    "innodb_buffer_pool_dump_at_shutdown": "OFF",
    "innodb_temp_data_file_path": "ibtmp1:1M:autoextend",
    "innodb_autoextend_increment": "1",  # MiB by which that grows: it is a clone's own
    "character_set_server": "utf8mb4",
    "key_buffer_size": "8M",
    "loose_aria_pagecache_buffer_size": "16M",
}
_WATCH_ONLY_CONNECTIONS: Mapping[str, str] = {
    # Who is connected, and as which program: the performance schema knows. All else of it is left out.
    "performance_schema": "ON",
    "performance_schema_users_size": "200",
    "performance_schema_accounts_size": "0",
    "performance_schema_hosts_size": "0",
    "performance_schema_setup_actors_size": "10",
    "performance_schema_session_connect_attrs_size": "512",
    "performance_schema_max_thread_instances": "1000",
    "performance_schema_max_thread_classes": "100",
    **{
        f"performance_schema_{name}": "0"
        for name in (
            *("digests_size", "max_cond_classes", "max_cond_instances", "max_file_classes", "max_file_handles"),
            *("max_file_instances", "max_mutex_classes", "max_mutex_instances", "max_rwlock_classes"),
            *("max_rwlock_instances", "max_socket_classes", "max_socket_instances", "max_stage_classes"),
            *("max_statement_classes", "max_table_handles", "max_table_instances", "setup_objects_size"),
            *("max_memory_classes", "max_metadata_locks", "max_prepared_statements_instances"),
            *("max_program_instances", "max_statement_stack", "max_index_stat", "max_table_lock_stat"),
            *(f"events_{kind}_history_size" for kind in ("waits", "stages", "statements", "transactions")),
            *(f"events_{kind}_history_long_size" for kind in ("waits", "stages", "statements", "transactions")),
        )
    },
}


def check_values(product: Product, installed: InstalledServer, wanted: Mapping[str, str]) -> None:
    """Insist that the server takes the settings of a document: its program is asked, and starts nothing.

    Raises:
        UnsupportedError: a name or a value is not the server's.

    """
    if not wanted or installed.origin == "container":  # there, the server's start tells
        return
    program = server.server_program(product, installed)
    words = [f"--{name}={value}" for name, value in parameters.canonical(wanted).items()]
    try:
        proc.run([program, "--no-defaults", *words, "--verbose", "--help"], env=server.environment(), timeout=60)
    except CommandError as error:
        told = [line.partition("[ERROR]")[2].strip() for line in error.stderr.splitlines() if "[ERROR]" in line]
        raise UnsupportedError(
            f"the server refuses a parameter: {told[0] if told else 'it does not say which'}", reason="ParameterInvalid"
        ) from error


def write_build(
    work: BuildWork, product: Product, layout: Mapping[str, str], more: Mapping[str, str] | None = None
) -> None:
    """Write the settings of a build's private server; ``layout`` are those of its data directory.

    ``more`` are settings of the work that it begins with.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    values = {
        **COMMON,
        "innodb_buffer_pool_size": f"{max(64, min(512, memory // 16 // _MiB))}M",
        "innodb_log_file_size": f"{BUILD_LOG_MIB}M",
        "max_allowed_packet": "1G",
        **product.settings,
        **parameters.canonical(work.parameters),
        **rules(work, product),
        # a build that crashes is thrown away, and storage writes all of it out before it is sealed
        "innodb_flush_log_at_trx_commit": "0",
        "innodb_doublewrite": "OFF",
        "innodb_fast_shutdown": "0",  # purge: nothing that was deleted waits for that in a snapshot
        "innodb_change_buffering": "none",
        "event_scheduler": "OFF",
        "performance_schema": "OFF",
        "skip_networking": "ON",
        **product.build_settings,
        **layout,
        **(more or {}),
    }
    write(work, values, work.account)


def write_clone(work: CloneWork, product: Product, layout: Mapping[str, str]) -> None:
    """Write the settings of a clone."""
    chosen = parameters.canonical(work.parameters)
    values = {
        **COMMON,
        **_WATCH_ONLY_CONNECTIONS,
        "innodb_buffer_pool_size": "64M",
        "innodb_log_file_size": f"{SEALED_LOG_MIB}M",
        "innodb_use_native_aio": "OFF",  # the kernel gives contexts for it to few servers of a host
        "max_allowed_packet": "64M",
        "max_connections": "100",
        **product.settings,
        **chosen,
        **rules(work, product),
        **layout,
    }
    if work.port is None:
        values["skip_networking"] = "ON"
    elif work.contained:
        values |= {"port": str(contained.PORT), "bind_address": contained.address(work.host)}
    else:
        values |= {"port": str(work.port), "bind_address": work.host}
    if work.tls is not None:
        files.write_file(work.directory, "server.crt", work.tls[0].read_bytes(), work.account)
        files.write_file(work.directory, "server.key", work.tls[1].read_bytes(), work.account)
        values |= {"ssl_cert": str(work.directory / "server.crt"), "ssl_key": str(work.directory / "server.key")}
    write(work, values, work.account)


def temporary(work: server.Served) -> Path:
    """Return the directory for a server's temporary files, which is made."""
    path = work.directory / "tmp"
    if not path.is_dir():
        path.mkdir(mode=0o700)
        give(path, work.account)
    return path


def run_directory(work: server.Served) -> PurePath:
    """Return where the server finds its run directory."""
    return contained.RUN if contained.is_contained(work) else work.run_directory


def rules(work: server.Served, product: Product) -> dict[str, str]:
    """Return the settings of every server of ours that nobody may change."""
    temporary_files, run = temporary(work), run_directory(work)
    return {
        "datadir": str(server.data_directory(work)),
        "socket": str(run / server.socket(work).name),
        "pid_file": str(run / server.pid_file(work).name),
        "tmpdir": str(temporary_files),
        "secure_file_priv": product.no_files(temporary_files),
        "init_file": str(run / server.INIT_FILE),
        "local_infile": "OFF",
        "skip_log_bin": "ON",
    }


def write(
    work: server.Served,
    values: Mapping[str, str],
    account: Account | None,
    *,
    repeated: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Write the only file of settings that a server reads; ``repeated`` are those that are given several times."""
    pairs = [*values.items(), *((name, one) for name, several in (repeated or {}).items() for one in several)]
    lines = (f"{name} = {_escaped(value)}\n" for name, value in pairs)
    files.write_file(work.directory, server.settings_file(work).name, "[mysqld]\n" + "".join(lines), account)


def _escaped(value: str) -> str:
    if value == "NULL":
        return value
    return '"' + value.replace("\\", "\\\\") + '"'
