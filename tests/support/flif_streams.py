"""A second, slow FLIF writer in Python, for streams that no encoder would make."""

from __future__ import annotations

_ONE, _N = 1 << 32, 4096
_EXPONENT = (1000, 1200, 1500, 1750, 2000, 2300, 2800, 2400, 2300)
_MANTISSA = (1900, 1850, 1800, 1750, 1650, 1600, 1600)


def chance_tables(cutoff: int = 2, divisor: int = 19) -> tuple[list[int], list[int]]:
    """`up` and `down` of section 4 of the format."""
    factor, most = (_ONE - 1) // divisor, _N - cutoff

    def step(p: int) -> int:
        return p + (((_ONE - p) * factor + _ONE // 2) >> 32)

    def state(p: int) -> int:
        return (_N * p + _ONE // 2) >> 32

    up, down = [0] * (_N + 1), [0] * (_N + 1)
    p, last = _ONE // 2, 0
    for _ in range(2048):
        s = max(state(p), last + 1)
        if 0 < last < _N and s <= most:
            up[last] = s
        p, last = step(p), s
    for i in range(cutoff, most + 1):
        if up[i] == 0:
            up[i] = min(max(state(step((i * _ONE + _N // 2) // _N)), i + 1), most)
    for i in range(cutoff, most + 1):
        down[i] = _N - up[_N - i]
    return up, down


UP, DOWN = chance_tables()


class Writer:
    """The arithmetic encoder with its integer coders."""

    def __init__(self) -> None:
        self.out, self.low, self.range = bytearray(), 0, 1 << 24

    def _decide(self, one_part: int, bit: bool) -> None:
        if bit:
            self.low += self.range - one_part
            self.range = one_part
        else:
            self.range -= one_part
        while self.range <= 1 << 16:
            self._shift()
            self.range <<= 8

    def _shift(self) -> None:
        if self.low >> 24:
            i = len(self.out) - 1
            while self.out[i] == 255:
                self.out[i] = 0
                i -= 1
            self.out[i] += 1
            self.low &= 0xFFFFFF
        self.out.append(self.low >> 16)
        self.low = (self.low & 0xFFFF) << 8

    def bit(self, bit: bool) -> None:
        self._decide(self.range >> 1, bit)

    def modeled(self, context: dict, key: object, start: int, bit: bool) -> None:
        q = context.get(key, start)
        self._decide((self.range * q + 2048) >> 12, bit)
        context[key] = UP[q] if bit else DOWN[q]

    def uniform(self, value: int, lo: int, hi: int) -> None:
        n = hi - lo
        while n > 0:
            half = n // 2
            upper = value > lo + half
            self.bit(upper)
            lo, n = (lo + half + 1, n - half - 1) if upper else (lo, half)

    def near_zero(self, context: dict, value: int, lo: int, hi: int) -> None:
        if lo == hi:
            return
        self.modeled(context, "zero", 1000, value == 0)
        if value == 0:
            return
        positive = value > 0
        if lo < 0 < hi:
            self.modeled(context, "sign", 2048, positive)
        most, v = (hi, value) if positive else (-lo, -value)
        e = v.bit_length() - 1
        for i in range(most.bit_length() - 1):
            self.modeled(context, (i, positive), _EXPONENT[i] if i < 9 else 2048, i == e)
            if i == e:
                break
        prefix = 1 << e
        for i in range(e - 1, -1, -1):
            if prefix + (1 << i) > most:
                continue
            self.modeled(context, ("m", i), _MANTISSA[i] if i < 7 else 2048, bool(v >> i & 1))
            prefix += v & (1 << i)

    def shifted(self, context: dict, value: int, lo: int, hi: int) -> None:
        base = lo if lo > 0 else min(hi, 0)
        self.near_zero(context, value - base, lo - base, hi - base)

    def finish(self) -> bytes:
        self.low += 65535
        for _ in range(3):
            self._shift()
        return bytes(self.out)


def varint(value: int) -> bytes:
    groups = [value & 127]
    while value := value >> 7:
        groups.append(value & 127 | 128)
    return bytes(reversed(groups))


def head(width: int, height: int, kind: bytes = b"1", depth: bytes = b"1", chunks: bytes = b"") -> bytes:
    return b"FLIF" + kind + depth + varint(width - 1) + varint(height - 1) + chunks + b"\0"


def chain_tree(depth: int) -> bytes:
    """A 16-bit gray picture of 2 x 2 whose tree is a chain of `depth` nodes; the stream ends behind the tree."""
    writer = Writer()
    writer.uniform(0, 0, 1)
    writer.bit(False)
    kind, count, split = {}, {}, {}
    properties = [(2, 131070), (3, 131070), (4, 131070), (5, 131070), (6, 131070)]
    bounds = {k: [-65535, 65535] for k, _ in properties}
    made = 0
    for k, span in properties:
        for _ in range(span):
            if made == depth:
                break
            # The leaf above the split comes last; the chain goes on in the first child (property > split).
            writer.shifted(kind, k + 1, 0, 7)
            writer.shifted(count, 1, 1, 512)
            low, high = bounds[k]
            writer.shifted(split, low, low, high - 1)
            bounds[k][0] = low + 1
            made += 1
    for _ in range(made + 1):
        writer.shifted(kind, 0, 0, 7)
    return head(2, 2, depth=b"2") + writer.finish()


def huge_palette(entries: int) -> bytes:
    """An RGB picture that claims a palette of `entries` colors and ends there."""
    writer = Writer()
    writer.uniform(0, 0, 1)
    writer.bit(True)
    writer.uniform(6, 0, 13)
    writer.shifted({}, entries, 1, 30000)
    return head(8, 8, kind=b"3") + writer.finish()


def unknown_transform(number: int) -> bytes:
    writer = Writer()
    writer.uniform(0, 0, 1)
    writer.bit(True)
    writer.uniform(number, 0, 13)
    return head(8, 8, kind=b"3") + writer.finish()
