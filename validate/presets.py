"""Evaluation protocols of the field as sets of validate's options. A preset only sets options.

Learning rate and weight decay follow the optimiser (validate.options.BY_OPTIMIZER) where a protocol
has the usual ones. A protocol's name as the value of an option stands for its rule
(validate/rules.py). docs/choices.md says what a source leaves open, and what was assumed.
"""

_ADAMW = {"epochs": 300, "optimizer": "adamw", "weight_decay_on": "matrices", "mix_type": "cutmix"}
_KL = {"loss_type": "kl", "temperature": 20.0}
_SRE2L = {**_ADAMW, **_KL, "lr_schedule": "cosine", "batch_size": 1024,
          "gradient_accumulation_steps": 2, "min_scale_crops": 0.08}

# One teacher labels every batch while the student trains. In the authors' code a second train-mode
# forward of the same batch moves BatchNorm's running statistics twice by 0.1. Moving them once by
# 1 - 0.9 * 0.9 = 0.19 is the same and saves the forward.
_ONLINE = {**_ADAMW, **_KL, "labels": "teacher", "teachers": ["resnet18"], "ensemble": "single",
           "lr": "delt", "lr_schedule": "half_cosine", "gradient_accumulation_steps": 1,
           "bn_momentum": 0.19, "eval_every": 10}

PRESETS = {
    "prism": {},
    "delt": {**_ONLINE, "batch_size": "delt", "min_scale_crops": 0.25,
             "randaugment": "rand-m6-n2-mstd1.0"},
    "rded": {**_ONLINE, "batch_size": "rded", "min_scale_crops": 0.5, "shuffle_patches": 2,
             "eval_from": 0.8},
    "sre2l": _SRE2L,
    # CDA's author gives the batch in a discussion.
    "cda": {**_SRE2L, "batch_size": 128, "gradient_accumulation_steps": 1},
    "gvbsm": {**_ADAMW, "loss_type": "mse_gt", "ce_weight": 0.1, "lr_schedule": "cosine",
              "batch_size": 1024, "gradient_accumulation_steps": "gvbsm", "min_scale_crops": 0.08},
    # The schedule is the one that EDC's code ran. What it meant is half_cosine, or ssrs.
    "edc": {**_ADAMW, "loss_type": "mse_gt", "ce_weight": 0.025, "lr_schedule": "linear_half",
            "batch_size": 100, "gradient_accumulation_steps": 1, "min_scale_crops": 0.5,
            "ema": 0.99, "eval_every": 30},
    # torchvision's reference recipe for ResNets (paper Table 2, "recovery only").
    "hard-label": {"loss_type": "ce", "epochs": 90, "optimizer": "sgd", "momentum": 0.9,
                   "weight_decay_on": "all", "lr_schedule": "step", "batch_size": 256,
                   "gradient_accumulation_steps": 1, "min_scale_crops": 0.08, "mix_type": "none"},
}
