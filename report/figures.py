"""Figures 1, 4 and 5 of the paper, of finished runs.

    python -m report.figures fig4 --runs PRISM=results/prism SRe2L=results/sre2l --output results/fig4.png
"""

import argparse

import torch

from data import images
from models.networks import check_name
from models.teachers import load_teachers
from report import embedding, similarity, start_grid
from report.sets import choose_classes, class_names, features, open_sets, titles
from utils import distributed, options
from utils.errors import UserError, run_entry
from utils.files import check_writable
from utils.progress import progress_bar

SUFFIXES = (".png", ".pdf", ".svg")


def run_of_name(text):
    """NAME=FOLDER -> (name, path)."""
    name, equals, folder = text.partition("=")
    if not (name and equals and folder):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected NAME=FOLDER, such as PRISM=results/prism_r18_ipc10")
    return name, options.path(folder)


def get_args_parser():
    parser = options.Parser(prog="report.figures", description="Draw a figure of the paper from finished runs.")
    figures = parser.add_subparsers(dest="figure", required=True, metavar="FIGURE", help="fig1, fig4 or fig5; each has --help")
    fig1 = figures.add_parser("fig1", help="features of ten classes in two dimensions, a panel per set")
    fig4 = figures.add_parser("fig4", help="cosine similarity within a class, its distribution over the classes per set")
    fig5 = figures.add_parser("fig5", help="start images above what each set made of them")
    for figure in (fig1, fig4, fig5):
        figure.add_argument("--runs", nargs="+", type=run_of_name, required=True, metavar="NAME=FOLDER",
                            help="sets of images and their run folders, or folders of class folders of another tool")
        figure.add_argument("--output", type=options.path, required=True, metavar="FILE",
                            help=".png" if figure is fig5 else f"{', '.join(SUFFIXES)}" + (
                                "; the numbers beside it in .csv" if figure is fig4 else ""))
    for figure in (fig1, fig4):
        figure.add_argument("--network", default="resnet18", metavar="NAME", help="whose penultimate features (paper: ResNet-18)")
        figure.add_argument("--teacher-weights", default="IMAGENET1K_V1",
                            help="name of published torchvision weights, or a folder of NAME.safetensors / NAME.pth")
        options.add_run_arguments(figure)
    for figure in (fig1, fig5):
        figure.add_argument("--classes", nargs="+", metavar="CLASS",
                            help="class names, wnids on ImageNet (default: the first ten)")
    fig1.add_argument("--embedding", choices=embedding.METHODS, default="umap", help="umap (paper; needs umap-learn) or t-SNE")
    fig1.add_argument("--seed", type=options.count, default=0, help="of the embedding")
    fig5.add_argument("--slices", nargs="+", type=options.count, default=[0], metavar="I",
                      help="which images of a class (IPC slices)")
    fig5.add_argument("--train-dir", type=options.path, help="where CIFAR lies, for its start images")
    return parser


def main(argv=None):
    args = get_args_parser().parse_args(argv)
    runs = dict(args.runs)
    if len(runs) < len(args.runs):
        raise UserError("--runs: two sets have one name. Name each set differently.")
    accepted = (".png",) if args.figure == "fig5" else SUFFIXES
    if args.output.suffix not in accepted:
        raise UserError(f"--output {args.output}: expected a name that ends in {' or '.join(accepted)}.")
    check_writable(args.output.parent)
    {"fig1": fig1, "fig4": fig4, "fig5": fig5}[args.figure](args, runs)
    print(f"{args.figure}: {args.output}")


def fig1(args, runs):
    """All sets are embedded together, so that one panel can be compared with another; the paper does not say how it did."""
    embedding.check_method(args.embedding)
    sets, names, network, device = open_with_network(args, runs)
    labels = choose_classes(args.classes, names, embedding.MOST_CLASSES)
    chosen = {name: embedding.places_of(distilled, labels) for name, distilled in sets.items()}
    with progress_bar(sum(len(places) for places, _ in chosen.values()), "features", " images") as bar:
        found = [features(sets[name], places, network, device, args.workers, bar) for name, (places, _) in chosen.items()]
    points = embedding.embed(torch.cat(found), args.embedding, args.seed).split([len(part) for part in found])
    panels = {name: (own, chosen[name][1]) for name, own in zip(sets, points, strict=True)}
    method = {"umap": "UMAP", "tsne": "t-SNE"}[args.embedding]
    embedding.draw(panels, dict(zip(labels, titles([names[c] for c in labels]), strict=True)), args.output,
                   f"{method} of {args.network}'s penultimate features, all sets embedded together")


def fig4(args, runs):
    sets, names, network, device = open_with_network(args, runs)
    with progress_bar(sum(map(len, sets.values())), "features", " images") as bar:
        found = {name: similarity.cosines(distilled, network, device, args.workers, bar) for name, distilled in sets.items()}
    similarity.write_csv(found, names, args.output.with_suffix(".csv"))
    similarity.draw(found, f"{args.network}'s penultimate features, all pairs", args.output)
    for name, values in found.items():
        print(f"{name}: mean cosine similarity within a class {similarity.mean(values):.3f} over {len(values)} classes")


def fig5(args, runs):
    sets = open_sets(runs, workers=1)
    names = class_names(sets)
    labels = choose_classes(args.classes, names, len(names))
    rows, row_names, others = start_grid.grid_rows(sets, runs, labels, args.slices, args.train_dir)
    for name in others:
        print(f"note: {name} started from other images than those shown")
    if not any(name.startswith("start ") for name in row_names):
        print("note: no set's start images could be found again, so they are not shown")
    images.save_grid(rows, args.output, row_names, titles([names[c] for c in labels]))


def open_with_network(args, runs):
    """(sets, class names, network, device) for figures of features."""
    options.set_threads(args.threads)
    check_name(args.network)
    sets, device = open_sets(runs, args.workers), distributed.choose_device(args.device)
    names, size = class_names(sets), next(iter(sets.values())).image_size
    return sets, names, load_teachers([args.network], args.teacher_weights, names, device, size)[args.network], device


if __name__ == "__main__":
    run_entry(main)
