"""Stage 2, relabel: soft labels from a teacher ensemble."""

import sys

import utils

if getattr(utils, "PROJECT", None) != "prism":
    print(f"error: another package named utils was imported: {utils.__file__}. "
          "Start from the project root.", file=sys.stderr)
    sys.exit(2)
