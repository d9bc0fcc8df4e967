"""How a file that was asked for is written: whole or not at all where it is one, and through to what it stands for.

A symbolic link stays one, and what it points to is written. What is no regular file (a device, a pipe) is written into,
not replaced. Knows nothing of what it writes.
"""

import errno
import os
import stat
import sys
import tempfile
from pathlib import Path


def write_file(path: Path, content: bytes) -> None:
    """Write a file: a regular one whole or not at all, by a new file that takes its place and has its permissions.

    Raises:
        OSError: it cannot be written; an older file is as it was. `filename` is the path as it was given.
    """
    try:
        stream = stream_of(path)
        if stream is not None:
            (sys.stdout if stream == 1 else sys.stderr).flush()
            _write_all(stream, content)
        elif path.exists() and not path.is_file():
            with path.open("wb", buffering=0) as file:
                _write_all(file.fileno(), content)
        else:
            target = Path(os.path.realpath(path))
            if target.is_symlink():
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            replace_file(target, content)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def stream_of(path: Path) -> int | None:
    """1 or 2 where a path is the very file, pipe or terminal to which standard output or standard error goes.

    Such a file is not opened once more, at its beginning, and is not replaced: what was printed is in it already.
    """
    for stream in (1, 2):
        try:
            there, ours = os.stat(path), os.fstat(stream)
        except OSError:
            continue
        if os.path.samestat(there, ours):
            return stream
    return None


def replace_file(path: Path, content: bytes) -> None:
    """Put a regular file in the place of what is there, with the permissions of that: whole or not at all.

    Raises:
        OSError: it cannot be written; what is there is as it was.
    """
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(temporary, _mode(path))
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _mode(path: Path) -> int:
    """The permissions of a file as it is, or as a new one has them."""
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except OSError:
        umask = os.umask(0)
        os.umask(umask)
        return 0o666 & ~umask


def _write_all(handle: int, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(handle, rest) :]
