"""Subcommands of the runtime."""
