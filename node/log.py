"""Logging. Our own loggers say a sentence and facts; foreign loggers may say where they spoke, never what they said."""

from __future__ import annotations

import logging
import sys

_STANDARD = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class _Line(logging.Formatter):
    """`time level where: sentence fact=value …`; an exception that is not ours is shown by type and place only."""

    def format(self, record: logging.LogRecord) -> str:
        when = self.formatTime(record, "%Y-%m-%dT%H:%M:%S")
        head = f"{when}.{int(record.msecs):03d} {record.levelname.lower():7} {record.name}"
        if not record.name.startswith("node"):
            return f"{head}: spoke at {record.module}:{record.lineno}"
        facts = " ".join(f"{k}={v}" for k, v in vars(record).items() if k not in _STANDARD)
        line = f"{head}: {record.getMessage()}" + (f" {facts}" if facts else "")
        if record.exc_info and record.exc_info[0]:
            line += f" [{where_it_failed(record.exc_info[1])}]"
        return line


def where_it_failed(why: BaseException | None) -> str:
    """Type and place of an exception, without its text: foreign texts may quote a dataset."""
    if why is None:
        return ""
    trace = why.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f" at {trace.tb_frame.f_code.co_filename.rsplit('/', 1)[-1]}:{trace.tb_lineno}" if trace else ""
    return type(why).__name__ + place


def set_up(level: str = "INFO") -> None:
    """Send everything to stderr in one form. Called once, by the front door."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Line())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("node").setLevel(level)
    logging.getLogger("apscheduler").setLevel(logging.ERROR)  # a chore that is still at work skips a turn: no news
    logging.captureWarnings(True)


def get(name: str) -> logging.Logger:
    """The logger of a room."""
    return logging.getLogger(name)
