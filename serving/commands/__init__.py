"""Subcommands of the serving room."""
