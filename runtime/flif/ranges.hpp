// The range of every plane's values, and how it narrows when the lower planes of a pixel are known.
//
// Each transform replaces the range object by a new one built on the old one. The pixel coders are templates over
// the final classes, so the virtual calls below cost only in headers.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <utility>
#include <vector>

#include "error.hpp"

namespace oslic::flif {

inline constexpr int kMaxPlanes = 4;

struct Interval {
    int32_t min;
    int32_t max;
};

// What snap does at a pixel where the allowed values are an interval: it clamps the guess, mostly to the same interval.
struct Allowed {
    Interval guess;
    Interval value;
};

class Ranges {
   public:
    virtual ~Ranges() = default;

    // Bounds of plane p at a pixel; below: the values of the planes 0..p-1 there (p <= 2).
    virtual Interval minmax(int p, const int32_t* below) const = 0;

    // Moves v to an allowed value and returns the bounds; min <= v <= max holds afterwards.
    virtual Interval snap(int p, const int32_t* below, int32_t& v) const = 0;

    // Whether minmax ignores the lower planes.
    virtual bool simple() const { return false; }

    virtual std::unique_ptr<Ranges> clone() const = 0;

    bool constant(int p) const { return lo[p] >= hi[p]; }
    int32_t span(int p) const { return hi[p] - lo[p]; }

    int planes = 1;
    std::array<int32_t, kMaxPlanes> lo{};
    std::array<int32_t, kMaxPlanes> hi{};

   protected:
    // Un-inverts the interval and clamps v to it.
    static Interval clamp_into(Interval bounds, int32_t& v) {
        bounds.max = std::max(bounds.min, bounds.max);
        v = std::max(std::min(v, bounds.max), bounds.min);
        return bounds;
    }
};

// The same bounds everywhere.
class SimpleRanges final : public Ranges {
   public:
    SimpleRanges() = default;
    SimpleRanges(int planes_, int32_t maximum) {
        planes = planes_;
        hi.fill(maximum);
    }

    Interval minmax(int p, const int32_t*) const override { return {lo[p], hi[p]}; }
    Interval snap(int p, const int32_t*, int32_t& v) const override { return clamp_into({lo[p], hi[p]}, v); }
    bool simple() const override { return true; }
    std::unique_ptr<Ranges> clone() const override { return std::make_unique<SimpleRanges>(*this); }
};

// Behind the YCoCg transform: Co is bounded by Y, Cg by Y and Co.
class YCoCgRanges final : public Ranges {
   public:
    explicit YCoCgRanges(const Ranges& before) {
        planes = before.planes;
        quarter_ = std::max({before.hi[0], before.hi[1], before.hi[2]}) / 4 + 1;
        top_ = 4 * quarter_ - 1;
        lo = {0, -top_, -top_, before.lo[3]};
        hi = {top_, top_, top_, before.hi[3]};
    }

    Interval minmax(int p, const int32_t* below) const override {
        if (p == 1) return co(below[0]);
        if (p == 2) return cg(below[0], below[1]);
        return {lo[p], hi[p]};
    }
    Interval snap(int p, const int32_t* below, int32_t& v) const override {
        return clamp_into(minmax(p, below), v);
    }
    std::unique_ptr<Ranges> clone() const override { return std::make_unique<YCoCgRanges>(*this); }

   private:
    // In each zone of the format's tables another term is the least.
    Interval co(int32_t y) const {
        const int32_t most = std::min({4 * y + 3, top_, 4 * (top_ - y)});
        return {-most, most};
    }

    Interval cg(int32_t y, int32_t co_value) const {
        const int32_t k = std::abs(co_value);
        const int32_t even = 2 * (k / 2);
        const int32_t odd = 2 * ((k + 1) / 2);
        const int32_t dark = 2 * y + 1;
        const int32_t bright = 2 * (top_ - y);
        const bool allowed = k <= co(y).max;
        return {allowed ? -std::min(dark, bright - odd) : 8 * quarter_,
                allowed ? std::min(bright, dark - even) : -8 * quarter_};
    }

    int32_t quarter_;
    int32_t top_;
};

// Behind PermutePlanes: planes in a new order, plane 0 possibly subtracted from planes 1 and 2.
class PermutedRanges final : public Ranges {
   public:
    PermutedRanges(const Ranges& before, const std::array<int, kMaxPlanes>& permutation, bool subtract)
        : subtract_(subtract) {
        planes = before.planes;
        for (int p = 0; p < planes; ++p) {
            lo[p] = plain_lo_[p] = before.lo[permutation[p]];
            hi[p] = plain_hi_[p] = before.hi[permutation[p]];
        }
        for (int p = 1; subtract && p < 3; ++p) {
            lo[p] -= plain_hi_[0];
            hi[p] -= plain_lo_[0];
        }
    }

    Interval minmax(int p, const int32_t* below) const override {
        if (subtract_ && (p == 1 || p == 2)) return {plain_lo_[p] - below[0], plain_hi_[p] - below[0]};
        return {lo[p], hi[p]};
    }
    Interval snap(int p, const int32_t* below, int32_t& v) const override {
        return clamp_into(minmax(p, below), v);
    }
    std::unique_ptr<Ranges> clone() const override { return std::make_unique<PermutedRanges>(*this); }

   private:
    std::array<int32_t, kMaxPlanes> plain_lo_{};
    std::array<int32_t, kMaxPlanes> plain_hi_{};
    bool subtract_;
};

// Behind Bounds on a range that is not simple.
template <class Inner>
class BoundedRanges final : public Ranges {
   public:
    BoundedRanges(const Inner& inner, const std::array<Interval, kMaxPlanes>& bounds) : inner_(inner), bounds_(bounds) {
        planes = inner.planes;
        for (int p = 0; p < planes; ++p) {
            lo[p] = std::max(inner.lo[p], bounds[p].min);
            hi[p] = std::min(inner.hi[p], bounds[p].max);
        }
    }

