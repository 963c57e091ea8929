"""Saving and loading tensors without unpickling anything unsafe."""

import contextlib
import hashlib
import json
import os
import zipfile
import zlib
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from utils.errors import UserError
from utils.files import sha256_file, write_bytes, written_whole

_SEAL = b"\nsha256 "


@contextlib.contextmanager
def _as_it_was():
    """torch hides what happened while it wrote (a full disk, a signal to stop) in an error of its own: raise the first one."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error.__context__, (OSError, KeyboardInterrupt)):  # of the Python file that torch.save writes to
            raise error.__context__ from None
        raise


def save_tensors(path, tensors, about=None):
    """Write {name: tensor} as safetensors, whole or not at all. about: JSON-able dict kept in the header, beside a CRC-32."""
    tensors = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    content = json.loads(json.dumps(about or {}, sort_keys=True))
    text = json.dumps({"content": content, "crc32": _crc32(tensors, content)}, sort_keys=True)
    # one entry of metadata: safetensors writes several in random order. Not save_file, which has a temporary file of its own:
    # nobody would remove it after a kill
    write_bytes(path, save(tensors, metadata={"about": text}))


def load_tensors(path):
    """Read ({name: tensor}, about) from a safetensors file; about is {} in files of other tools.

    A forged header costs no memory: safetensors accepts only shapes that fill the file exactly.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such file.")
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {}).get("about", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, ValueError, RecursionError, OSError) as error:
        raise UserError(f"{path}: damaged or not a safetensors file ({error}). Remove it and make it again.") from None
    if isinstance(about, dict) and not {"content", "crc32"} & set(about):
        return tensors, about  # of another tool, or of ours before there were checksums
    if not isinstance(about, dict) or not isinstance(about.get("content"), dict) or about.get("crc32") != _crc32(
            tensors, about["content"]):
        raise UserError(f"{path}: does not match its checksum, the file is damaged. Remove it and make it again.")
    return tensors, about["content"]


def _crc32(tensors, content):
    """CRC-32 of a JSON-able dict and of names, types, shapes and bytes of {name: tensor}."""
    crc = zlib.crc32(json.dumps(content, sort_keys=True).encode())
    for name in sorted(tensors):
        crc = zlib.crc32(json.dumps([name, str(tensors[name].dtype), list(tensors[name].shape)]).encode(), crc)
        crc = zlib.crc32(_memory(tensors[name]), crc)
    return crc


def _memory(tensor):
    return tensor.contiguous().flatten().view(torch.uint8).numpy() if tensor.numel() else b""


def save_state(path, state):
    """Write a nested dict of tensors and plain values (to go on from), whole or not at all; at its end a SHA-256 of the rest."""
    with written_whole(path) as temporary, _as_it_was():
        with open(temporary, "wb") as file:
            torch.save(state, file)
        digest = sha256_file(temporary)
        with open(temporary, "ab") as file:
            file.write(_SEAL + digest.encode())


def load_state(path):
    """Read what save_state wrote. Raises UserError for anything that is not sealed by the SHA-256 of its content."""
    path = Path(path)
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END) - len(_SEAL) - 64
        file.seek(max(0, size))
        seal = file.read()
        file.seek(0)
        digest = hashlib.sha256()
        while size > 0 and (block := file.read(min(size, 1 << 20))):
            digest.update(block)
            size -= len(block)
    if seal != _SEAL + digest.hexdigest().encode():
        raise UserError(f"{path}: does not match its checksum, the file is damaged. Remove it and run this again.")
    return load_pickled(path)


def load_pickled(path):
    """Read a file of torch.save from anybody, without running code or believing the sizes it claims.

    weights_only: nothing but tensors and plain values is unpickled. Storages are slices of the mapped file, so none is larger
    than what is there; compressed members, which could swell, are refused.
    """
    try:
        zipped = zipfile.is_zipfile(path)
        if zipped:
            with zipfile.ZipFile(path) as archive:
                if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                    raise ValueError("it holds compressed members, which PyTorch never writes")
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except FileNotFoundError:
        raise
    except Exception as error:  # torch raises many kinds for a damaged file
        first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: damaged or not safe to load ({first_line}). Remove it and run this again.") from None


def check_optimizer(optimizer):
    """Raise ValueError when a loaded optimizer state does not fit its parameters."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, torch.Tensor) and value.numel() != 1 and value.shape != parameter.shape:
                raise ValueError(f"{name} of shape {list(value.shape)} for a parameter of {list(parameter.shape)}")


def tensors_hash(tensors):
    """Hex SHA-256 over names, types, shapes and bytes of {name: tensor}."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        t = tensors[name].detach().cpu().contiguous()
        digest.update(json.dumps([name, str(t.dtype), list(t.shape)]).encode())
        digest.update(t.flatten().view(torch.uint8).numpy().tobytes() if t.numel() else b"")
    return digest.hexdigest()
