"""The `oslic` command: the only room that knows argparse. It may import every other."""
