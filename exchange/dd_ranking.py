"""DD-Ranking's tensors in and out: images [C x IPC, 3, H, W], class after class, labels
[C x IPC, C].

    python -m exchange.dd_ranking export --output-dir results/dm --images dm.pt --labels labels.pt
    python -m exchange.dd_ranking import --output-dir results/theirs --images theirs.pt

DD-Ranking also reads our folder of images as it is.
"""

from exchange.options import DDRankingExport, DDRankingImport, parse
from utils.errors import run_entry


def main(argv=None):
    command, o = parse("exchange.dd_ranking", {"export": DDRankingExport,
                                               "import": DDRankingImport}, argv)

    # Imported after the options are read, so that --help answers at once.
    from exchange import dd_ranking_tensors

    if command == "export":
        dd_ranking_tensors.export(o)
    else:
        dd_ranking_tensors.import_(o)


if __name__ == "__main__":
    run_entry(main)
