"""Image files that are read and written in strips."""
