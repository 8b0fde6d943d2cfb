// The two scan orders: which pixels come in which order, their prediction and their properties.
//
// Decoder, encoder and learner walk the same code, each with coders of its own. Non-interlaced pictures are the usual
// case: for them scan_plane is a template over the coder's class. The interlaced scan goes through virtual calls.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "planes.hpp"
#include "ranges.hpp"
#include "tree.hpp"

namespace oslic::flif {

inline int32_t median(int32_t a, int32_t b, int32_t c) {
    return std::max(std::min(a, b), std::min(std::max(a, b), c));
}

// How the color planes of pixels with alpha 0 are filled instead of being coded.
struct Invisible {
    bool in_force = false;
    int predictor = 0;  // interlaced scan only
};

// The value as the format stores it in a plane of sample maximum `maximum`: only invisible pixels can wrap.
inline int32_t stored(int32_t value, int p, int32_t maximum) {
    if (p == 1 || p == 2) return value;
    return maximum < 256 ? static_cast<uint8_t>(value) : static_cast<uint16_t>(value);
}

// What is done with each pixel of an interlaced picture.
template <class T>
class PixelCoder {
   public:
    virtual ~PixelCoder() = default;

    // Returns the value of the pixel; `current` is what the plane holds there (the value to write when encoding).
    // residual.min <= value - guess <= residual.max. Pixels with only one possible value do not come here.
    virtual T code(const int32_t* properties, int32_t guess, Interval residual, T current) = 0;
};

// Non-interlaced pictures are coded row by row. Most properties of a row's pixels are known before its first pixel is.
template <class T>
struct Row {
    // By property, a value per column. nullptr: it depends on pixels to the left, as guess, kind, L - D and LL - L do.
    std::array<const T*, kMaxProperties> known{};
    int near = 0;  // the first property after those of other planes

    int guess() const { return near; }
    int kind() const { return near + 1; }
    int left_corner() const { return near + 2; }
    int corner_top() const { return near + 3; }
    int top_right() const { return near + 4; }
    int above_top() const { return near + 5; }
    int left_left() const { return near + 6; }
    int size() const { return near + 7; }
};

// What the other properties of a pixel come from.
struct Near {
    int32_t guess;
    int32_t gradient;
    int32_t left;
    int32_t top;
    int32_t corner;
    int32_t far_left;

    int32_t kind() const { return guess == gradient ? 0 : guess == left ? 1 : guess == top ? 2 : 0; }
    int32_t left_corner() const { return left - corner; }
    int32_t left_left() const { return far_left - left; }
};

// All properties of a pixel, in the order of the format.
template <class T>
void gather_properties(const Row<T>& row, int column, const Near& near, int32_t* properties) {
    for (int k = 0; k < row.near; ++k) properties[k] = row.known[static_cast<size_t>(k)][column];
    properties[row.guess()] = near.guess;
    properties[row.kind()] = near.kind();
    properties[row.left_corner()] = near.left_corner();
    for (const int k : {row.corner_top(), row.top_right(), row.above_top()}) {
        properties[k] = row.known[static_cast<size_t>(k)][column];
    }
    properties[row.left_left()] = near.left_left();
}

// A RowCoder is a small value, of which each row uses a copy. It has
//   void start_row(const Row<T>& row);
//   T code(int column, const Near& near, Interval residual, T current);   // as PixelCoder::code
// This one gives another coder all properties of a pixel at once.
template <class T, class Coder>
class WholeProperties {
   public:
    explicit WholeProperties(Coder& coder) : coder_(&coder) {}

    void start_row(const Row<T>& row) { row_ = &row; }
    T code(int column, const Near& near, Interval residual, T current) {
        int32_t properties[kMaxProperties];
        gather_properties(*row_, column, near, properties);
        return coder_->code(properties, near.guess, residual, current);
    }

   private:
    Coder* coder_;
    const Row<T>* row_ = nullptr;
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
        : PlaneScanner<Lower, T>(scan, p),
          ranges_(ranges),
          coder_(coder),
          width_(scan.planes.width),
          steps_(static_cast<size_t>(width_) + 1),
          rises_(static_cast<size_t>(width_)),
          allowed_(kAhead ? static_cast<size_t>(width_) : 0) {
        row_.near = Lower + (this->alpha_ != nullptr ? 1 : 0);
        row_.known[static_cast<size_t>(row_.corner_top())] = &steps_[0];
        row_.known[static_cast<size_t>(row_.top_right())] = &steps_[1];
        row_.known[static_cast<size_t>(row_.above_top())] = rises_.data();
    }

