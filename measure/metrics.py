"""Quality and rate metrics, in numpy alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from ..runtime.image.arrays import Pixels

    Values = npt.NDArray[np.float64]

BdMethod = Literal["cubic", "pchip", "akima"]

# Wang, Simoncelli, Bovik: Multiscale structural similarity for image quality assessment (2003).
_MS_SSIM_WEIGHTS: Final = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_WINDOW: Final = 11
_SIGMA: Final = 1.5
MS_SSIM_LARGEST_REFUSED: Final = (_WINDOW - 1) * 2 ** (len(_MS_SSIM_WEIGHTS) - 1)
"""MS-SSIM is for images whose sides are longer than this, in pixels: the window must fit at the smallest scale."""
_K1: Final = 0.01
_K2: Final = 0.03
# ITU-R BT.601, full range, as in JPEG (ITU-T T.871).
_YCBCR: Final = np.array(
    [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]], dtype=np.float64
)

_COLOR_BLOCK: Final = 64


def _check_pair(image: Pixels, other: Pixels) -> None:
    if image.shape != other.shape:
        raise ValueError(f"images of shapes {image.shape} and {other.shape} cannot be compared")


def mse(image: Pixels, other: Pixels) -> float:
    """Return the mean squared error over all samples of two images of one shape and dtype uint8."""
    _check_pair(image, other)
    difference = image.astype(np.float64) - other
    return float(np.mean(difference * difference))


def _decibel(error: float) -> float:
    return float("inf") if error == 0 else 10 * float(np.log10(255 * 255 / error))


def psnr(image: Pixels, other: Pixels) -> float:
    """Return the PSNR in dB over all samples of two uint8 images of one shape; infinite for equal images."""
    return _decibel(mse(image, other))


def psnr_ycbcr(image: Pixels, other: Pixels) -> float:
    """Return (6 PSNR_Y + PSNR_Cb + PSNR_Cr) / 8 of two uint8 RGB images (H, W, 3), in dB.

    The weights are those of the video coding groups (JCT-VC); the transform is BT.601, full range.
    """
    _check_pair(image, other)
    difference = (image.astype(np.float64) - other) @ _YCBCR.T
    y, cb, cr = (_decibel(float(e)) for e in np.mean(difference * difference, axis=(0, 1)))
    return (6 * y + cb + cr) / 8


def color_shift(image: Pixels, other: Pixels) -> float:
    """Return the mean absolute difference of the mean colors of blocks, in gray levels: 0 for equal images.

    Blocks of 64x64 pixels from the upper left, narrower ones at the right and at the bottom; all count alike.

    Args:
        image: uint8 (H, W) or (H, W, C).
        other: the same shape.
    """
    _check_pair(image, other)
    difference = np.atleast_3d(image.astype(np.float64) - other)
    starts = [np.arange(0, side, _COLOR_BLOCK) for side in difference.shape[:2]]
    sums = np.add.reduceat(np.add.reduceat(difference, starts[0], axis=0), starts[1], axis=1)
    rows, columns = (
        np.diff(np.append(start, side)) for start, side in zip(starts, difference.shape[:2], strict=True)
    )
    return float(np.abs(sums / np.multiply.outer(rows, columns)[:, :, None]).mean())


def _blur(planes: Values, kernel: Values) -> Values:
    """Separable filter over the last two axes, only where the window fits."""
    for axis in (-1, -2):
        windows = np.lib.stride_tricks.sliding_window_view(planes, len(kernel), axis=axis)
        planes = windows @ kernel
    return planes


def _halve(planes: Values) -> Values:
    """Average 2x2; an odd side is padded by zeros on both ends first, as the common implementations do."""
    pad = [(0, 0), *((side % 2, side % 2) for side in planes.shape[1:])]
    planes = np.pad(planes, pad)
    planes = planes[:, : planes.shape[1] // 2 * 2, : planes.shape[2] // 2 * 2]
    return (planes[:, ::2, ::2] + planes[:, 1::2, ::2] + planes[:, ::2, 1::2] + planes[:, 1::2, 1::2]) / 4


def ms_ssim(image: Pixels, other: Pixels) -> float:
    """Return the multiscale structural similarity of two uint8 images, (H, W) or (H, W, C), in 0..1.

    Five scales, Gaussian window of 11 taps and sigma 1.5, mean over the channels, as in Wang et al. (2003).

    Raises:
        ValueError: different shapes, or a side of 160 pixels or less: the window must fit at the smallest scale.
    """
    _check_pair(image, other)
    if min(image.shape[:2]) <= MS_SSIM_LARGEST_REFUSED:
        raise ValueError(
            f"MS-SSIM needs sides above {MS_SSIM_LARGEST_REFUSED} pixels, the image is "
            f"{image.shape[1]}x{image.shape[0]}"
        )
    taps = np.exp(-((np.arange(_WINDOW) - _WINDOW // 2) ** 2) / (2 * _SIGMA**2))
    kernel = taps / taps.sum()
    c1, c2 = (_K1 * 255) ** 2, (_K2 * 255) ** 2
    x, y = (np.moveaxis(np.atleast_3d(a).astype(np.float64), 2, 0) for a in (image, other))
    result = np.ones(x.shape[0])
    for scale, weight in enumerate(_MS_SSIM_WEIGHTS):
        if scale:
            x, y = _halve(x), _halve(y)
        mean_x, mean_y = _blur(x, kernel), _blur(y, kernel)
        variance_x = _blur(x * x, kernel) - mean_x**2
        variance_y = _blur(y * y, kernel) - mean_y**2
        covariance = _blur(x * y, kernel) - mean_x * mean_y
        part = (2 * covariance + c2) / (variance_x + variance_y + c2)
        if scale == len(_MS_SSIM_WEIGHTS) - 1:
            part = part * (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
        result *= np.maximum(part.mean(axis=(1, 2)), 0) ** weight
    return float(result.mean())


# -- Bjontegaard delta ------------------------------------------------------------------------------------------


def _pchip_slopes(x: Values, y: Values) -> Values:
    """Derivatives at the knots by Fritsch and Carlson (1980), with one-sided three-point ends."""
    step, slope = np.diff(x), np.diff(y) / np.diff(x)
    if len(slope) == 1:
        return np.repeat(slope, 2)
    left, right = slope[:-1], slope[1:]
    w1, w2 = 2 * step[1:] + step[:-1], step[1:] + 2 * step[:-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        inner = np.where(left * right > 0, (w1 + w2) / (w1 / left + w2 / right), 0.0)

    def end(h0: float, h1: float, m0: float, m1: float) -> float:
        d = ((2 * h0 + h1) * m0 - h0 * m1) / (h0 + h1)
        if np.sign(d) != np.sign(m0):
            return 0.0
        return 3 * m0 if np.sign(m0) != np.sign(m1) and abs(d) > 3 * abs(m0) else d

    first = end(step[0], step[1], slope[0], slope[1])
    last = end(step[-1], step[-2], slope[-1], slope[-2])
    return np.concatenate([[first], inner, [last]])


def _akima_slopes(x: Values, y: Values) -> Values:
    """Derivatives at the knots by Akima (1970)."""
    slope = np.diff(y) / np.diff(x)
    if len(slope) == 1:
        return np.repeat(slope, 2)
    before = 2 * slope[0] - slope[1]
    after = 2 * slope[-1] - slope[-2]
    m = np.concatenate([[2 * before - slope[0], before], slope, [after, 2 * after - slope[-1]]])
    change = np.abs(np.diff(m))
    right, left = change[2:], change[:-2]
    total = right + left
    # Where the slopes on both sides are constant the weights are 0/0: the mean of the two neighbors.
    plain = (m[1:-2] + m[2:-1]) / 2
    usable = total > 1e-9 * total.max()
    weighted = m[1:-2] + np.divide(left, total, out=np.zeros_like(total), where=usable) * (m[2:-1] - m[1:-2])
    slopes: Values = np.where(usable, weighted, plain)
    return slopes


def _hermite_integral(x: Values, y: Values, slopes: Values, low: float, high: float) -> float:
    """Integral over [low, high], inside [x[0], x[-1]], of the piecewise cubic with these knots and slopes."""

    def antiderivative(t: Values) -> tuple[Values, Values, Values, Values]:
        """Of the four Hermite basis functions on [0, 1]."""
        t2, t3, t4 = t * t, t**3, t**4
        return t4 / 2 - t3 + t, t4 / 4 - 2 * t3 / 3 + t2 / 2, -t4 / 2 + t3, t4 / 4 - t3 / 3

    step = np.diff(x)
    start = np.clip((low - x[:-1]) / step, 0, 1)
    stop = np.clip((high - x[:-1]) / step, 0, 1)
    h00, h10, h01, h11 = (b - a for a, b in zip(antiderivative(start), antiderivative(stop), strict=True))
    pieces = y[:-1] * h00 + step * slopes[:-1] * h10 + y[1:] * h01 + step * slopes[1:] * h11
    return float(np.sum(pieces * step))


def _mean_log_rate(quality: Values, log_rate: Values, low: float, high: float, method: BdMethod) -> float:
    if method == "cubic":
        antiderivative = np.polyint(np.polyfit(quality, log_rate, 3))
        return float(np.polyval(antiderivative, high) - np.polyval(antiderivative, low)) / (high - low)
    slopes = _pchip_slopes if method == "pchip" else _akima_slopes
    return _hermite_integral(quality, log_rate, slopes(quality, log_rate), low, high) / (high - low)


def bd_rate(
    anchor_rate: npt.ArrayLike,
    anchor_quality: npt.ArrayLike,
    test_rate: npt.ArrayLike,
    test_quality: npt.ArrayLike,
    *,
    method: BdMethod = "akima",
    quality_range: tuple[float, float] | None = None,
) -> float:
    """Return the Bjontegaard delta rate of the test against the anchor, in percent; negative is better.

    The mean difference of log rate over the range of quality that both curves cover (Bjontegaard, VCEG-M33, with
    a cubic through all points; PCHIP and Akima interpolate through the points, as newer practice does).

    Args:
        anchor_rate: bits per pixel of the anchor, positive, at least 2 points (4 for "cubic").
        anchor_quality: dB or any measure that grows with the rate, as many.
        test_rate: as `anchor_rate`.
        test_quality: as `anchor_quality`.
        method: interpolation of log rate over quality.
        quality_range: restrict the integral to this range, where both curves cover it.

    Raises:
        ValueError: too few points, equal qualities, rates that are not positive, or curves without overlap.
    """
    curves = []
    for name, rate, quality in (("anchor", anchor_rate, anchor_quality), ("test", test_rate, test_quality)):
        r, q = np.asarray(rate, dtype=np.float64), np.asarray(quality, dtype=np.float64)
        least = 4 if method == "cubic" else 2
        if r.ndim != 1 or r.shape != q.shape or len(r) < least:
            raise ValueError(
                f"the {name} curve needs at least {least} rates and as many qualities, has {r.shape}, {q.shape}"
            )
        if not (np.isfinite(r).all() and np.isfinite(q).all() and (r > 0).all()):
            raise ValueError(
                f"the {name} curve has rates that are not positive, or values that are not finite"
            )
        order = np.argsort(q)
        r, q = r[order], q[order]
        if (np.diff(q) <= 0).any():
            raise ValueError(f"the {name} curve has two points of equal quality")
        curves.append((q, np.log10(r)))
    (anchor_q, anchor_r), (test_q, test_r) = curves
    low, high = max(anchor_q[0], test_q[0]), min(anchor_q[-1], test_q[-1])
    if quality_range is not None:
        low, high = max(low, quality_range[0]), min(high, quality_range[1])
    if low >= high:
        raise ValueError(f"the curves have no quality in common (from {low:.2f} to {high:.2f})")
    difference = _mean_log_rate(test_q, test_r, low, high, method) - _mean_log_rate(
        anchor_q, anchor_r, low, high, method
    )
    return float((10**difference - 1) * 100)


# -- Segmentation -----------------------------------------------------------------------------------------------


def confusion_matrix(
    truth: npt.NDArray[np.integer], found: npt.NDArray[np.integer], classes: int
) -> npt.NDArray[np.int64]:
    """Return the (K, K) counts of true (row) and found (column) classes; true values of K and above are ignored.

    Args:
        truth: (..., ) class numbers.
        found: the same shape, values 0..K-1.
        classes: K.
    """
    if truth.shape != found.shape:
        raise ValueError(f"label maps of shapes {truth.shape} and {found.shape} cannot be compared")
    kept = truth < classes
    pairs = truth[kept].astype(np.int64) * classes + found[kept]
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def class_iou(confusion: npt.NDArray[np.int64]) -> Values:
    """Return the intersection over union of each class, (K,); NaN for a class that occurs nowhere."""
    hits = np.diag(confusion).astype(np.float64)
    union = confusion.sum(axis=0) + confusion.sum(axis=1) - hits
    iou: Values = np.divide(hits, union, out=np.full(len(hits), np.nan), where=union > 0)
    return iou


def mean_iou(confusion: npt.NDArray[np.int64]) -> float:
    """Return the mean of `class_iou` over the classes that occur."""
    return float(np.nanmean(class_iou(confusion)))
