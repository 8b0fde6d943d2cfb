"""Bundles: the folder that export writes and the runtime reads."""
