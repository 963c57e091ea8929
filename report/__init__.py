"""Looks at finished run folders, anybody's: diversity, figures, tables, and whether a folder is whole."""
