"""How far graphs, backends and precisions agree, and where they part."""
