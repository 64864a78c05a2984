"""Write logs as JSON lines on stderr. No line has an identifier of a person, because no log message is given one."""

import json
import logging
import sys
import time
import traceback

from consentd.errors import ConsentdError


class JsonFormatter(logging.Formatter):
    """Formats a record as one JSON object: time, level, logger, message, the record's ``fields``, and its error."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a record's line, without a newline."""
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= getattr(record, "fields", {})
        if record.exc_info and record.exc_info[1] is not None:
            line["error"] = describe(record.exc_info[1])
        return json.dumps(line, ensure_ascii=False)


def describe(error: BaseException) -> str:
    """Return the type and the stack of an error and of its causes, first cause first.

    Only a declared error (``ConsentdError``) adds its message: the text of any other error may hold an identifier.
    """
    frames = [f"{frame.filename}:{frame.lineno} in {frame.name}" for frame in traceback.extract_tb(error.__traceback__)]
    text = f": {error}" if isinstance(error, ConsentdError) else ""
    cause = error.__cause__ or error.__context__
    first = f"{describe(cause)}; then " if cause is not None else ""
    return f"{first}{type(error).__name__}{text} at {' < '.join(reversed(frames))}"


def configure(level: str) -> None:
    """Send all logs of *level* and above to stderr, as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
