"""Runs of the three stages that make a table. Calls the stages' entries only; what passes between them lies on disk."""
