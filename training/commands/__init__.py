"""Subcommands of the training room."""
