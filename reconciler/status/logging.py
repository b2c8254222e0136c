"""Structured logging to standard error, for people or as JSON lines.

Set up once by the command line. Records of libraries that use the standard logging
module take the same way, so they are redacted too. Standard output stays free for
results.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, TextIO

from reconciler.status import redact

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from structlog.typing import Processor

    from reconciler.status.events import Event


def configure(*, json: bool = False, verbose: bool = False, stream: TextIO | None = None) -> None:
    """Send every log record to ``stream`` (default: standard error); a second call replaces the first.

    ``verbose`` shows debugging records of the reconciler; libraries are heard from warnings on.
    """
    import structlog  # noqa: PLC0415 - commands that log nothing must start fast

    output = sys.stderr if stream is None else stream
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: Processor = (
        structlog.processors.JSONRenderer(default=str)
        if json
        else structlog.dev.ConsoleRenderer(colors=output.isatty(), exception_formatter=structlog.dev.plain_traceback)
    )
    final: list[Processor] = [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        structlog.processors.format_exc_info,
        redact_event,
        renderer,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(output)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=final))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("reconciler").setLevel(logging.DEBUG if verbose else logging.INFO)


_LEVELS = {"trace": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def log_event(event: Event) -> None:
    """Write an event as a log record, for those who read the log of a loop and not its events."""
    import structlog  # noqa: PLC0415 - as above

    fields = {"object": str(event.object), "message": event.message, "revision": event.revision, **event.metadata}
    structlog.get_logger("reconciler.events").log(_LEVELS[event.severity], event.reason, **fields)


def redact_event(_logger: object, _method: str, event: MutableMapping[str, object]) -> MutableMapping[str, object]:
    """Take secrets out of one record; the last processor before rendering."""
    return redact.record(event)
