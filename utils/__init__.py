"""What two stages or more share. Imports nothing from the stages or from models."""

PROJECT = "prism"  # the stages look for this, to notice that another package called utils was imported
