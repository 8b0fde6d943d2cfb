// The arithmetic coder: 24-bit range, one byte at a time, plain and modeled binary decisions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "error.hpp"

namespace oslic::flif {

inline constexpr uint32_t kRangeTop = 1u << 24;
inline constexpr uint32_t kRangeBottom = 1u << 16;

class RangeDecoder {
   public:
    explicit RangeDecoder(std::span<const uint8_t> stream) : next_(stream.data()), end_(stream.data() + stream.size()) {
        for (int i = 0; i < 3; ++i) low_ = (low_ << 8) | byte();
    }

    bool plain_bit() { return decide(range_ >> 1); }

    // q: the chance of a 1, in 1..4095. Good where the processor can mostly predict the bit.
    [[gnu::always_inline]] bool modeled_bit(uint32_t q) { return decide(one_part(q)); }

    // The same for bits that are as good as random: no branch depends on them.
    [[gnu::always_inline]] uint32_t modeled_bit_branchless(uint32_t q) {
        const uint32_t one_part = this->one_part(q);
        const uint32_t zero_part = range_ - one_part;
        const uint32_t one = low_ >= zero_part ? 1 : 0;
        const uint32_t mask = 0u - one;
        low_ -= zero_part & mask;
        range_ = zero_part + ((one_part - zero_part) & mask);
        normalize();
        return one;
    }

    // Bytes not consumed yet; 0 behind the last decision of a well-formed stream.
    size_t remaining() const { return static_cast<size_t>(end_ - next_); }

   private:
    // The product is below 2^36.
    uint32_t one_part(uint32_t q) const { return static_cast<uint32_t>((uint64_t{range_} * q + 2048) >> 12); }

    [[gnu::always_inline]] bool decide(uint32_t one_part) {
        const uint32_t zero_part = range_ - one_part;
        const bool one = low_ >= zero_part;
        low_ -= one ? zero_part : 0;
        range_ = one ? one_part : zero_part;
        normalize();
        return one;
    }

    [[gnu::always_inline]] void normalize() {
        while (range_ <= kRangeBottom) {
            low_ = (low_ << 8) | byte();
            range_ <<= 8;
        }
    }

    [[gnu::always_inline]] uint32_t byte() {
        if (next_ == end_) [[unlikely]] truncated();
        return *next_++;
    }

    [[noreturn, gnu::noinline, gnu::cold]] static void truncated() {
        fail("truncated: the compressed stream ends too early");
    }

    const uint8_t* next_;
    const uint8_t* end_;
    uint32_t range_ = kRangeTop;
    uint32_t low_ = 0;
};

class RangeEncoder {
   public:
    // Appends to `out`.
    explicit RangeEncoder(std::vector<uint8_t>& out) : out_(out), start_(out.size()) {}

    void plain_bit(bool one) { decide(range_ >> 1, one); }

    void modeled_bit(uint32_t q, bool one) {
        decide(static_cast<uint32_t>((uint64_t{range_} * q + 2048) >> 12), one);
    }

    // Writes the end of the stream; nothing may be coded behind it.
    void finish() {
        low_ += kRangeBottom - 1;
        for (int i = 0; i < 3; ++i) shift();
    }

   private:
    void decide(uint32_t one_part, bool one) {
        const uint32_t zero_part = range_ - one_part;
        low_ += one ? zero_part : 0;
        range_ = one ? one_part : zero_part;
        while (range_ <= kRangeBottom) {
            shift();
            range_ <<= 8;
        }
    }

    void shift() {
        if (low_ >= kRangeTop) {  // the carry ripples into the bytes written before
            size_t i = out_.size();
            while (i > start_ && ++out_[i - 1] == 0) --i;
        }
        out_.push_back(static_cast<uint8_t>(low_ >> 16));
        low_ = (low_ & 0xffffu) << 8;
    }

    std::vector<uint8_t>& out_;
    size_t start_;
    uint32_t range_ = kRangeTop;
    uint32_t low_ = 0;
};

}  // namespace oslic::flif
