// Integers as binary decisions: uniform U, near-zero Z, shifted G.
//
// Reader and Writer are the two ends of one grammar: `near_zero_decisions` spells the decisions of a known value
// (for writing, and for estimating costs), `Reader::near_zero` finds the value from them.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>

#include "chance.hpp"
#include "range_coder.hpp"

namespace oslic::flif {

inline int log2_floor(uint32_t n) { return std::bit_width(n) - 1; }

// The chances of one context. Layout: zero flag, sign, exponent (e, sign) pairs, mantissa bits.
struct alignas(64) Context {
    static constexpr int kZero = 0;
    static constexpr int kSign = 1;
    static constexpr int kExponent = 2;
    static constexpr int kExponents = 17;
    static constexpr int kMantissa = kExponent + 2 * kExponents;
    static constexpr int kMantissas = 18;
    static constexpr int kSize = kMantissa + kMantissas;

    std::array<uint16_t, kSize> chance;

    Context() {
        constexpr uint16_t exponent[] = {1000, 1200, 1500, 1750, 2000, 2300, 2800, 2400, 2300};
        constexpr uint16_t mantissa[] = {1900, 1850, 1800, 1750, 1650, 1600, 1600};
        chance.fill(2048);
        chance[kZero] = 1000;
        for (int e = 0; e < 9; ++e) chance[kExponent + 2 * e] = chance[kExponent + 2 * e + 1] = exponent[e];
        for (int i = 0; i < 7; ++i) chance[kMantissa + i] = mantissa[i];
    }

    static int exponent(int e, bool positive) { return kExponent + 2 * e + (positive ? 1 : 0); }
    static int mantissa(int i) { return kMantissa + i; }
};

// Calls decision(index into Context::chance, bit) for every decision of value, lo <= value <= hi, lo <= 0 <= hi.
template <class Decision>
inline void near_zero_decisions(int32_t value, int32_t lo, int32_t hi, Decision&& decision) {
    if (lo == hi) return;
    decision(Context::kZero, value == 0);
    if (value == 0) return;
    const bool positive = value > 0;
    if (lo < 0 && hi > 0) decision(Context::kSign, positive);
    const uint32_t magnitude = static_cast<uint32_t>(positive ? value : -value);
    const uint32_t largest = static_cast<uint32_t>(positive ? hi : -lo);
    const int e = log2_floor(magnitude);
    const int last = log2_floor(largest);
    for (int i = 0; i < e; ++i) decision(Context::exponent(i, positive), false);
    if (e < last) decision(Context::exponent(e, positive), true);
    uint32_t prefix = 1u << e;
    for (int i = e - 1; i >= 0; --i) {
        if (prefix + (1u << i) > largest) continue;
        const bool one = (magnitude >> i) & 1;
        decision(Context::mantissa(i), one);
        if (one) prefix += 1u << i;
    }
}

class IntegerReader {
   public:
    explicit IntegerReader(RangeDecoder& bits, const ChanceTable& table = default_chances())
        : bits_(bits), table_(table) {}

    bool plain_bit() { return bits_.plain_bit(); }

    // lo <= hi.
    int32_t uniform(int32_t lo, int32_t hi) {
        for (int32_t n = hi - lo; n > 0;) {
            const int32_t half = n / 2;
            if (bits_.plain_bit()) {
                lo += half + 1;
                n -= half + 1;
            } else {
                n = half;
            }
        }
        return lo;
    }

    // lo <= 0 <= hi. Inlined into the pixel loops, which then hold the state of `bits` in registers.
    [[gnu::always_inline]] int32_t near_zero(Context& context, int32_t lo, int32_t hi) {
        if (lo == hi) return lo;
        if (modeled(context, Context::kZero)) return 0;
        const uint32_t positive = lo < 0 && hi > 0 ? modeled_branchless(context, Context::kSign) : lo == 0;
        const uint32_t sign = positive - 1;  // all bits set where the value is negative
        const uint32_t largest = (static_cast<uint32_t>(hi) & ~sign) | (static_cast<uint32_t>(-lo) & sign);
        uint32_t magnitude = 1;
        for (int e = 0;; ++e, magnitude <<= 1) {
            if (2 * magnitude > largest) {
                // The largest possible exponent: bits that would lead beyond `largest` are known.
                for (int i = e - 1; i >= 0; --i) {
                    if (magnitude + (1u << i) > largest) continue;
                    magnitude += modeled_branchless(context, Context::mantissa(i)) << i;
                }
                break;
            }
            if (modeled(context, Context::kExponent + 2 * e + static_cast<int>(positive))) {
                for (int i = e - 1; i >= 0; --i) magnitude += modeled_branchless(context, Context::mantissa(i)) << i;
                break;
            }
        }
        return static_cast<int32_t>((magnitude ^ sign) - sign);
    }

    // Any interval; an inverted one means a corrupt file.
    int32_t shifted(Context& context, int32_t lo, int32_t hi) {
        if (lo > hi) fail("corrupt: a number has an empty range");
        const int32_t nearest = std::max(lo, std::min(0, hi));
        return nearest + near_zero(context, lo - nearest, hi - nearest);
    }

   private:
    [[gnu::always_inline]] uint32_t modeled_branchless(Context& context, int index) {
        uint16_t& chance = context.chance[static_cast<size_t>(index)];
        const uint32_t one = bits_.modeled_bit_branchless(chance);
        chance = table_.next[one][chance];
        return one;
    }

    [[gnu::always_inline]] bool modeled(Context& context, int index) {
        uint16_t& chance = context.chance[static_cast<size_t>(index)];
        const bool one = bits_.modeled_bit(chance);
        chance = table_.next[one][chance];
        return one;
    }

    RangeDecoder& bits_;
    const ChanceTable& table_;
};

class IntegerWriter {
   public:
    explicit IntegerWriter(RangeEncoder& bits, const ChanceTable& table = default_chances())
        : bits_(bits), table_(table) {}

    void plain_bit(bool one) { bits_.plain_bit(one); }

    void uniform(int32_t value, int32_t lo, int32_t hi) {
        for (int32_t n = hi - lo; n > 0;) {
            const int32_t half = n / 2;
            const bool upper = value > lo + half;
            bits_.plain_bit(upper);
            if (upper) {
                lo += half + 1;
                n -= half + 1;
            } else {
                n = half;
            }
        }
    }

    void near_zero(Context& context, int32_t value, int32_t lo, int32_t hi) {
        near_zero_decisions(value, lo, hi, [&](int index, bool one) {
            uint16_t& chance = context.chance[static_cast<size_t>(index)];
            bits_.modeled_bit(chance, one);
            chance = table_.next[one][chance];
        });
    }

    void shifted(Context& context, int32_t value, int32_t lo, int32_t hi) {
        if (lo > 0) {
            near_zero(context, value - lo, 0, hi - lo);
        } else if (hi < 0) {
            near_zero(context, value - hi, lo - hi, 0);
        } else {
            near_zero(context, value, lo, hi);
        }
    }

   private:
    RangeEncoder& bits_;
    const ChanceTable& table_;
};

}  // namespace oslic::flif
