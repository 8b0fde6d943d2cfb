"""Subcommands of the bench."""
