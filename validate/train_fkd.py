"""Stage 3: train a student from scratch on distilled images and labels, test it on real images.

    python -m validate.train_fkd --output-dir results/prism_r18_ipc10 --val-dir imagenet/val
"""

import sys
from pathlib import Path

if not __package__:  # started by its path, without -m: rooms are found from the root
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from utils import distributed, report_to
from utils.distributed import print0
from utils.errors import run_entry
from validate import options


def main(argv=None):
    o = options.parse(argv)
    # What follows needs PyTorch. It is imported here, so that --help answers at once.
    from validate.experiment import prepare, print_experiment
    from validate.testing import evaluate
    from validate.training import train

    threads = distributed.set_threads(o.run.threads)
    device = distributed.choose_device(o.run.device)
    report_to.check(o.run.report_to)
    if o.testing.evaluate is not None:
        if distributed.rank() == 0:
            evaluate(o, device)
        return

    # Open and check everything. A finished student is not trained again.
    experiment = prepare(o, device)
    folder = experiment.folder
    print_experiment(experiment, threads)
    finished = folder.result()
    if finished is not None:
        folder.settle(experiment.manifest)
        print0(f"already finished. {folder.summary(finished)}")
        return

    # Train and test; keep and print the result.
    result = train(experiment, threads)
    print0(f"{folder.summary(result)}; {folder.path}")


if __name__ == "__main__":
    run_entry(main)
