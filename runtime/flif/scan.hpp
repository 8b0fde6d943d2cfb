// The two scan orders: which pixels come in which order, their prediction and their properties.
//
// Decoder, encoder and learner walk the same code, each with a PixelCoder of its own. Non-interlaced 8-bit pictures are
// the usual case: for them scan_plane is a template over the coder's class. All else goes through virtual calls.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>

#include "planes.hpp"
#include "ranges.hpp"
#include "tree.hpp"

namespace oslic::flif {

inline int32_t median(int32_t a, int32_t b, int32_t c) {
    return std::max(std::min(a, b), std::min(std::max(a, b), c));
}

// How the colour planes of pixels with alpha 0 are filled instead of being coded.
struct Invisible {
    bool in_force = false;
    int predictor = 0;  // interlaced scan only
};

// The value as the format stores it in a plane of sample maximum `maximum`: only invisible pixels can wrap.
inline int32_t stored(int32_t value, int p, int32_t maximum) {
    if (p == 1 || p == 2) return value;
    return maximum < 256 ? static_cast<uint8_t>(value) : static_cast<uint16_t>(value);
}

// What is done with each pixel.
template <class T>
class PixelCoder {
   public:
    virtual ~PixelCoder() = default;

    // Returns the value of the pixel; `current` is what the plane holds there (the value to write when encoding).
    // residual.min <= value - guess <= residual.max. Pixels with only one possible value do not come here.
    virtual T code(const int32_t* properties, int32_t guess, Interval residual, T current) = 0;
};

// What the pixel loops need to know besides the range object.
template <class T>
struct Scan {
    Planes<T>& planes;
    const Ranges& ranges;
    Invisible invisible;
    int32_t maximum;  // of the samples

    bool invisible_plane(int p) const { return invisible.in_force && p < 3; }
};

inline int lower_planes(int p) { return p == 3 ? 0 : p; }

// Root intervals of the properties, in the order of the format.
inline PropertyIntervals property_intervals(const Ranges& ranges, int p, bool interlaced) {
    PropertyIntervals list;
    const auto whole = [&](int plane) { return Interval{ranges.lo[plane], ranges.hi[plane]}; };
    const Interval difference{-ranges.span(p), ranges.span(p)};
    for (int lower = 0; lower < lower_planes(p); ++lower) list.push_back(whole(lower));
    if (p < 3 && ranges.planes == 4) list.push_back(whole(3));
    if (interlaced) {
        list.push_back({0, 2});
        if (p == 1 || p == 2) list.push_back({-ranges.span(0), ranges.span(0)});
        list.insert(list.end(), 4, difference);
        list.push_back(whole(p));
        if (p != 2) list.insert(list.end(), 2, difference);
    } else {
        list.push_back(whole(p));
        list.push_back({0, 2});
        list.insert(list.end(), 5, difference);
    }
    return list;
}

// ---------------------------------------------------------------------------------------------------------------
// Non-interlaced

namespace detail {

// What both scanners know about the plane p that they walk; Lower: the number of planes below it.
template <int Lower, class T>
class PlaneScanner {
   protected:
    PlaneScanner(const Scan<T>& scan, int p)
        : plane_(scan.planes.data[p].get()),
          alpha_(scan.planes.count == 4 && p < 3 ? scan.planes.data[3].get() : nullptr),
          p_(p),
          skip_invisible_(scan.invisible_plane(p)) {
        for (int lower = 0; lower < Lower; ++lower) lower_[lower] = scan.planes.data[lower].get();
    }

    bool skipped(ptrdiff_t offset) const { return skip_invisible_ && alpha_[offset] == 0; }

    T* plane_;
    const T* alpha_;
    std::array<const T*, 2> lower_{};
    int p_;
    bool skip_invisible_;
};

template <int Lower, class T, class ConcreteRanges, class Coder>
class RowScanner : PlaneScanner<Lower, T> {
   public:
    RowScanner(const Scan<T>& scan, int p, const ConcreteRanges& ranges, Coder& coder)
        : PlaneScanner<Lower, T>(scan, p), ranges_(ranges), coder_(coder), width_(scan.planes.width) {}

    void run(int height) {
        for (int r = 0; r < height; ++r) {
            const size_t row = static_cast<size_t>(r) * static_cast<size_t>(width_);
            const int inner_end = r >= 2 ? width_ - 1 : 0;
            int c = 0;
            for (; c < std::min(r >= 2 ? 2 : width_, width_); ++c) border_pixel(row, r, c);
            for (; c < inner_end; ++c) pixel<true>(row, r, c);
            for (; c < width_; ++c) border_pixel(row, r, c);
        }
    }

   private:
    // Few pixels: small code is worth more than fast code.
    [[gnu::cold, gnu::noinline]] void border_pixel(size_t row, int r, int c) { pixel<false>(row, r, c); }

