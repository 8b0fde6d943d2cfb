"""Image coders to measure, ours and others, behind one interface."""
