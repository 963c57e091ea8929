"""The methods of the field as sets of recover's options.

A preset only sets options; the formulas are where they are used. What a source leaves unsaid, and
what was assumed, is in docs/choices.md, by method.
"""

# paper 4.4, released code
POOL = ("resnet18", "mobilenet_v2", "efficientnet_b0", "shufflenet_v2_x0_5", "alexnet")

SRE2L = {"decoupling": "single", "primary_teacher": "resnet18", "start": "noise",
         "steps": "constant", "lr": 0.25}
_FALLING_CROPS = {"crop_schedule": "cosine", "crop_milestone": 1.0}
_IN_TURN = {"decoupling": "single", "selection": "in-turn", "primary_teacher": "resnet18",
            "steps": "constant", "match": "convolution", "batch_layout": "class"}

PRESETS = {
    "prism": {},
    "sre2l": SRE2L,
    "cda": {**SRE2L, **_FALLING_CROPS},
    "rded": {"start": "mosaic", "iteration": 0, "ranker": "resnet18"},
    "delt": {**SRE2L, **_FALLING_CROPS, "start": "medium", "ranker": "resnet18",
             "batch_layout": "class", "early_late": 8, "jitter": 0, "teacher_weights": "DEFAULT"},
    # Batches of 80 over two GPUs (EDC: four): each GPU optimises its own 40 (20) images, so a unit
    # is what one GPU holds.
    "gvbsm": {**_IN_TURN, "bn_teachers": POOL[1:4], "start": "noise", "lr": 0.1, "batch_size": 40,
              "statistics_ema": 0.4, "density": 1.0},
    "edc": {**_IN_TURN, "bn_teachers": POOL[1:], "start": "drawn", "start_flip": 0.5, "lr": 0.05,
            "iteration": 1000, "r_bn": 0.1, "batch_size": 20, "min_scale_crops": 0.5, "jitter": 0,
            "statistics_ema": 0.8, "class_statistics": 0.5},
}
