"""Server settings that documents may ask for.

Called when specs are checked and when settings are written. A list of those that are
harmless, since the server takes any beginning of a name, prefixes such as ``loose_``, and
many settings that name files, libraries, programs or other servers. Pure functions only.
"""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING

from reconciler.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Mapping

_NAMES = """
alter_algorithm aria_pagecache_buffer_size auto_increment_increment auto_increment_offset autocommit
binlog_cache_size block_encryption_mode bulk_insert_buffer_size character_set_collations character_set_server
collation_server completion_type concurrent_insert connect_timeout cte_max_recursion_depth cte_recursion_depth
default_storage_engine default_table_encryption default_time_zone default_tmp_storage_engine default_week_format
div_precision_increment eq_range_index_dive_limit event_scheduler explicit_defaults_for_timestamp foreign_key_checks
ft_max_word_len ft_min_word_len generated_random_password_length group_concat_max_len histogram_size histogram_type
idle_transaction_timeout idle_write_transaction_timeout in_predicate_conversion_threshold innodb_adaptive_flushing
innodb_adaptive_hash_index innodb_autoinc_lock_mode innodb_buffer_pool_chunk_size innodb_buffer_pool_instances
innodb_buffer_pool_size innodb_change_buffering innodb_compression_default innodb_compression_level
innodb_deadlock_detect innodb_default_row_format innodb_doublewrite innodb_flush_log_at_trx_commit
innodb_flush_neighbors innodb_ft_enable_stopword innodb_ft_max_token_size innodb_ft_min_token_size
innodb_io_capacity innodb_io_capacity_max innodb_lock_wait_timeout innodb_log_buffer_size innodb_log_file_size
innodb_lru_scan_depth innodb_max_dirty_pages_pct innodb_online_alter_log_max_size innodb_page_cleaners
innodb_purge_threads innodb_read_io_threads innodb_redo_log_capacity innodb_rollback_on_timeout
innodb_snapshot_isolation innodb_sort_buffer_size innodb_spin_wait_delay innodb_stats_auto_recalc
innodb_stats_persistent innodb_stats_persistent_sample_pages innodb_strict_mode innodb_table_locks
innodb_thread_concurrency innodb_write_io_threads interactive_timeout join_buffer_size join_cache_level
key_buffer_size lock_wait_timeout long_query_time max_allowed_packet max_connections
max_error_count max_execution_time max_heap_table_size max_join_size max_length_for_sort_data
max_prepared_stmt_count max_recursive_iterations max_seeks_for_key max_sort_length max_sp_recursion_depth
max_statement_time max_user_connections myisam_sort_buffer_size net_buffer_length net_read_timeout net_write_timeout
old_mode optimizer_prune_level optimizer_search_depth optimizer_switch optimizer_use_condition_selectivity
query_alloc_block_size query_cache_limit query_cache_size query_cache_type range_alloc_block_size
range_optimizer_max_mem_size read_buffer_size read_rnd_buffer_size regexp_stack_limit regexp_time_limit
rowid_merge_buff_size sort_buffer_size sql_mode sql_require_primary_key sql_select_limit standard_compliant_cte
stored_program_cache system_versioning_alter_history table_definition_cache table_open_cache
table_open_cache_instances temptable_max_ram thread_cache_size thread_handling thread_pool_size thread_stack
time_zone tmp_memory_table_size tmp_table_size transaction_alloc_block_size transaction_isolation
transaction_prealloc_size tx_isolation updatable_views_with_limit use_stat_tables wait_timeout
windowing_use_high_precision
"""
_ALLOWED = frozenset(_NAMES.split())


def validate_parameters(parameters: Mapping[str, str]) -> list[str]:
    """Return what is wrong with settings of a document, one message each; values are not repeated."""
    return [message for name, value in parameters.items() for message in _problems(name, value)]


def check_parameters(parameters: Mapping[str, str]) -> None:
    """Raise UnsupportedError when a document asks for a setting that it may not have."""
    if problems := validate_parameters(parameters):
        raise UnsupportedError("; ".join(problems))


def canonical(parameters: Mapping[str, str]) -> dict[str, str]:
    """Return settings with their names as the server's variables are called."""
    return {_canonical(name): value for name, value in parameters.items()}


def _canonical(name: str) -> str:
    return name.lower().replace("-", "_")


def _problems(name: str, value: str) -> list[str]:
    wanted = _canonical(name)
    if wanted not in _ALLOWED:
        close = difflib.get_close_matches(wanted, _ALLOWED, n=1)
        meant = f"; did you mean {close[0]}?" if close else ""
        return [f"parameter {name} cannot be set: it is not among those that are known to be harmless{meant}"]
    if re.search(r"[\x00-\x1f\"]", value):
        return [f"the value of parameter {name} has a quotation mark or a control character"]
    return []
