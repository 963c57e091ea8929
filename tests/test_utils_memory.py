"""The memory of tensors on a CPU."""

import platform
import subprocess
import sys

import pytest

from utils import distributed

# Pages that are mapped while an array of 64 MB is made and dropped ten times
FAULTS = """
import resource
import numpy as np
{}
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    np.ones(8_000_000)
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * 4096 / 64e6)
"""
KEEP = "from utils.memory import keep_freed_blocks; keep_freed_blocks()"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone has the switch")
def test_blocks_are_mapped_once():
    mapped, again = (float(subprocess.run(
        [sys.executable, "-c", FAULTS.format(line)], capture_output=True, text=True,
        check=True).stdout) for line in (KEEP, ""))
    assert mapped < 2
    assert again > 2 * mapped  # with huge pages neither is ten


def test_on_a_cpu_alone(monkeypatch):
    calls = []
    monkeypatch.setattr(distributed, "keep_freed_blocks", lambda: calls.append("kept"))
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.set_device", lambda _: None)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    assert distributed.choose_device("auto").type == "cuda"
    assert not calls
    assert distributed.choose_device("cpu").type == "cpu"
    assert calls == ["kept"]
