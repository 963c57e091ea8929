"""One page about finished sets of images, anybody's: what they are, how good and how diverse.

    python -m report.page results/prism SRe2L=results/sre2l --output results/report.html

A set is a run folder, or a folder of class folders of another tool. Writes one HTML file that needs
no other, and the same as Markdown.
"""

from report.options import parse_page
from utils.errors import run_entry
from utils.files import check_writable


def main(argv=None):
    given, options = parse_page(argv)

    # Imported after the options are read, so that --help answers at once.
    from report import page_content
    from report.runs import named_folders

    folders = named_folders(given)
    output = options.file.output or page_content.default_output(folders)
    check_writable(output.parent)
    page_content.write_page(folders, options, output)


if __name__ == "__main__":
    run_entry(main)
