#include "transforms.hpp"

#include <utility>

namespace oslic::flif {

namespace {

constexpr int kLastNumber = 13;

void require(bool condition, const char* transform, const char* why) {
    if (!condition) fail(std::string("corrupt: transform ") + transform + " is not allowed here: " + why);
}

bool colors_not_negative(const Ranges& ranges) {
    return ranges.planes >= 3 && ranges.lo[0] >= 0 && ranges.lo[1] >= 0 && ranges.lo[2] >= 0;
}

// A range object for palette numbers: planes 0 and 2 constant 0, plane 1 the number.
std::unique_ptr<SimpleRanges> number_ranges(const Ranges& before, size_t entries) {
    auto after = std::make_unique<SimpleRanges>();
    after->planes = before.planes;
    after->lo = {0, 0, 0, before.lo[3]};
    after->hi = {0, static_cast<int32_t>(entries) - 1, 0, before.hi[3]};
    return after;
}

}  // namespace

ChannelCompact ChannelCompact::read(IntegerReader& reader, const Ranges& before, const StreamFlags&) {
    ChannelCompact transform;
    Context context;
    for (int p = 0; p < before.planes; ++p) {
        const int32_t hi = before.hi[p];
        const int32_t n = reader.near_zero(context, 0, before.span(p)) + 1;
        int32_t next = before.lo[p];
        transform.values[p].reserve(static_cast<size_t>(n));
        for (int32_t i = 1; i <= n; ++i) {
            next += reader.near_zero(context, 0, hi - next - (n - i));
            transform.values[p].push_back(next++);
        }
    }
    return transform;
}

void ChannelCompact::write(IntegerWriter& writer, const Ranges& before) const {
    Context context;
    for (int p = 0; p < before.planes; ++p) {
        const auto n = static_cast<int32_t>(values[p].size());
        writer.near_zero(context, n - 1, 0, before.span(p));
        int32_t next = before.lo[p];
        for (int32_t i = 1; i <= n; ++i) {
            const int32_t value = values[p][static_cast<size_t>(i - 1)];
            writer.near_zero(context, value - next, 0, before.hi[p] - next - (n - i));
            next = value + 1;
        }
    }
}

std::unique_ptr<Ranges> ChannelCompact::ranges(const Ranges& before) const {
    auto after = std::make_unique<SimpleRanges>();
    after->planes = before.planes;
    for (int p = 0; p < before.planes; ++p) after->hi[p] = static_cast<int32_t>(values[p].size()) - 1;
    return after;
}

bool YCoCg::allowed(const Ranges& before) {
    return colors_not_negative(before) && !before.constant(0) && !before.constant(1) && !before.constant(2);
}

YCoCg YCoCg::read(IntegerReader&, const Ranges& before, const StreamFlags&) {
    require(allowed(before), kName, "it needs three planes that vary and are not negative");
    return {};
}

std::unique_ptr<Ranges> YCoCg::ranges(const Ranges& before) const { return std::make_unique<YCoCgRanges>(before); }

bool PermutePlanes::allowed(const Ranges& before) { return colors_not_negative(before); }

PermutePlanes PermutePlanes::read(IntegerReader& reader, const Ranges& before, const StreamFlags&) {
    require(allowed(before), kName, "it needs three planes that are not negative");
    PermutePlanes transform;
    Context context;
    transform.subtract = reader.shifted(context, 0, 1) != 0;
    unsigned seen = 0;
    for (int p = 0; p < before.planes; ++p) {
        transform.permutation[p] = reader.shifted(context, 0, before.planes - 1);
        seen |= 1u << transform.permutation[p];
    }
    if (seen != (1u << before.planes) - 1) fail("corrupt: PermutePlanes names a plane twice");
    return transform;
}

void PermutePlanes::write(IntegerWriter& writer, const Ranges& before) const {
    Context context;
    writer.shifted(context, subtract ? 1 : 0, 0, 1);
    for (int p = 0; p < before.planes; ++p) writer.shifted(context, permutation[p], 0, before.planes - 1);
}

std::unique_ptr<Ranges> PermutePlanes::ranges(const Ranges& before) const {
    return std::make_unique<PermutedRanges>(before, permutation, subtract);
}

Bounds Bounds::read(IntegerReader& reader, const Ranges& before, const StreamFlags&) {
    Bounds transform;
    Context context;
    for (int p = 0; p < before.planes; ++p) {
        const int32_t min = reader.shifted(context, before.lo[p], before.hi[p]);
        transform.bounds[p] = {min, reader.shifted(context, min, before.hi[p])};
    }
    return transform;
}

void Bounds::write(IntegerWriter& writer, const Ranges& before) const {
    Context context;
    for (int p = 0; p < before.planes; ++p) {
        writer.shifted(context, bounds[p].min, before.lo[p], before.hi[p]);
        writer.shifted(context, bounds[p].max, bounds[p].min, before.hi[p]);
    }
}

std::unique_ptr<Ranges> Bounds::ranges(const Ranges& before) const {
    if (const auto* inner = dynamic_cast<const YCoCgRanges*>(&before)) {
        return std::make_unique<BoundedRanges<YCoCgRanges>>(*inner, bounds);
    }
    if (const auto* inner = dynamic_cast<const PermutedRanges*>(&before)) {
        return std::make_unique<BoundedRanges<PermutedRanges>>(*inner, bounds);
    }
    auto after = std::make_unique<SimpleRanges>();
    after->planes = before.planes;
    for (int p = 0; p < before.planes; ++p) {
        after->lo[p] = bounds[p].min;
        after->hi[p] = bounds[p].max;
    }
    return after;
}

PaletteAlpha PaletteAlpha::read(IntegerReader& reader, const Ranges& before, const StreamFlags& flags) {
    require(before.planes == 4 && !before.constant(3), kName, "it needs an alpha plane that varies");
    PaletteAlpha transform;
    transform.alpha_zero = flags.alpha_zero;
    Context size, alpha, y, i, q;
    const int32_t n = reader.shifted(size, 1, kMaxPaletteSize);
    transform.sorted = reader.shifted(size, 0, 1) != 0;
    const Entry* previous = nullptr;
    transform.entries.reserve(static_cast<size_t>(n));
    for (int32_t k = 0; k < n; ++k) {
        Entry entry{};
        const int32_t least_alpha = transform.sorted && previous != nullptr ? (*previous)[0] : before.lo[3];
        entry[0] = reader.shifted(alpha, least_alpha, before.hi[3]);
        const bool invisible = flags.alpha_zero && entry[0] == 0;
        if (!invisible) {
            int32_t* below = &entry[1];
            if (transform.sorted) {
                const bool same = previous != nullptr && (*previous)[0] == entry[0];
                below[0] = reader.shifted(y, same ? (*previous)[1] : before.lo[0], before.hi[0]);
            } else {
                const Interval bounds = before.minmax(0, below);
                below[0] = reader.shifted(y, bounds.min, bounds.max);
            }
            const Interval bounds1 = before.minmax(1, below);
            below[1] = reader.shifted(i, bounds1.min, bounds1.max);
            const Interval bounds2 = before.minmax(2, below);
            below[2] = reader.shifted(q, bounds2.min, bounds2.max);
        }
        transform.entries.push_back(entry);
        if (!invisible) previous = &transform.entries.back();
    }
    return transform;
}

void PaletteAlpha::write(IntegerWriter& writer, const Ranges& before) const {
    Context size, alpha, y, i, q;
    writer.shifted(size, static_cast<int32_t>(entries.size()), 1, kMaxPaletteSize);
    writer.shifted(size, sorted ? 1 : 0, 0, 1);
    const Entry* previous = nullptr;
    for (const Entry& entry : entries) {
        const int32_t least_alpha = sorted && previous != nullptr ? (*previous)[0] : before.lo[3];
        writer.shifted(alpha, entry[0], least_alpha, before.hi[3]);
        if (alpha_zero && entry[0] == 0) continue;
        const int32_t* below = &entry[1];
        if (sorted) {
            const bool same = previous != nullptr && (*previous)[0] == entry[0];
            writer.shifted(y, below[0], same ? (*previous)[1] : before.lo[0], before.hi[0]);
        } else {
            const Interval bounds = before.minmax(0, below);
            writer.shifted(y, below[0], bounds.min, bounds.max);
        }
        const Interval bounds1 = before.minmax(1, below);
        writer.shifted(i, below[1], bounds1.min, bounds1.max);
        const Interval bounds2 = before.minmax(2, below);
        writer.shifted(q, below[2], bounds2.min, bounds2.max);
        previous = &entry;
    }
}

std::unique_ptr<Ranges> PaletteAlpha::ranges(const Ranges& before) const {
    auto after = number_ranges(before, entries.size());
    after->lo[3] = after->hi[3] = 1;
    return after;
}

bool Palette::allowed(const Ranges& before, const StreamFlags& flags) {
    return before.planes >= 3 && !flags.palette_alpha && !(before.constant(1) && before.constant(2));
}

Palette Palette::read(IntegerReader& reader, const Ranges& before, const StreamFlags& flags) {
    require(allowed(before, flags), kName, "it needs color planes that vary, and no PaletteAlpha before it");
    Palette transform;
    Context size, y, i, q;
    const int32_t n = reader.shifted(size, 1, kMaxPaletteSize);
    transform.sorted = reader.shifted(size, 0, 1) != 0;
    const Entry* previous = nullptr;
    transform.entries.reserve(static_cast<size_t>(n));
    for (int32_t k = 0; k < n; ++k) {
        Entry entry{};
        int32_t* below = entry.data();
        if (transform.sorted) {
            below[0] = reader.shifted(y, previous != nullptr ? (*previous)[0] : before.lo[0], before.hi[0]);
        } else {
            const Interval bounds = before.minmax(0, below);
            below[0] = reader.shifted(y, bounds.min, bounds.max);
        }
        Interval bounds1 = before.minmax(1, below);
        if (transform.sorted && previous != nullptr && (*previous)[0] == below[0]) bounds1.min = (*previous)[1];
        below[1] = reader.shifted(i, bounds1.min, bounds1.max);
        const Interval bounds2 = before.minmax(2, below);
        below[2] = reader.shifted(q, bounds2.min, bounds2.max);
        transform.entries.push_back(entry);
        previous = &transform.entries.back();
    }
    return transform;
}

void Palette::write(IntegerWriter& writer, const Ranges& before) const {
    Context size, y, i, q;
    writer.shifted(size, static_cast<int32_t>(entries.size()), 1, kMaxPaletteSize);
    writer.shifted(size, sorted ? 1 : 0, 0, 1);
    const Entry* previous = nullptr;
    for (const Entry& entry : entries) {
        const int32_t* below = entry.data();
        if (sorted) {
            writer.shifted(y, below[0], previous != nullptr ? (*previous)[0] : before.lo[0], before.hi[0]);
        } else {
            const Interval bounds = before.minmax(0, below);
            writer.shifted(y, below[0], bounds.min, bounds.max);
        }
        Interval bounds1 = before.minmax(1, below);
        if (sorted && previous != nullptr && (*previous)[0] == below[0]) bounds1.min = (*previous)[1];
        writer.shifted(i, below[1], bounds1.min, bounds1.max);
        const Interval bounds2 = before.minmax(2, below);
        writer.shifted(q, below[2], bounds2.min, bounds2.max);
        previous = &entry;
    }
}

std::unique_ptr<Ranges> Palette::ranges(const Ranges& before) const { return number_ranges(before, entries.size()); }

std::unique_ptr<Ranges> ColorBuckets::ranges(const Ranges&) const { return buckets->clone(); }

TransformChain::TransformChain(int planes, int32_t maximum) {
    ranges_.push_back(std::make_unique<SimpleRanges>(planes, maximum));
}

void TransformChain::append(Transform transform) {
    ranges_.push_back(std::visit([&](const auto& t) { return t.ranges(ranges()); }, transform));
    list_.push_back(std::move(transform));
}

void TransformChain::write(IntegerWriter& writer) const {
    for (size_t i = 0; i < list_.size(); ++i) {
        writer.plain_bit(true);
        writer.uniform(number_of(list_[i]), 0, kLastNumber);
        std::visit([&](const auto& transform) { transform.write(writer, before(i)); }, list_[i]);
    }
    writer.plain_bit(false);
}

TransformChain TransformChain::clone() const {
    TransformChain copy;
    copy.list_ = list_;
    for (const auto& ranges : ranges_) copy.ranges_.push_back(ranges->clone());
    return copy;
}

void TransformChain::read(IntegerReader& reader, StreamFlags& flags) {
    int previous = -1;
    while (reader.plain_bit()) {
        const int number = reader.uniform(0, kLastNumber);
        if (number <= previous) fail("corrupt: transforms are out of order");
        previous = number;
        switch (number) {
            case ChannelCompact::kNumber: append(ChannelCompact::read(reader, ranges(), flags)); break;
            case YCoCg::kNumber: append(YCoCg::read(reader, ranges(), flags)); break;
            case PermutePlanes::kNumber: append(PermutePlanes::read(reader, ranges(), flags)); break;
            case Bounds::kNumber: append(Bounds::read(reader, ranges(), flags)); break;
            case PaletteAlpha::kNumber:
                append(PaletteAlpha::read(reader, ranges(), flags));
                flags.palette_alpha = true;
                break;
            case Palette::kNumber: append(Palette::read(reader, ranges(), flags)); break;
            case ColorBuckets::kNumber: append(ColorBuckets::read(reader, ranges(), flags)); break;
            default: fail("unsupported: transform " + std::to_string(number) + " is not one of still images");
        }
    }
}

}  // namespace oslic::flif
