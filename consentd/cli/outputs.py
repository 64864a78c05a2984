"""The files that verbs write: where they may be, and who may read them."""

import argparse
import os
from pathlib import Path


def output_path(text: str) -> Path:
    """Return the path of a file that a verb writes when its work is done. An argparse type.

    A directory that does not exist is noticed before the work: after a write that the daemon recorded, the error would
    look as if the outcome were unknown.
    """
    path = Path(text)
    if text == "-" or (path.exists() and not path.is_file() and not path.is_dir()):
        return path  # stdout, a pipe or a device
    directory = path.parent
    if path.is_dir() or not directory.is_dir():
        raise argparse.ArgumentTypeError(f"is a directory, or its directory does not exist: `{text}`")
    if not os.access(directory, os.W_OK | os.X_OK):
        raise argparse.ArgumentTypeError(f"its directory cannot be written to: `{text}`")
    return path


def write_evidence(path: Path, content: bytes, what: str) -> None:
    """Write a file that only its owner can read, because the content is from persons' entries."""
    from consentd.audit.sources import write_file

    write_file(path, content, is_private=True, what=what)
