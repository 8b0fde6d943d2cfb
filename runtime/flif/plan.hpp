// What an encoder does to a picture before its pixels are coded: transforms, chosen from the picture.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <unordered_map>
#include <utility>
#include <vector>

#include "planes.hpp"
#include "transforms.hpp"

namespace oslic::flif {

// A picture on its way through the transforms.
template <class T>
struct Plan {
    Planes<T> planes;
    TransformChain chain;
    bool alpha_zero = false;
    bool palette_alpha = false;
    std::vector<bool> invisible;  // per pixel; empty: none

    Plan(Planes<T> planes_, int32_t maximum) : planes(std::move(planes_)), chain(planes.count, maximum) {}

    Plan clone() const {
        Plan copy(planes.clone(), 0);
        copy.chain = chain.clone();
        copy.alpha_zero = alpha_zero;
        copy.palette_alpha = palette_alpha;
        copy.invisible = invisible;
        return copy;
    }

    bool visible(size_t pixel) const { return invisible.empty() || !invisible[pixel]; }
    // Whether the color of some pixels is not coded.
    bool skips(int p) const { return p < 3 && !invisible.empty(); }
};

// Leaves the color under alpha 0 to the decoder's fill.
template <class T>
void hide_invisible(Plan<T>& plan) {
    const T* alpha = plan.planes.data[3].get();
    const size_t pixels = plan.planes.pixels();
    if (std::find(alpha, alpha + pixels, T{0}) == alpha + pixels) return;
    plan.alpha_zero = true;
    plan.invisible.resize(pixels);
    for (size_t i = 0; i < pixels; ++i) plan.invisible[i] = alpha[i] == 0;
}

// The smallest and the largest value of plane p over the pixels that are coded.
template <class T>
Interval coded_extent(const Plan<T>& plan, int p) {
    const T* samples = plan.planes.data[p].get();
    const size_t pixels = plan.planes.pixels();
    if (!plan.skips(p)) {
        const auto [min, max] = std::minmax_element(samples, samples + pixels);
        return {*min, *max};
    }
    std::optional<Interval> extent;
    for (size_t i = 0; i < pixels; ++i) {
        if (!plan.visible(i)) continue;
        const int32_t v = samples[i];
        extent = extent ? Interval{std::min(extent->min, v), std::max(extent->max, v)} : Interval{v, v};
    }
    return extent.value_or(Interval{plan.chain.ranges().lo[p], plan.chain.ranges().lo[p]});
}

// Whether some values between the smallest and the largest of a plane do not occur.
template <class T>
bool has_gaps(const Plan<T>& plan) {
    for (int p = 0; p < plan.planes.count; ++p) {
        const Interval extent = coded_extent(plan, p);
        std::vector<uint8_t> occurs(static_cast<size_t>(extent.max - extent.min) + 1);
        const T* samples = plan.planes.data[p].get();
        for (size_t i = 0; i < plan.planes.pixels(); ++i) {
            if (!plan.skips(p) || plan.visible(i)) occurs[static_cast<size_t>(samples[i] - extent.min)] = 1;
        }
        if (std::find(occurs.begin(), occurs.end(), 0) != occurs.end()) return true;
    }
    return false;
}

// Appends ChannelCompact. Values that are nobody's become 0.
template <class T>
void add_channel_compact(Plan<T>& plan) {
    ChannelCompact transform;
    const Ranges& ranges = plan.chain.ranges();
    for (int p = 0; p < plan.planes.count; ++p) {
        T* samples = plan.planes.data[p].get();
        const size_t pixels = plan.planes.pixels();
        std::vector<int32_t> position(static_cast<size_t>(ranges.span(p)) + 1);
        for (size_t i = 0; i < pixels; ++i) {
            if (!plan.skips(p) || plan.visible(i)) position[static_cast<size_t>(samples[i] - ranges.lo[p])] = 1;
        }
        // Alpha 0 must stay 0.
        if (p == 3 && plan.alpha_zero) position[0] = 1;
        int32_t next = 0;
        for (size_t v = 0; v < position.size(); ++v) {
            if (position[v] == 0) continue;
            position[v] = next++;
            transform.values[p].push_back(static_cast<int32_t>(v) + ranges.lo[p]);
        }
        if (next == 0) transform.values[p].push_back(ranges.lo[p]);
        for (size_t i = 0; i < pixels; ++i) {
            samples[i] = static_cast<T>(position[static_cast<size_t>(samples[i] - ranges.lo[p])]);
        }
    }
    plan.chain.append(std::move(transform));
}

template <class T, class ColorTransform>
void add_color_transform(Plan<T>& plan, ColorTransform transform) {
    transform.apply(plan.planes);
    plan.chain.append(std::move(transform));
}

// Appends Bounds if they are tighter than the ranges.
template <class T>
void add_bounds(Plan<T>& plan) {
    Bounds transform;
    const Ranges& ranges = plan.chain.ranges();
    bool tighter = false;
    for (int p = 0; p < plan.planes.count; ++p) {
        Interval extent = coded_extent(plan, p);
        if (p == 3 && plan.alpha_zero) extent.min = std::min(extent.min, 0);
        transform.bounds[p] = extent;
        tighter = tighter || extent.min > ranges.lo[p] || extent.max < ranges.hi[p];
    }
    if (tighter) plan.chain.append(transform);
}

enum class PaletteOrder { sorted, by_appearance };

namespace detail {

template <size_t N>
struct EntryHash {
    size_t operator()(const std::array<int32_t, N>& entry) const {
        uint64_t hash = 0;
        for (const int32_t v : entry) hash = (hash ^ static_cast<uint32_t>(v)) * 0x9e3779b97f4a7c15u;
        return static_cast<size_t>(hash ^ (hash >> 29));
    }
};

// The distinct entries of the picture, in order of appearance, and each pixel's number; nothing if there are too many.
template <size_t N, class EntryOf>
bool number_entries(size_t pixels, size_t most, EntryOf&& entry_of, std::vector<std::array<int32_t, N>>& entries,
                    std::vector<int32_t>& numbers) {
    std::unordered_map<std::array<int32_t, N>, int32_t, EntryHash<N>> known;
    numbers.resize(pixels);
    std::array<int32_t, N> previous{};
    int32_t number = -1;
    for (size_t i = 0; i < pixels; ++i) {
        const std::array<int32_t, N> entry = entry_of(i);
        if (number < 0 || entry != previous) {
            const auto [place, added] = known.try_emplace(entry, static_cast<int32_t>(entries.size()));
            if (added) {
                if (entries.size() == most) return false;
                entries.push_back(entry);
            }
            number = place->second;
            previous = entry;
        }
        numbers[i] = number;
    }
    return true;
}

template <size_t N>
void sort_entries(std::vector<std::array<int32_t, N>>& entries, std::vector<int32_t>& numbers) {
    std::vector<std::pair<std::array<int32_t, N>, int32_t>> sorted;
    for (const auto& entry : entries) sorted.emplace_back(entry, static_cast<int32_t>(sorted.size()));
    std::sort(sorted.begin(), sorted.end());
    std::vector<int32_t> place(entries.size());
    for (size_t i = 0; i < sorted.size(); ++i) {
        entries[i] = sorted[i].first;
        place[static_cast<size_t>(sorted[i].second)] = static_cast<int32_t>(i);
    }
    for (int32_t& number : numbers) number = place[static_cast<size_t>(number)];
}

template <class T>
void store_numbers(Planes<T>& planes, const std::vector<int32_t>& numbers) {
    planes.fill(0, 0);
    planes.fill(2, 0);
    for (size_t i = 0; i < numbers.size(); ++i) planes.data[1][i] = static_cast<T>(numbers[i]);
}

}  // namespace detail

// Appends PaletteAlpha or Palette. Returns false, with the plan untouched, if there are more than `most` colors.
template <class T>
bool add_palette(Plan<T>& plan, size_t most, PaletteOrder order, bool with_alpha) {
    const auto& data = plan.planes.data;
    const size_t pixels = plan.planes.pixels();
    std::vector<int32_t> numbers;
    if (with_alpha) {
        PaletteAlpha transform;
        transform.alpha_zero = plan.alpha_zero;
        const auto entry_of = [&](size_t i) {
            if (!plan.visible(i)) return PaletteAlpha::Entry{};
            return PaletteAlpha::Entry{data[3][i], data[0][i], data[1][i], data[2][i]};
        };
        if (!detail::number_entries<4>(pixels, most, entry_of, transform.entries, numbers)) return false;
        transform.sorted = order == PaletteOrder::sorted;
        if (transform.sorted) detail::sort_entries<4>(transform.entries, numbers);
        detail::store_numbers(plan.planes, numbers);
        plan.planes.fill(3, 1);
        plan.palette_alpha = true;
        plan.invisible.clear();
        plan.chain.append(std::move(transform));
        return true;
    }
    Palette transform;
    Palette::Entry last{};
    bool any = false;
    for (size_t i = 0; i < pixels && !any; ++i) {
        if (!plan.visible(i)) continue;
        last = {data[0][i], data[1][i], data[2][i]};
        any = true;
    }
    if (!any) return false;
    // Invisible pixels take the color in front of them: they cost no entry.
    const auto entry_of = [&](size_t i) {
        if (plan.visible(i)) last = {data[0][i], data[1][i], data[2][i]};
        return last;
    };
    if (!detail::number_entries<3>(pixels, most, entry_of, transform.entries, numbers)) return false;
    transform.sorted = order == PaletteOrder::sorted;
    if (transform.sorted) detail::sort_entries<3>(transform.entries, numbers);
    detail::store_numbers(plan.planes, numbers);
    plan.chain.append(std::move(transform));
    return true;
}

// Gives the pixels that are not coded values within the final ranges (the interlaced scan stores the first pixel).
template <class T>
void settle_invisible(Plan<T>& plan) {
    for (int p = 0; p < plan.planes.count; ++p) {
        if (!plan.skips(p)) continue;
        for (size_t i = 0; i < plan.planes.pixels(); ++i) {
            if (!plan.visible(i)) plan.planes.data[p][i] = static_cast<T>(plan.chain.ranges().lo[p]);
        }
    }
}

}  // namespace oslic::flif
