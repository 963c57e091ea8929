import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import resource
import torch
from utils.host_memory import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.empty(2**26, dtype=torch.uint8).fill_(1)  # 64 MB: 16384 pages
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(min(faults() for _ in range(20)))
keep_freed_memory()
print(min(faults() for _ in range(20)))  # some calls pass until a block of the right place is free
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_a_freed_block_is_used_again():
    """In a process of its own: what others have left in the heap decides where a block goes."""
    root = Path(__file__).parents[1]
    found = subprocess.run([sys.executable, "-c", PROGRAM], cwd=root, capture_output=True, text=True, check=True)
    before, after = map(int, found.stdout.split())
    assert after < max(100, before // 10)  # with huge pages a block has few
