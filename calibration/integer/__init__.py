"""Graphs that compute with integers in all but name, and the proof that every machine gets the same from them."""
