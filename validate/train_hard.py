"""Stage 3 with hard labels: train a student per seed on distilled images, test it on real ones.

    python -m validate.train_hard --output-dir results/dap_nette --val-dir imagenet/val

It needs no labels folder. Protocols: validate/hard_protocols.py. Under torchrun each process trains
its share of the seeds.
"""

import sys
from pathlib import Path

if not __package__:  # started by its path, without -m: rooms are found from the root
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from utils import distributed, report_to
from utils.distributed import print0
from utils.errors import own_work_begins, run_entry
from validate import hard_options


def main(argv=None):
    o = hard_options.parse(argv)
    # What follows needs PyTorch. It is imported here, so that --help answers at once.
    from validate.hard_experiment import open_experiment, open_study, print_study, summarise

    threads = distributed.set_threads(o.run.threads)
    device = distributed.choose_device(o.run.device)
    report_to.check(o.run.report_to)

    # Open and check everything.
    study = open_study(o, device)
    print_study(study, threads)
    own_work_begins()

    # Train and test. A finished student is not trained again.
    unfinished = []
    for seed in distributed.my_share(study.recipe.seeds):
        experiment = open_experiment(study, seed)
        folder, finished = experiment.folder, experiment.folder.result()
        if folder.path.exists():
            folder.settle(experiment.manifest)
        if finished is None:
            unfinished.append(seed)
        else:
            print0(f"already finished. {folder.summary(finished)}")
    if unfinished:
        train_students(study, unfinished, threads)

    # Keep and print top-1 over the seeds.
    distributed.barrier()
    if distributed.rank() == 0:
        summarise(study)
    distributed.leave_group()


def train_students(study, seeds, threads):
    """Train and test the students of these seeds, one after the other."""
    from data.image_set import PixelCache
    from validate.hard_experiment import open_experiment
    from validate.hard_training import train
    from validate.testing import decoded_pixels

    # Both sets are decoded once, for all seeds and before anything is written.
    pixels = study.images.cache_on(study.device)
    test = PixelCache(decoded_pixels(study.test, study.options.data), study.device)
    for seed in seeds:
        experiment = open_experiment(study, seed)
        result = train(experiment, pixels, test.pixels, threads)
        print0(f"{experiment.folder.summary(result)}; {experiment.folder.path}")


if __name__ == "__main__":
    run_entry(main)
