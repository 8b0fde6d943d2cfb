"""Two measurements against each other, and whether the harness can tell them apart."""