    void run(int height) {
        for (int r = 0; r < height; ++r) {
            const ptrdiff_t offset = ptrdiff_t{r} * width_;
            start_row(offset, r);
            if (r == 0) {
                row<true>(offset);
            } else {
                row<false>(offset);
            }
        }
    }

   private:
    // Whether the allowed values are the same everywhere, or can be found a row ahead.
    static constexpr bool kFixed = std::is_same_v<ConcreteRanges, SimpleRanges>;
    static constexpr bool kAhead = !kFixed && requires(const ConcreteRanges& ranges) { ranges.allowed(0, nullptr); };

    // What is known of the row at `offset` before its first pixel is.
    void start_row(ptrdiff_t offset, int r) {
        for (size_t lower = 0; lower < Lower; ++lower) row_.known[lower] = this->lower_[lower] + offset;
        if (this->alpha_ != nullptr) row_.known[Lower] = this->alpha_ + offset;
        if (r > 0) {
            // D - T of a pixel is T - TR of the one before.
            const T* top = this->plane_ + offset - width_;
            T* steps = steps_.data() + 1;
            for (int c = 0; c + 1 < width_; ++c) steps[c] = static_cast<T>(top[c] - top[c + 1]);
        }
        if (r > 1) {
            const T* top = this->plane_ + offset - width_;
            T* rises = rises_.data();
            for (int c = 0; c < width_; ++c) rises[c] = static_cast<T>(top[c - width_] - top[c]);
        }
        if constexpr (kAhead) {
            Allowed* allowed = allowed_.data();
            for (int c = 0; c < width_; ++c) allowed[c] = ranges_.allowed(this->p_, below(offset + c).data());
        }
        coder_.start_row(row_);
    }

    std::array<int32_t, Lower + 1> below(ptrdiff_t offset) const {
        std::array<int32_t, Lower + 1> values{};
        for (int lower = 0; lower < Lower; ++lower) values[static_cast<size_t>(lower)] = this->lower_[lower][offset];
        return values;
    }

    // Moves the guess to an allowed value.
    Interval snap(ptrdiff_t offset, int c, int32_t& guess) const {
        if constexpr (kFixed) {
            // A median of allowed values is allowed.
            return {ranges_.lo[this->p_], ranges_.hi[this->p_]};
        } else if constexpr (kAhead) {
            const Allowed& allowed = allowed_[static_cast<size_t>(c)];
            guess = std::max(allowed.guess.min, std::min(guess, allowed.guess.max));
            return allowed.value;
        } else {
            return ranges_.snap(this->p_, below(offset + c).data(), guess);
        }
    }

    template <bool First>
    void row(ptrdiff_t offset) {
        T* at = this->plane_ + offset;
        Coder coder = coder_;
        int32_t left;
        if constexpr (First) {
            const int32_t lo = ranges_.lo[this->p_];
            left = this->skipped(0) ? (lo + ranges_.hi[this->p_]) / 2 : lo;
        } else {
            left = at[-width_];
        }
        int32_t corner = left;
        int32_t far_left = left;
        for (int c = 0; c < width_; ++c) {
            const int32_t top = First ? left : at[c - width_];
            if constexpr (First) corner = left;
            const int32_t gradient = left + top - corner;
            // The median of gradient, left and top; what does not depend on the left comes first.
            const int32_t slope = top - corner;
            int32_t value = std::max(left + std::min(slope, 0), std::min(top, left + std::max(slope, 0)));
            if (!this->skipped(offset + c)) {
                const Interval bounds = snap(offset, c, value);
                if (bounds.min == bounds.max) {
                    value = bounds.min;
                } else {
                    const int32_t guess = value;
                    value = coder.code(c, Near{guess, gradient, left, top, corner, far_left},
                                       Interval{bounds.min - guess, bounds.max - guess}, at[c]);
                }
            }
            at[c] = static_cast<T>(value);
            far_left = c == 0 ? value : left;
            left = value;
            corner = top;
        }
        coder_ = coder;
    }

    const ConcreteRanges& ranges_;
    Coder& coder_;
    int width_;
    Row<T> row_;
    std::vector<T> steps_;  // from one pixel of the row above to the next, and 0 at both ends
    std::vector<T> rises_;  // from the row above to the one above that
    std::vector<Allowed> allowed_;
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

}  // namespace detail

// One whole plane, row by row, by a RowCoder.
template <class T, class Coder>
void scan_plane(const Scan<T>& scan, int p, Coder& coder) {
    detail::with_plane<T>(scan.ranges, p, [&](auto lower, const auto& ranges) {
        using Concrete = std::decay_t<decltype(ranges)>;
        detail::RowScanner<lower(), T, Concrete, Coder>(scan, p, ranges, coder).run(scan.planes.height);
    });
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
