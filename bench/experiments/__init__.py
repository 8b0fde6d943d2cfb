"""Measurements of whole commands."""