    Interval minmax(int p, const int32_t* below) const override {
        if (p == 0 || p == 3) return bounds_[p];
        return cut(p, inner_.minmax(p, below));
    }
    Allowed allowed(int p, const int32_t* below) const {
        if (p == 0 || p == 3) return {bounds_[p], bounds_[p]};
        Interval inner = inner_.minmax(p, below);
        inner.max = std::max(inner.min, inner.max);
        const Interval value = cut(p, inner);
        return {{std::clamp(inner.min, value.min, value.max), std::clamp(inner.max, value.min, value.max)}, value};
    }
    Interval snap(int p, const int32_t* below, int32_t& v) const override {
        const auto [guess, value] = allowed(p, below);
        v = std::clamp(v, guess.min, guess.max);
        return value;
    }
    std::unique_ptr<Ranges> clone() const override { return std::make_unique<BoundedRanges>(*this); }

   private:
    Interval cut(int p, Interval inner) const {
        const Interval both{std::max(inner.min, bounds_[p].min), std::min(inner.max, bounds_[p].max)};
        return both.min <= both.max ? both : bounds_[p];
    }

    Inner inner_;
    std::array<Interval, kMaxPlanes> bounds_;
};

// A set of values: empty, an interval, or a sorted list whose ends are min and max.
struct Bucket {
    int32_t min = 0;
    int32_t max = -1;
    std::vector<int32_t> values;  // empty: every value from min to max

    bool empty() const { return min > max; }
    bool contains(int32_t v) const {
        if (v < min || v > max) return false;
        return values.empty() || std::binary_search(values.begin(), values.end(), v);
    }
    // The nearest value; the smaller one on a tie. Not for an empty bucket.
    int32_t nearest(int32_t v) const {
        if (v <= min) return min;
        if (v >= max) return max;
        if (values.empty()) return v;
        const auto above = std::lower_bound(values.begin(), values.end(), v);
        if (*above == v) return v;
        const int32_t lower = *(above - 1);
        return v - lower <= *above - v ? lower : *above;
    }
};

// Behind ColorBuckets: the values that occur, listed per value of plane 0 and per group of four values of plane 1.
class BucketRanges final : public Ranges {
   public:
    explicit BucketRanges(const Ranges& before) {
        planes = before.planes;
        lo = before.lo;
        hi = before.hi;
        groups_ = static_cast<size_t>(span(1) / 4 + 1);
        plane1.resize(static_cast<size_t>(span(0)) + 1);
        plane2.resize(plane1.size() * groups_);
    }

    size_t groups() const { return groups_; }
    Bucket& bucket1(int32_t y) { return plane1[static_cast<size_t>(y - lo[0])]; }
    Bucket& bucket2(int32_t y, size_t group) { return plane2[static_cast<size_t>(y - lo[0]) * groups_ + group]; }

    Interval minmax(int p, const int32_t* below) const override {
        const Bucket* bucket = find(p, below);
        return bucket == nullptr ? Interval{lo[p], hi[p]} : Interval{bucket->min, bucket->max};
    }
    Interval snap(int p, const int32_t* below, int32_t& v) const override {
        const Bucket* bucket = find(p, below);
        if (bucket == nullptr) {
            v = lo[p];
            return {lo[p], hi[p]};
        }
        v = bucket->nearest(v);
        return {bucket->min, bucket->max};
    }
    std::unique_ptr<Ranges> clone() const override { return std::make_unique<BucketRanges>(*this); }

    Bucket plane0;
    std::vector<Bucket> plane1;
    std::vector<Bucket> plane2;
    Bucket plane3;

   private:
    // nullptr where the bucket is empty or does not exist.
    const Bucket* find(int p, const int32_t* below) const {
        const Bucket* bucket = nullptr;
        if (p == 0) {
            bucket = &plane0;
        } else if (p == 3) {
            bucket = &plane3;
        } else {
            if (below[0] < lo[0] || below[0] > hi[0]) return nullptr;
            const size_t y = static_cast<size_t>(below[0] - lo[0]);
            if (p == 1) {
                bucket = &plane1[y];
            } else {
                if (below[1] < lo[1] || below[1] > hi[1]) return nullptr;
                bucket = &plane2[y * groups_ + static_cast<size_t>((below[1] - lo[1]) / 4)];
            }
        }
        return bucket->empty() ? nullptr : bucket;
    }

    size_t groups_;
};

// Calls use(range object), with a concrete class where speed is worth the code: `lower` is the number of lower planes
// that bounds may depend on. Planes without lower ones have fixed bounds everywhere but behind ColorBuckets.
template <bool Fast, int Lower, class Use>
void with_ranges(const Ranges& ranges, Use&& use) {
    if constexpr (Fast && Lower > 0) {
        if (const auto* r = dynamic_cast<const SimpleRanges*>(&ranges)) return use(*r);
        if (const auto* r = dynamic_cast<const BoundedRanges<YCoCgRanges>*>(&ranges)) return use(*r);
        if (const auto* r = dynamic_cast<const BoundedRanges<PermutedRanges>*>(&ranges)) return use(*r);
    }
    if constexpr (Lower == 0) {
        if (dynamic_cast<const BucketRanges*>(&ranges) == nullptr) {
            SimpleRanges fixed;
            fixed.planes = ranges.planes;
            fixed.lo = ranges.lo;
            fixed.hi = ranges.hi;
            return use(std::as_const(fixed));
        }
    }
    use(ranges);
}

}  // namespace oslic::flif
