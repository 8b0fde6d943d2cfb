"""Subcommands of the export room."""