    // Inner: r >= 2, c >= 2, c is not the last column.
    template <bool Inner>
    void pixel(size_t row, int r, int c) {
        const auto offset = static_cast<ptrdiff_t>(row) + c;
        T* at = this->plane_ + offset;
        const ptrdiff_t up = width_;
        const bool has_left = Inner || c > 0;
        const bool has_top = Inner || r > 0;
        const bool skipped = this->skipped(offset);

        const int32_t lo = ranges_.lo[this->p_];
        const int32_t first = skipped ? (lo + ranges_.hi[this->p_]) / 2 : lo;
        const int32_t left = has_left ? at[-1] : has_top ? at[-up] : first;
        const int32_t top = has_top ? at[-up] : left;
        const int32_t corner = has_left && has_top ? at[-up - 1] : has_top ? top : left;
        const int32_t gradient = left + top - corner;
        int32_t guess = median(gradient, left, top);
        if (skipped) {
            *at = static_cast<T>(guess);
            return;
        }

        int32_t properties[kMaxProperties] = {};
        for (int lower = 0; lower < Lower; ++lower) properties[lower] = this->lower_[lower][offset];
        const Interval bounds = ranges_.snap(this->p_, properties, guess);
        if (bounds.min == bounds.max) {
            *at = static_cast<T>(bounds.min);
            return;
        }
        int k = Lower;
        if (this->alpha_ != nullptr) properties[k++] = this->alpha_[offset];
        properties[k++] = guess;
        properties[k++] = guess == gradient ? 0 : guess == left ? 1 : guess == top ? 2 : 0;
        properties[k++] = has_left && has_top ? left - corner : 0;
        properties[k++] = has_left && has_top ? corner - top : 0;
        properties[k++] = Inner || (r > 0 && c + 1 < width_) ? top - at[-up + 1] : 0;
        properties[k++] = Inner || r > 1 ? at[-2 * up] - top : 0;
        properties[k++] = Inner || c > 1 ? at[-2] - left : 0;
        *at = coder_.code(properties, guess, Interval{bounds.min - guess, bounds.max - guess}, *at);
    }

    const ConcreteRanges& ranges_;
    Coder& coder_;
    int width_;
};

// Calls use(number of lower planes as a compile-time constant, range object).
template <class T, class Use>
void with_plane(const Ranges& ranges, int p, Use&& use) {
    // Pictures of more than 8 bits go through virtual calls: they are rare, and the templates cost compile time.
    constexpr bool fast = sizeof(T) == 2;
    const auto pick = [&](auto lower) {
        with_ranges<fast, lower()>(ranges, [&](const auto& concrete) { use(lower, concrete); });
    };
    switch (lower_planes(p)) {
        case 0: return pick(std::integral_constant<int, 0>{});
        case 1: return pick(std::integral_constant<int, 1>{});
        default: return pick(std::integral_constant<int, 2>{});
    }
}

template <class T, class Coder>
void scan_rows(const Scan<T>& scan, int p, Coder& coder) {
    with_plane<T>(scan.ranges, p, [&](auto lower, const auto& ranges) {
        using Concrete = std::decay_t<decltype(ranges)>;
        RowScanner<lower(), T, Concrete, Coder>(scan, p, ranges, coder).run(scan.planes.height);
    });
}

}  // namespace detail

// The same for pictures of more than 8 bits, which are rare: one instance for all coders.
void scan_wide_plane(const Scan<int32_t>& scan, int p, PixelCoder<int32_t>& coder);

// One whole plane, row by row.
template <class T, class Coder>
void scan_plane(const Scan<T>& scan, int p, Coder& coder) {
    if constexpr (sizeof(T) == 2) {
        detail::scan_rows(scan, p, coder);
    } else {
        scan_wide_plane(scan, p, coder);
    }
}

// The planes in the order in which a non-interlaced file holds them.
inline std::array<int, kMaxPlanes> plane_order() { return {3, 0, 1, 2}; }

// ---------------------------------------------------------------------------------------------------------------
// Interlaced

// The grids of the zoom levels.
struct Zoom {
    static int row_step(int z) { return 1 << ((z + 1) / 2); }
    static int column_step(int z) { return 1 << (z / 2); }

    // The smallest level with one pixel.
    static int last_level(int width, int height) {
        int z = 0;
        while ((int64_t{1} << ((z + 1) / 2)) < height || (int64_t{1} << (z / 2)) < width) ++z;
        return z;
    }
};

// The pixels that one zoom level adds to one plane; predictor 0..2.
template <class T>
void scan_level(const Scan<T>& scan, int p, int level, int predictor, PixelCoder<T>& coder);

// The order of the (plane, level) steps of a pass over the levels begin..end, where no explicit order is stored.
class DefaultOrder {
   public:
    DefaultOrder(int planes, bool first_constant, int begin, int end) : planes_(planes), end_(end) {
        lag_ = first_constant ? std::array<int, kMaxPlanes>{0, 0, 1, 0} : std::array<int, kMaxPlanes>{0, 2, 4, 0};
        lead_ = planes == 4 ? 3 : 0;
        done_.fill(begin + 1);
    }

    // The plane of the next step; its level is the next lower one of that plane.
    int next() {
        int chosen = lead_;
        if (started_) {
            for (int p = planes_ - 1; p >= 0; --p) {
                if (done_[static_cast<size_t>(p)] > done_[static_cast<size_t>(lead_)] + lag_[static_cast<size_t>(p)]) {
                    chosen = p;
                    break;
                }
            }
            while (done_[static_cast<size_t>(chosen)] <= end_) chosen = (chosen + 1) % planes_;
        }
        started_ = true;
        --done_[static_cast<size_t>(chosen)];
        return chosen;
    }

   private:
    int planes_;
    int end_;
    int lead_;
    bool started_ = false;
    std::array<int, kMaxPlanes> lag_;
    std::array<int, kMaxPlanes> done_;
};

}  // namespace oslic::flif
