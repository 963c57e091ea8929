"""How diverse sets of images are, and how close to real ones.

    python -m report.diversity --runs PRISM=results/prism SRe2L=results/sre2l \\
        --train-dir imagenet/train --val-dir imagenet/val --output results/diversity.png

Draws a figure, and writes its numbers beside it: a line per set (.csv), per class (_classes.csv)
and per image, with the real image that is nearest to it (_images.csv).
"""

from report.options import parse_diversity
from utils.errors import run_entry
from utils.files import check_writable


def main(argv=None):
    options = parse_diversity(argv)
    check_writable(options.sets.output.parent)

    # Imported after the options are read, so that --help answers at once.
    from report import diversity_report

    diversity_report.write(options)


if __name__ == "__main__":
    run_entry(main)
