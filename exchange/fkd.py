"""FKD label folders in and out: epoch_0/batch_0.tar ..., one torch.save file per batch.

    python -m exchange.fkd export --output-dir results/prism_r18_ipc10 --folder FKD
    python -m exchange.fkd import --output-dir results/theirs --folder FKD
"""

from exchange.options import FkdExport, FkdImport, parse
from utils.errors import run_entry


def main(argv=None):
    command, o = parse("exchange.fkd", {"export": FkdExport, "import": FkdImport}, argv)

    # Imported after the options are read, so that --help answers at once.
    from data.opening import open_distilled
    from exchange import fkd_labels

    images = open_distilled(o.labels.train_dir or o.labels.output_dir / "images")
    labels = o.labels.fkd_path or o.labels.output_dir / "labels"
    if command == "export":
        fkd_labels.write(labels, images, o.target.folder, o.target.logits)
    else:
        fkd_labels.read(o.source.folder, images, labels, o.source.fkd_seed, o.source.numpy_numbers)


if __name__ == "__main__":
    run_entry(main)
