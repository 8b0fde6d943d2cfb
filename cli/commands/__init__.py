"""Subcommands of `oslic`, one module each; nothing imports them but by name."""
