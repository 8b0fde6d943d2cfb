"""Bundles: the folder that export writes and the runtime reads."""

from .folder import Bundle, default_bundle
from .manifest import ClassInfo, FileInfo, GraphInfo, Manifest

__all__ = ["Bundle", "ClassInfo", "FileInfo", "GraphInfo", "Manifest", "default_bundle"]
