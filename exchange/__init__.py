"""Other tools' formats in and out: FKD labels, RDED, Hugging Face, DD-Ranking. One file each."""
