"""Files that appear whole or not at all, and questions to their disk."""

import contextlib
import hashlib
import json
import os
import re
import shutil
import socket
import time
from pathlib import Path

from utils.distributed import print0
from utils.errors import UserError
from utils.progress import size_words


def _host():
    """The name of this machine and, on Linux, of its boot and of this container's processes.

    Machines of one name may share a disk, and containers number their processes apart.
    """
    name = socket.gethostname()
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
        name += f"-{boot}-{os.stat('/proc/self/ns/pid').st_ino}"
    return re.sub(r"[^A-Za-z0-9]", "-", name)


_HOST = _host()
_DAY = 24 * 3600
_LEFTOVER = re.compile(r"\..*\.([A-Za-z0-9-]+)\.(\d{1,10})\.tmp")


@contextlib.contextmanager
def written_whole(path):
    """Yield a temporary path beside `path`; on leaving, sync it and rename it to `path`.

    After an error the temporary file is removed and `path` is as it was. The temporary file is a
    new one, so processes that write the same file never write into each other's, and a link that
    somebody left in the folder is not followed. An OSError that leaves the block names `path`.
    """
    path = Path(path)
    temporary = _temporary(path)
    try:
        _create(temporary)
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        unnamed = error.filename is None or str(error.filename) == str(temporary)
        if error.errno is not None and unnamed:
            error.filename = str(path)
        raise
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


@contextlib.contextmanager
def whole_folder(option, folder):
    """Yield an empty folder beside `folder`, which becomes `folder` on leaving.

    After an error it is removed. Raises UserError where `folder` already holds something. option:
    that gave the folder, in words.
    """
    if folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"{option}: found files in {folder}, expected a new folder. Remove it, or "
                        "choose another one.")
    check_writable(folder.parent)
    temporary = folder.parent / f".{folder.name}.tmp"
    if temporary.exists():
        shutil.rmtree(temporary)  # of a command that was killed
    temporary.mkdir(parents=True)
    try:
        yield temporary
        if folder.is_dir():
            folder.rmdir()  # empty
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _temporary(path):
    """A name that nobody can foresee, which says whose file it is."""
    return path.parent / f".{path.name}.{os.urandom(4).hex()}.{_HOST}.{os.getpid()}.tmp"


def _create(temporary):
    """Make an empty file, which must not be there yet, and its folder.

    check_writable of another process may remove a folder that it made itself just after mkdir has
    seen it, so a few attempts are made.
    """
    for attempt in range(100):
        try:
            temporary.parent.mkdir(parents=True, exist_ok=True)
            temporary.touch(exist_ok=False)
            return
        except (FileNotFoundError, FileExistsError):
            if attempt == 99 or temporary.parent.is_file():
                raise


def write_bytes(path, data):
    """Write bytes whole or not at all."""
    with written_whole(path) as temporary:
        temporary.write_bytes(data)


def write_json(path, content):
    """Write JSON whole or not at all."""
    write_bytes(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())


def read_json(path, made_by):
    """Read a JSON object.

    made_by: the program that writes the file, for the error when it is missing or damaged.
    """
    try:
        content = json.loads(Path(path).read_bytes())
        if not isinstance(content, dict):
            raise ValueError("expected a JSON object")
    except FileNotFoundError:
        raise UserError(f"{path}: not found. It is written by {made_by}.") from None
    except (ValueError, RecursionError) as error:
        raise damaged(path, made_by, error) from None
    return content


def damaged(path, made_by, why):
    """The UserError for a file of ours that cannot be read as what it should be.

    made_by: the program that writes the file. why: an exception or a word.
    """
    text = str(why).splitlines()[0] if str(why) else type(why).__name__
    return UserError(f"{path}: damaged ({text}). Remove it and run {made_by} again, which makes "
                     "it anew.")


def leftovers(folder):
    """Yield (path, host, process) of every temporary file below `folder`."""
    for parent, _, names in os.walk(folder):
        for name in names:
            match = _LEFTOVER.fullmatch(name)
            if match:
                yield Path(parent, name), match[1], int(match[2])


def remove_leftovers(folder):
    """Remove temporary files below `folder` whose processes no longer live.

    Those of this machine are looked up. Of others, and of containers that have ended, a file counts
    as left over a day after it was written last.
    """
    for path, host, process in leftovers(folder):
        dead = host == _HOST and not _alive(process)
        if dead or _seconds_old(path) > _DAY:
            path.unlink(missing_ok=True)


def _seconds_old(path):
    """Seconds since a file was written last; 0 where it is gone."""
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _alive(process):
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):  # larger than any process number
        return False
    except PermissionError:
        return True
    return True


def sha256_file(path):
    """Hex SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def free_bytes(folder):
    """Free bytes on the disk of `folder`, which need not exist yet."""
    folder = Path(folder)
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(existing).free


def check_space(stage, folder, needed, advice):
    """Print how many bytes a stage will write and how many are free; nothing where there are none.

    Raises UserError, which ends in `advice`, when there are too few.
    """
    if needed <= 0:
        return
    free = free_bytes(folder)
    print0(f"{stage}: about {size_words(needed)} to write, {size_words(free)} free")
    if needed > free:
        raise UserError(f"{folder}: about {size_words(needed)} will be written, the disk has "
                        f"{size_words(free)} free. {advice}")


def check_writable(folder):
    """Raise UserError when nothing can be written in `folder`; folders made for the attempt go."""
    folder = Path(folder)
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    probe = _temporary(folder / "probe")
    try:
        try:
            _create(probe)
            probe.write_bytes(b"x")
        finally:
            if probe.exists():
                probe.unlink()
            for path in made:
                with contextlib.suppress(OSError):  # another process may have written there
                    path.rmdir()
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}). "
                        "Choose another folder.") from None
