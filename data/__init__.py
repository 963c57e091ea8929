"""What flows between the stages: image sets, the run folder, augmentation, epoch plans, labels.

    import data
    dataset = data.load("results/prism_r18_ipc10")     # a torch Dataset, see data/reader.py
"""


def load(run_folder, workers=4):
    """The distilled dataset of a run folder as a torch Dataset: see data.reader.load."""
    from data import reader  # imports PyTorch, which the options of the stages do not need

    return reader.load(run_folder, workers)
