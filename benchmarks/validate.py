"""Training steps and tests of a student, beside a plain reference and beside the floor.

    python -m benchmarks.validate --image-size 64 --turns 3
    python -m benchmarks.validate --precision bf16 --compile

A step on distilled JPEGs, with the loss mse_gt and stored labels, is taken in these variants:

    plain      in float32: images are decoded, cropped and flipped one by one with Pillow, each of
               two micro-batches has its own pass, AdamW is not fused, and the loss is read after
               every step
    apart      validate with --micro-batches apart
    together   validate as it is: one pass, with BatchNorm over groups
    floor      forward, backward and fused AdamW on a batch that is ready, BatchNorm over all of it

A test on real images is timed with decoding, from decoded images, and as the forward alone.
"""

from benchmarks import measure
from utils import options
from utils.errors import run_entry


def get_args_parser():
    parser = measure.timing_parser("validate", "Time a student's steps and tests.", batch_size=50)
    parser.add_argument("--student", default="resnet18", metavar="NAME",
                        help="torchvision name or timm/NAME")
    parser.add_argument("--classes", type=options.positive_int, default=1000,
                        help="logits of a label")
    parser.add_argument("--test-images", type=options.positive_int, default=200,
                        help="images of a test")
    return parser


def main(argv=None):
    args = get_args_parser().parse_args(argv)
    from benchmarks.validate_steps import measured  # needs PyTorch, unlike --help

    device = measure.start(args)
    figures = measured(args, device)

    seconds = figures["seconds"]
    measure.print_table("step", {
        name: {"ms a step": 1e3 * value, "images/s": args.batch_size / value,
               "it / floor": value / seconds["floor"], "plain / it": seconds["plain"] / value}
        for name, value in seconds.items()})
    print(f"\ndata path: {figures['data_share']:.1%} of a step together")
    rates = figures["test_images_per_second"].items()
    measure.print_table("test", {name: {"images/s": rate} for name, rate in rates})
    measure.save(args, "validate", device, figures)


if __name__ == "__main__":
    run_entry(main)
