"""Names that options offer, apart from the code behind them, which needs PyTorch."""

ENSEMBLE_RULES = ("equal_energy", "primary_half", "mean", "single")  # models.ensemble.RULES
STEMS = ("imagenet", "small")
HEADS = ("full", "classes")  # models.teachers.fit_head
BACKBONES = ("dit", "sd", "pixel-dit")  # kinds of diffusion models
# On the Hugging Face hub, as NAME or NAME@REVISION. DiT's main revision holds pickles.
PUBLISHED_BACKBONES = {"dit": "facebook/DiT-XL-2-256@refs/pr/1",
                       "sd": "stable-diffusion-v1-5/stable-diffusion-v1-5"}
