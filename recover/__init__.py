"""Stage 1, recover: images from teachers, or from a diffusion model (recover/dap)."""

import sys

import utils

if getattr(utils, "PROJECT", None) != "prism":
    print(f"error: another package named utils was imported: {utils.__file__}. "
          "Start from the project root.", file=sys.stderr)
    sys.exit(2)
