"""Verify run folders: images, labels and students. Nothing is changed.

    python -m report.check results/prism_r18_ipc10 [...]

A line is printed per problem, with what to do about it, and per thing that nothing in the folder
tells. Exit status: 0 when everything was verified and nothing is missing, 1 when there is a problem
or something could not be verified, 2 for a folder that is no run folder.
"""

import os
import sys

from utils import options
from utils.errors import UserError, run_entry


def main(argv=None):
    parser = options.Parser(prog="report.check",
                            description="Verify run folders; nothing is changed. Exit status: 0 "
                            "when everything was verified and nothing is missing, 1 after a line "
                            "that begins with 'problem' or with 'not verified', 2 for a folder "
                            "that is no run folder.")
    parser.add_argument("folders", nargs="+", type=options.path, metavar="FOLDER",
                        help="run folder, such as results/NAME")
    parser.add_argument("--workers", type=options.thread_count, default=min(8, os.cpu_count() or 1),
                        metavar="N", help="threads that read files")
    given = parser.parse_args(argv)
    for folder in given.folders:
        if not (folder / "images").is_dir():
            raise UserError(f"{folder}: is no run folder, it has no images folder. Give one such "
                            "as results/NAME.")

    # Imported after the options are read, so that --help answers at once.
    from report.run_checks import check

    if not all([check(folder, given.workers) for folder in given.folders]):
        sys.exit(1)


if __name__ == "__main__":
    run_entry(main)
