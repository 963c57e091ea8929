"""Figures 1, 4 and 5 of the paper, the course of images, and losses, from finished runs.

    python -m report.figures fig4 --runs PRISM=results/prism SRe2L=results/sre2l --output fig4.png
"""

from report.options import parse
from utils.errors import run_entry
from utils.files import check_writable


def main(argv=None):
    figure, options = parse(argv)
    check_writable(options.sets.output.parent)

    # Imported after the options are read, so that --help answers at once.
    from report import course, embedding, loss_curves, similarity, start_grid

    draw = {"fig1": embedding.fig1, "fig4": similarity.fig4, "fig5": start_grid.fig5,
            "course": course.course, "losses": loss_curves.losses}[figure]
    draw(options)
    print(f"{figure}: {options.sets.output}")


if __name__ == "__main__":
    run_entry(main)
