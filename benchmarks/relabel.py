"""Relabel beside the plain way of the field and beside its floor.

    python -m benchmarks.relabel [--compile] [--precision bf16]

An epoch of labels for random images, by teachers of random weights, is made in these variants:

    reference   in float32: images are decoded, cropped, flipped and normalised one by one with
                Pillow (by worker processes where the teachers run on a GPU), and the labels of
                each batch are written to a file of their own before the next one begins
    fp16 ...    relabel, with each number format of the labels
    floor       the teachers' forward alone, on a batch that is ready

Relabel decodes the images once for all epochs, so that is timed apart.
"""

from benchmarks import measure
from relabel.presets import TEACHERS
from utils import options
from utils.errors import run_entry


def get_args_parser():
    parser = measure.timing_parser("relabel", "Time relabel.", batch_size=50)
    parser.add_argument("--teachers", nargs="+", default=TEACHERS, metavar="NAME")
    parser.add_argument("--classes", type=options.positive_int, default=1000,
                        help="logits of a label")
    parser.add_argument("--batches", type=options.positive_int,
                        help="of an epoch (default: 4, or on a GPU 200, which is IPC 10)")
    parser.add_argument("--label-top-k", type=options.positive_int, default=100,
                        help="logits that the format topk keeps")
    parser.add_argument("--workers", type=options.worker_count,
                        help="processes that decode for the reference (default: 8 with a GPU, or "
                             "0 where the teachers need the CPU)")
    return parser


def main(argv=None):
    args = get_args_parser().parse_args(argv)
    from benchmarks.relabel_epoch import measured  # needs PyTorch, unlike --help

    device = measure.start(args)
    on_gpu = device.type == "cuda"
    args.batches = args.batches or (200 if on_gpu else 4)
    if args.workers is None:
        args.workers = 8 if on_gpu else 0
    figures = measured(args, device)

    seconds = figures["seconds"]
    measure.print_table("epoch of labels", {
        name: {"ms a batch": 1e3 * value / args.batches,
               "images/s": args.batch_size * args.batches / value,
               "of the floor's speed": seconds["floor"] / value,
               "reference / it": seconds["reference"] / value}
        for name, value in seconds.items()})
    decoding = figures["seconds to decode an image"]
    print(f"\ndecoding, once for all epochs: {1e3 * decoding:.3g} ms an image")
    measure.save(args, "relabel", device, figures)


if __name__ == "__main__":
    run_entry(main)
