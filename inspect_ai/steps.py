"""Output folders: each belongs to one command with one input, and says how far it got.

`run.json` names the command and a fingerprint of its inputs. The same command finds its own
unfinished folder and goes on, or its own finished one and has nothing to do; anything else is
refused. Files appear by a move, so that a kill leaves the old content or the new one.
"""

import errno
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from inspect_ai import __version__
from inspect_ai.errors import MissingData, NoSpace, OutputInUse

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

RECORD, LOCK = "run.json", "lock.part"


class Step:
    """The output folder of one command."""

    def __init__(self, command: str, out: Path, inputs: dict[str, Any]) -> None:
        """Takes the folder.

        Args:
            inputs: what the result depends on; hashed into the fingerprint.

        Raises:
            OutputInUse: the folder holds something else.
        """
        self.out = out
        fingerprint = _hash({"command": command, **inputs})
        found = _owned(out, command, fingerprint)
        self.finished = bool(found and found["state"] == "finished")
        self.record = found or {
            "command": command,
            "state": "unfinished",
            "fingerprint": fingerprint,
            "version": __version__,
            "started_at": now(),
        }
        if not found:
            _made(out)
            with disk(out):
                write_json(out / RECORD, self.record)

    def describe(self, **fields: Any) -> None:
        """Writes down what is known before the work is done, for whoever looks meanwhile."""
        self.record |= fields
        with disk(self.out):
            write_json(self.out / RECORD, self.record)

    def finish(self, **fields: Any) -> None:
        """Marks the work as done, with what a user should know of it."""
        self.record |= {"state": "finished", "finished_at": now(), **fields}
        with disk(self.out):
            write_json(self.out / RECORD, self.record)
        self.finished = True


def read_record(folder: Path, command: str) -> dict[str, Any]:
    """The finished run.json of an earlier step.

    Raises:
        MissingData: the folder is not that command's finished work.
    """
    record = _read(folder / RECORD)
    if record is None or record.get("command") != command:
        raise MissingData(
            f"{folder} is not a folder that 'inspect-ai {command}' wrote. Pass one that it did."
        )
    if record["state"] != "finished":
        raise MissingData(
            f"{folder} is unfinished. Run the same 'inspect-ai {command}' again to finish it."
        )
    return record


def is_finished(folder: Path) -> bool:
    """Whether a step has finished its work there."""
    found = _read(folder / RECORD)
    return found is not None and found["state"] == "finished"


def write_json(path: Path, fields: dict[str, Any]) -> None:
    """Writes strict JSON in one move."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(fields, indent=2, allow_nan=False, default=str), encoding="utf-8")
    part.replace(path)


def sha256(path: Path) -> str:
    """Hash of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def now() -> str:
    """The time, to the second, with its zone."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@contextmanager
def disk(out: Path) -> Iterator[None]:
    """Turns a full or forbidden disk into one clear message.

    Raises:
        NoSpace, OutputInUse
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(
                f"The disk of {out} is full. Nothing written so far is lost: free some space and "
                "run the same command again."
            ) from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            raise OutputInUse(
                f"Cannot write to {out}: {error.strerror}. Pass another --out."
            ) from error
        raise


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keeps a second process out of a folder; a kill lets go of it.

    Raises:
        OutputInUse: another process writes there now.
    """
    with (folder / LOCK).open("w") as file:
        try:
            if sys.platform == "win32":
                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise OutputInUse(
                f"Another process writes to {folder} now. Wait for it, or pass another --out."
            ) from None
        yield
    (folder / LOCK).unlink(missing_ok=True)


def _made(out: Path) -> None:
    try:
        with disk(out):
            out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputInUse(f"Cannot make {out}: {error.strerror}. Pass another --out.") from error


def _owned(out: Path, command: str, fingerprint: str) -> dict[str, Any] | None:
    if not out.exists() or (out.is_dir() and all(p.suffix == ".part" for p in out.iterdir())):
        return None  # new, empty, or killed while the record was being written
    found = _read(out / RECORD) if out.is_dir() else None
    if found is None:
        raise OutputInUse(
            f"{out} already holds something that 'inspect-ai {command}' did not write. "
            "Pass a new folder with --out."
        )
    if found.get("command") != command or found.get("fingerprint") != fingerprint:
        raise OutputInUse(
            f"{out} belongs to an 'inspect-ai {found.get('command')}' with other inputs. "
            "Pass a new folder with --out, or the inputs it was begun with."
        )
    return found


def _read(path: Path) -> dict[str, Any] | None:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and "state" in record else None


def _hash(fields: dict[str, Any]) -> str:
    text = json.dumps(fields, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def fsync(path: Path) -> None:
    """Makes a file's content survive a power cut before its name points at it."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
