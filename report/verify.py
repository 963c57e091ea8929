"""What a network that took no part sees in the images of finished runs, beside what they should be.

    python -m report.verify --runs PRISM=results/prism SRe2L=results/sre2l \\
        --verifier mobilenet_v2 --output results/verified.png

Draws a picture with the network's answer below each image, and writes the answers about all images
beside it as JSON and Markdown.
"""

from report.options import parse_verify
from utils.errors import run_entry
from utils.files import check_writable


def main(argv=None):
    options = parse_verify(argv)
    check_writable(options.sets.output.parent)

    # Imported after the options are read, so that --help answers at once.
    from report import answers

    answers.verify(options)


if __name__ == "__main__":
    run_entry(main)
