"""Label recipes of the methods of the field as sets of relabel's options.

A preset only sets options. What a source leaves unsaid, and what was assumed, is in docs/choices.md
by protocol. DELT and RDED store no labels: their teacher labels while the student trains (validate
--preset delt).
"""

TEACHERS = ("resnet18", "mobilenet_v2", "alexnet", "shufflenet_v2_x0_5")  # released code, ResNet-18

SRE2L = {"teachers": ["resnet18"], "ensemble": "single", "batch_size": 1024,
         "min_scale_crops": 0.08, "mix_type": "cutmix"}

PRESETS = {
    "prism": {},
    "sre2l": SRE2L,
    # The batch is the student's, as CDA's author says; images are mixed within it.
    "cda": {**SRE2L, "batch_size": 128},
    "gvbsm": {"teachers": ["resnet18", "mobilenet_v2", "efficientnet_b0", "shufflenet_v2_x0_5"],
              "ensemble": "equal_energy", "batch_size": 1024, "min_scale_crops": 0.08,
              "mix_type": "cutmix"},
    "edc": {"teachers": ["resnet18", "mobilenet_v2", "shufflenet_v2_x0_5", "alexnet"],
            "ensemble": "mean", "batch_size": 100, "min_scale_crops": 0.5, "mix_type": "cutmix"},
}
