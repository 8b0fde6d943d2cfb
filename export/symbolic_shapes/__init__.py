"""Sizes of a graph's values as exact expressions in the sizes of its inputs."""
