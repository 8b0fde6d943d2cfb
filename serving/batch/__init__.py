"""Many pictures into streams, or streams into pictures, with a table of results: what `oslic batch` does.

`work` does it on one machine, `serving.ray` on many; both fill the same table.
"""
