"""How the processes of a gateway say what they do: JSON lines on standard error, plain text on a terminal."""

import sys

import structlog


def configure(*, json: bool | None = None) -> structlog.stdlib.BoundLogger:
    """Set structlog up and return the logger. What is passed to it must hold no token and no key. `json` chooses, where
    it is not the terminal that does.
    """
    terminal = sys.stderr.isatty()
    console = terminal if json is None else not json
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.dev.ConsoleRenderer(colors=terminal) if console else structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    logger: structlog.stdlib.BoundLogger = structlog.get_logger()
    return logger
