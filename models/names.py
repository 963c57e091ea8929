"""Names that options offer, apart from the code behind them, which needs PyTorch."""

ENSEMBLE_RULES = ("equal_energy", "primary_half", "mean", "single")  # models.ensemble.RULES
STEMS = ("imagenet", "small")
