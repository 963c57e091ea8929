"""Guided sampling beside plain sampling, and what the depth of the tapped layer predicts.

    python -m benchmarks.dap [--width 288 --latent-size 16] [--layer 7] [--reals 100]

A unit of images of one class is sampled in a few steps by a DiT of random weights with the blocks
of DiT-XL/2, in these variants:

    plain      classifier-free guidance alone: two images through all L blocks for each image
    guided     half of the steps guided, with the features of the real images given
    with reals the same, and the features of the N real images computed in each guided step

Guidance at block k sends an image through k + 1 blocks and its gradient back through them. A
gradient with respect to inputs alone costs as much as a forward, so guidance of an image costs
2 (k + 1) block passes beside the 2 L of a plain step, and N real images cost N (k + 1). With the
share s of guided steps and a unit of B images the expected ratios to plain sampling are

    guided      1 + s (k + 1) / L
    with reals  1 + s (k + 1) / L (1 + N / (2 B))
"""

from benchmarks import measure
from utils import options
from utils.errors import run_entry


def get_args_parser():
    parser = measure.basic_parser("dap", "Time guided sampling beside plain sampling.")
    for name, default, text in (
            ("--batch-size", 10, "images of the unit: B"),
            ("--reals", 100, "real images of the class: N"),
            ("--steps", 4, "of sampling, half of them guided"),
            ("--width", 1152, "numbers per token (DiT-XL: 1152)"),
            ("--latent-size", 32, "side of the latents (256 px: 32)"),
            ("--layers", 28, "blocks of the network: L (DiT-XL: 28)"),
            ("--turns", 3, "how often each variant is timed; the median counts")):
        parser.add_argument(name, type=options.positive_int, default=default, help=text)
    parser.add_argument("--layer", type=options.count, default=7, help="tapped block: k")
    parser.add_argument("--precision", choices=measure.PRECISIONS, default="fp32",
                        help="number format of the network")
    parser.add_argument("--compile", action="store_true", help="torch.compile the blocks")
    return parser


def main(argv=None):
    args = get_args_parser().parse_args(argv)
    from benchmarks.dap_steps import expected_ratios, sample_once, variants  # needs PyTorch

    device = measure.start(args)
    seconds = measure.in_turn(variants(args, device), args.turns, device, warm_up=1, calls=1)
    expected = expected_ratios(args)
    rows = {name: {"s": value, "/ plain": value / seconds["plain"], "expected": expected[name],
                   "share of guidance": 1 - seconds["plain"] / value}
            for name, value in seconds.items()}
    measure.print_table("sampling", rows)

    memory = {name: measure.peak_memory(device, sample_once, args, device, name)
              for name in seconds}
    megabytes = {name: {"MB": count / 1e6} for name, count in memory.items()}
    measure.print_table("peak memory", megabytes)
    measure.save(args, "dap", device,
                 {"seconds": seconds, "expected": expected, "bytes": memory})


if __name__ == "__main__":
    run_entry(main)
