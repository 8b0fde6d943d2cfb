"""A score of your own for `oslic calibrate`: the higher, the better."""

import numpy as np

_reference = []


def closeness(outputs, inputs):
    """Minus the mean error of the image's mean color, in levels: what this application cares for.

    Args:
        outputs: of the network, by name, for each sample.
        inputs: what it was given, likewise.
    """
    means = [output["clean"].mean(axis=(2, 3)) for output in outputs]
    if not _reference:
        _reference.extend(means)  # the first call scores the network in float
    return -255 * float(np.mean([np.abs(a - b).mean() for a, b in zip(means, _reference, strict=True)]))
