"""Saving and loading tensors without unpickling anything unsafe."""

import contextlib
import hashlib
import json
import os
import pickle
import re
import stat
import zipfile
import zlib

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from utils.errors import UserError, explain
from utils.files import write_bytes, written_whole


def save_tensors(path, tensors, about=None):
    """Write {name: tensor} as safetensors, whole or not at all.

    about: JSON-able dict, kept in the header beside a CRC-32 of everything.
    """
    tensors = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    content = json.loads(json.dumps(about or {}, sort_keys=True))
    header = {"content": content, "crc32": _crc32(tensors, content)}
    # One entry of metadata: safetensors writes several in random order. Not its save_file, which
    # writes to a temporary file of its own that nobody would remove after a kill.
    metadata = {"about": json.dumps(header, sort_keys=True)}
    write_bytes(path, save(tensors, metadata=metadata))


def read_header(path):
    """What save_tensors kept as `about`; {} for a file of another tool. Reads no tensor."""
    with _reading(path) as file:
        return _header(file).get("content", {})


def load_tensors(path):
    """Read ({name: tensor}, about) from a safetensors file; about is {} for other tools' files.

    Raises UserError for a file that is missing, damaged or does not match its checksum.
    """
    with _reading(path) as file:
        header = _header(file)
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
        if header and header["crc32"] != _crc32(tensors, header["content"]):
            raise ValueError("it does not match its checksum")
    return tensors, header.get("content", {})


@contextlib.contextmanager
def _reading(path):
    """An open safetensors file; what goes wrong inside becomes a UserError."""
    _check_opens(path)
    try:
        with safe_open(path, "pt") as file:
            yield file
    except (SafetensorError, ValueError, OSError) as error:
        raise UserError(f"{path}: damaged or not a safetensors file ({first_line(error)}). Remove "
                        "it and make it again.") from None


def _check_opens(path):
    """Raise UserError for a file that is missing, no file, or one without permission to read.

    safetensors calls all of these a missing file; opening a FIFO would never end.
    """
    try:
        if stat.S_ISREG(os.stat(path).st_mode) or os.path.isdir(path):
            with open(path, "rb"):
                return
        raise UserError(f"{path}: is no regular file, expected weights. Remove or rename it.")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file.") from None
    except OSError as error:
        raise UserError(explain(error) or f"{path}: cannot be read ({error.strerror}).") from None


def _header(file):
    """{"content", "crc32"} of a file of ours, {} of another tool's."""
    try:
        header = json.loads((file.metadata() or {})["about"])
        ours = isinstance(header["content"], dict) and isinstance(header["crc32"], int)
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return header if ours else {}


def _crc32(tensors, content):
    """CRC-32 of a JSON-able dict and of names, types, shapes and bytes of {name: tensor}."""
    crc = zlib.crc32(json.dumps(content, sort_keys=True).encode())
    for name in sorted(tensors):
        crc = zlib.crc32(_described(name, tensors[name]), crc)
        crc = zlib.crc32(_memory(tensors[name]), crc)
    return crc


def _described(name, tensor):
    return json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode()


def _memory(tensor):
    flat = tensor.contiguous().flatten()
    return flat.view(torch.uint8).numpy() if tensor.numel() else b""


def tensors_hash(tensors):
    """Hex SHA-256 over names, types, shapes and bytes of {name: tensor}."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu()
        digest.update(_described(name, tensor))
        digest.update(_memory(tensor))
    return digest.hexdigest()


def save_state(path, state):
    """Write a nested dict of tensors and plain values, to go on from, whole or not at all."""
    with written_whole(path) as temporary:
        try:
            with open(temporary, "wb") as file:  # given a path, torch would not say what failed
                torch.save(state, file)
        except RuntimeError as error:
            # torch hides a full disk or a signal to stop behind an error of its own.
            if isinstance(error.__context__, (OSError, KeyboardInterrupt)):
                raise error.__context__ from None
            raise


class UnsafePickle(UserError):
    """A file that could run code when it is read. held: the name of what it holds."""

    def __init__(self, path, held):
        super().__init__(f"{path}: holds {held}, expected tensors and plain values alone. Reading "
                         "anything else could run code, so it is not read. Ask its author for a "
                         "state dict (model.state_dict()).")
        self.held = held


def load_state(path):
    """Read what save_state or anybody's torch.save wrote, without running code.

    weights_only: nothing but tensors and plain values is unpickled. Storages are slices of the
    mapped file, so none is larger than the file. Raises UserError for a file that is missing,
    damaged or not safe.
    """
    _check_opens(path)
    try:
        zipped = zipfile.is_zipfile(path)
        if zipped:
            _check_archive(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:  # torch raises many kinds for a damaged file
        raise _not_loaded(path, error) from None


def _not_loaded(path, error):
    """The UserError for what torch.load raised, without its advice to switch weights_only off."""
    why = first_line(error)
    if isinstance(error, pickle.UnpicklingError):
        unsafe = re.search(r"GLOBAL (\S{1,80})", str(error))
        if unsafe:
            return UnsafePickle(path, unsafe[1])
        why = "it is no pickle of tensors and plain values"
    return UserError(f"{path}: damaged or not safe to load ({why}). Remove it and run this again.")


def _check_archive(path):
    """Raise ValueError unless the members of a zip file are as PyTorch writes them.

    Compressed members could swell. Checksums are there unless they were switched off.
    """
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if any(member.compress_type for member in members):
            raise ValueError("it holds compressed members, which PyTorch never writes")
        if any(member.CRC for member in members) and archive.testzip():
            raise ValueError("it does not match its checksum")


def first_line(error):
    """The first line of an error's message, or its type."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
