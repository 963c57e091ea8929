"""Files of a run folder: written whole or not at all, compared before anything is mixed.

results/NAME/
  images/        nothing but class folders of images
  images.json    what the images are: dataset, classes, every option that changes pixels
  units/         a record per finished unit of recover (its done-marker), checkpoints of unfinished ones
  previews/      a picture each of the first slices or batches
  selection/     which real images or crops the images started from, where a net chose them
  labels/        epoch_000.safetensors ...     labels.json
  students/NAME/ last, best, state, metrics.jsonl, result.json, curve.png
"""

import contextlib
import hashlib
import json
import os
import platform
import re
import shutil
import socket
from pathlib import Path

import torch

from utils.distributed import print0
from utils.errors import UserError
from utils.progress import size_words

_HOST = re.sub(r"[^A-Za-z0-9]", "-", socket.gethostname())
_SEAL = "sha256"  # the entry of a JSON file that holds a hash of the others
_LARGEST_JSON = 64 << 20  # bytes; the largest of ours, a record of some thousand images, has one
_LEFTOVER = re.compile(r"\..*\.([A-Za-z0-9-]+)\.(\d{1,10})\.tmp")


@contextlib.contextmanager
def written_whole(path):
    """Give a temporary name beside `path`; on leaving, sync it and rename it to `path`, or remove it after an error.

    The name holds host and process, so processes that meet on one file never write into each other's.
    An OSError that comes out of the block names `path`, also where the system gave no name (a write) or the temporary one.
    """
    path = Path(path)
    temporary = _temporary(path)
    try:
        _begin(temporary)
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.errno is not None and (error.filename is None or str(error.filename) == str(temporary)):
            error.filename = str(path)
        raise
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _temporary(path):
    return path.parent / f".{path.name}.{_HOST}.{os.getpid()}.tmp"


def _begin(temporary):
    """Make an empty file, and its folder. Another process may just be removing that folder (check_writable): then once more."""
    for attempt in range(1000):
        try:
            temporary.parent.mkdir(parents=True, exist_ok=True)
            temporary.touch()
            return
        except (FileNotFoundError, FileExistsError):  # it was there when mkdir looked, and gone when it looked again
            if attempt == 999 or temporary.parent.is_file():
                raise


def leftovers(folder):
    """(path, host, process) of the temporary files below `folder`."""
    for where, _, names in os.walk(folder):  # which overlooks folders that vanish meanwhile
        for name in names:
            match = _LEFTOVER.fullmatch(name)
            if match:
                yield Path(where, name), match[1], int(match[2])


def remove_leftovers(folder):
    """Remove temporary files below `folder` left by processes of this machine that are no longer alive."""
    for path, host, process in leftovers(folder):
        if host == _HOST and not _alive(process):
            path.unlink(missing_ok=True)


def _alive(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def write_bytes(path, data):
    """Write bytes whole or not at all."""
    with written_whole(path) as temporary:
        temporary.write_bytes(data)


def write_json(path, content):
    """Write JSON whole or not at all."""
    write_bytes(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())


def write_sealed(path, content):
    """write_json of an object, with a SHA-256 of what it says: read_json then notices any change."""
    content = json.loads(json.dumps({name: value for name, value in content.items() if name != _SEAL}))
    write_json(path, {**content, _SEAL: _digest_of(content)})


def _digest_of(content):
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_json(path, made_by):
    """Read a JSON object; one of write_sealed must match its SHA-256, which is left out.

    made_by: what makes the file, for the error when it is missing or damaged.
    """
    try:
        with open(path, "rb") as file:
            text = file.read(_LARGEST_JSON + 1)
        if len(text) > _LARGEST_JSON:
            raise ValueError(f"more than {_LARGEST_JSON >> 20} MB")
        content = json.loads(text)
        if not isinstance(content, dict):
            raise ValueError("expected a JSON object")
        digest = content.pop(_SEAL, None)
        sealed = digest is None or digest == _digest_of(content)
    except FileNotFoundError:
        raise UserError(f"{path}: not found. It is written by {made_by}.") from None
    except RecursionError:
        raise UserError(f"{path}: damaged (nested too deep). It is written by {made_by}; remove it and run that again.") from None
    except ValueError as error:
        raise UserError(f"{path}: damaged ({error}). It is written by {made_by}; remove it and run that again.") from None
    if not sealed:
        raise UserError(f"{path}: does not match its checksum. Was it changed by hand? It is written by {made_by}; put it back, or "
                        "remove it and run that again.")
    return content


def manifest_hash(content):
    """Hex SHA-256 of the parts of a manifest that change numbers: options and identity."""
    return hashlib.sha256(json.dumps([content.get("options"), content.get("identity")], sort_keys=True).encode()).hexdigest()


def read_manifest(path, made_by):
    """read_json of a manifest: {"options": {...}, "identity": {...}, ...}."""
    content = read_json(path, made_by)
    for part in ("options", "identity"):
        if not isinstance(content.get(part, {}), dict):
            raise UserError(f"{path}: {part} is not an object. It is written by {made_by}; put it back, or move it away and run "
                            "that again.")
    return content


def settle_manifest(path, content, how_to_restart):
    """Write a manifest once, or check that the one there says the same.

    content["options"]: {name: value}, every option that changes the result; another value is refused by name.
    content["identity"]: likewise, for facts found (classes, hashes of weights). Anything else (versions) is only noted.
    Returns the manifest on disk.
    """
    path = Path(path)
    content = json.loads(json.dumps(content))  # tuples become lists, as in the file
    if not path.exists():
        write_sealed(path, content)
        return content
    found = read_manifest(path, "this command")
    for part in ("options", "identity"):
        there, here = found.get(part, {}), content.get(part, {})
        for name in sorted(set(there) | set(here)):
            if there.get(name) != here.get(name):
                raise UserError(f"{path}: was made with {name} = {_short(there.get(name))}, now {name} = "
                                f"{_short(here.get(name))}. {how_to_restart}")
    return found


def _short(value):
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:60] + f"... ({len(text)} characters)"


def versions():
    """Versions that a result is stored with."""
    import torchvision

    return {"python": platform.python_version(), "torch": torch.__version__, "torchvision": torchvision.__version__}


def sha256_file(path):
    """Hex SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(file)


def _digest(file):  # Python 3.10 has no hashlib.file_digest
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def free_bytes(folder):
    """Free bytes on the disk that `folder` lies on, or will lie on."""
    folder = Path(folder)
    return shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free


def check_space(stage, folder, needed, advice):
    """Print how many bytes a stage will write and how many are free; raise UserError, which ends in `advice`, for too few."""
    free = free_bytes(folder)
    print0(f"{stage}: about {size_words(needed)} to write, {size_words(free)} free")
    if needed > free:
        raise UserError(f"{folder}: about {size_words(needed)} will be written, the disk has {size_words(free)} free. {advice}")


def check_writable(folder):
    """Try to write in `folder`, before anything expensive starts; folders made for that are removed again."""
    folder = Path(folder)
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    probe = _temporary(folder / "probe")
    try:
        try:
            _begin(probe)
            probe.write_bytes(b"x")
        finally:
            if probe.exists():
                probe.unlink()
            for path in made:
                with contextlib.suppress(OSError):  # another process may have begun to write there
                    path.rmdir()
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}). Choose another folder.") from None
