"""Plumbing of every room: options, errors, files, processes, seeds. Imports no other room."""

PROJECT = "prism"  # the stages look for this, to notice another package called utils
