"""Looks at finished run folders, anybody's: one page, diversity, figures, and whether a folder is
whole."""
