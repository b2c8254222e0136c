"""Server settings that documents may ask for, and those that they may not.

Called when specs are checked, when settings are written, and for what a source brings
along. A refused setting names files, commands, libraries or addresses: with it a
document could reach beyond its own server. Settings of extensions can be anything, even
programs to run (``plperl.on_init``), so only those of known ones are allowed. Pure functions only.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from reconciler.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Mapping

_NAME = re.compile(r"[a-z_][a-z0-9_]*(\.[a-z_][a-z0-9_$]*)*", re.IGNORECASE)
_REFUSED = re.compile(
    r"""
      archive_.* | restore_command | recovery_.* | primary_.* | promote_trigger_file | synchronous_standby_names
    | ssl | ssl_.* | krb_.* | gss_.* | bonjour.* | listen_addresses | port | unix_socket_.* | oauth_.*
    | data_directory | config_file | hba_file | ident_file | external_pid_file | stats_temp_directory | include.*
    | log_directory | log_filename | log_file_mode | log_destination | logging_collector | syslog_.* | event_source
    | dynamic_library_path | extension_control_path | local_preload_libraries | session_preload_libraries | jit_provider
    | huge_pages | shared_memory_type | dynamic_shared_memory_type | max_logical_replication_workers
    | allow_system_table_mods | ignore_system_indexes | db_user_namespace | role | session_authorization | is_superuser
    | session_replication_role
    | backtrace_functions | debug_io_direct | sync_replication_slots | restart_after_crash | allow_alter_system
    """,
    re.VERBOSE | re.IGNORECASE,
)
PRELOAD = "shared_preload_libraries"
REQUIRED_PRELOADS = frozenset({"timescaledb", "citus"})
"""Libraries without which the data of their extensions cannot be read; others only act or measure."""

_EXTENSIONS = frozenset(
    {"auto_explain", "hnsw", "ivfflat", "pg_hint_plan", "pg_prewarm", "pg_qualstats", "pg_stat_kcache"}
    | {"pg_stat_statements", "pg_trgm", "pg_wait_sampling", "pgaudit", "plpgsql", "postgres_fdw"}
)
"""Extensions whose settings and libraries act on nothing but their own server: they measure, log, plan or search."""
_LIBRARIES = _EXTENSIONS | REQUIRED_PRELOADS


def validate_parameters(parameters: Mapping[str, str]) -> list[str]:
    """Return what is wrong with settings of a document, one message each; values are not repeated."""
    return [message for name, value in parameters.items() for message in _problems(name, value)]


def check_parameters(parameters: Mapping[str, str]) -> None:
    """Raise UnsupportedError when a document asks for a setting that it may not have."""
    problems = validate_parameters(parameters)
    if problems:
        raise UnsupportedError("; ".join(problems))


def refused(name: str) -> bool:
    """Tell whether a setting is the reconciler's alone, or of an extension that is not known to be harmless."""
    return _REFUSED.fullmatch(name) is not None or _of_unknown_extension(name)


def libraries(value: str) -> tuple[str, ...]:
    """Return the library names in a value of ``shared_preload_libraries``."""
    return tuple(part for part in (piece.strip().strip("\"'") for piece in value.split(",")) if part)


def raise_to_required(parameters: Mapping[str, str], required: Mapping[str, str]) -> dict[str, str]:
    """Return ``parameters`` (names in lower case) with the settings that the data needs.

    Raises:
        UnsupportedError: a parameter is lower than the data allows.

    """
    wishes = {name.lower(): value for name, value in parameters.items()}
    for name, least in required.items():
        wish = wishes.get(name)
        if wish is not None and wish.isdigit() and least.isdigit() and int(wish) < int(least):
            raise UnsupportedError(f"parameter {name} is {wish}; the snapshot cannot be served below {least}")
    if PRELOAD in required:
        both = (*libraries(required[PRELOAD]), *libraries(wishes.get(PRELOAD, "")))
        wishes[PRELOAD] = ",".join(dict.fromkeys(both))
    return dict(required) | wishes


def _problems(name: str, value: str) -> list[str]:
    if not _NAME.fullmatch(name):
        return [f"{name!r} is not a name of a PostgreSQL setting"]
    if _of_unknown_extension(name):
        known = ", ".join(sorted(_EXTENSIONS))
        why = f"of settings with a dot only those of {known} are known to be harmless"
        return [f"parameter {name} cannot be set: {why}; an application's own can be set in its sessions"]
    if refused(name):
        return [f"parameter {name} cannot be set: it is decided by the reconciler, not by a document"]
    if any(ord(character) < ord(" ") for character in value):
        return [f"the value of parameter {name} has a control character"]
    if name.lower() == PRELOAD and not _LIBRARIES.issuperset(libraries(value)):
        return [f"parameter {name} takes libraries that are known to be harmless: {', '.join(sorted(_LIBRARIES))}"]
    return []


def _of_unknown_extension(name: str) -> bool:
    prefix, dot, _ = name.lower().partition(".")
    return bool(dot) and prefix not in _EXTENSIONS
