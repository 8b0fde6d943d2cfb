"""Kinds of codecs: how a learned codec of anybody's becomes a bundle. See docs/guides/codecs.md.

A package registers a subclass of `LearnedCodec` under the entry-point group `oslic.codecs`; the class turns a picture
into named sections and back by running the bundle's graphs. All else is the toolkit's: container, checksums, limits,
tiles, alpha, metadata, backends, commands.
"""

from .contract import LearnedCodec, Run

__all__ = ["LearnedCodec", "Run"]
