import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_options_of_a_stage_are_not_taken_for_the_launchers(tmp_path):
    """torchrun abbreviates its own options: --start (of recover) and --log-every would be among them."""
    (tmp_path / "echo.py").write_text("import os, sys\nos.write(1, f'rank {os.environ[\"RANK\"]} {sys.argv[1:]}\\n'.encode())\n")
    env = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(tmp_path), "NGPU": "2", "OMP_NUM_THREADS": "1"}
    script = f'. "{ROOT}/utils/launch.sh"; launch echo --start noise --log-every 5 --role'
    done = subprocess.run(["sh", "-c", script], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == [f"rank {r} ['--start', 'noise', '--log-every', '5', '--role']" for r in (0, 1)]
