"""Steps of a longer run: a banner with the command for each, and how long it took."""

import shlex
import time
from pathlib import Path

from utils import run_folder

ROOT = Path(__file__).resolve().parents[1]


class Steps:
    """Call stages' entries one after the other in this process (importing PyTorch takes seconds, so once).

    total: number of steps, for the banners. timings: JSON file that keeps the seconds of each step's first complete run, so
    that a second start, which finds the step finished, still knows them.
    """

    def __init__(self, total, timings):
        self.total, self.timings, self.count = total, timings, 0
        self.seconds = run_folder.read_json(timings, "an earlier start") if timings.exists() else {}

    def run(self, title, entry, *options):
        """Run entry.main(options); entry is a stage's entry module. Finished work is skipped by the stage itself."""
        options = [str(option) for option in options]
        self.count += 1
        shown = [option.removeprefix(f"{ROOT}/") for option in options]  # as one would type it in the project's root
        command = shlex.join(["python", "-m", entry.__spec__.name, *shown])
        print(f"\n=== {self.count}/{self.total}  {title}\n$ {command}", flush=True)
        begin = time.perf_counter()
        entry.main(options)
        known = self.seconds.get(title)
        if known is None or known["command"] != command:
            self.seconds[title] = {"seconds": round(time.perf_counter() - begin, 1), "command": command}
            run_folder.write_json(self.timings, self.seconds)
