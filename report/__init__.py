"""Looks at finished run folders, anybody's: diversity, figures, and whether a folder is whole."""
