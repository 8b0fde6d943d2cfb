// Learning of MANIAC trees from the pixels of a plane.
//
// The residual of a pixel is a short string of binary decisions. A SampleTable holds, for every pixel of a plane, its
// properties and that string (runs of equal pixels are one weighted sample). grow_tree splits greedily: it tries every
// property at every quantile of it, and takes the split that lowers the cost of the decisions most.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <vector>

#include "integer_coder.hpp"
#include "tree.hpp"

namespace oslic::flif {

// The decisions that spell a residual, each as index in the context * 2 + bit. Lower mantissa bits are left out: they
// are noise, and cannot tell good splits from bad ones.
struct Symbol {
    static constexpr int kMantissa = 1;
    static constexpr size_t kLongest = 2 + Context::kExponents + kMantissa;

    std::array<uint8_t, kLongest> decision;
    uint8_t length = 0;

    std::span<const uint8_t> decisions() const { return {decision.data(), length}; }
};

class SampleTable {
   public:
    SampleTable(int properties, size_t pixels)
        : properties_(properties),
          capacity_(pixels < kMaxSamples ? pixels : kMaxSamples),
          values_(std::make_unique_for_overwrite<int32_t[]>(capacity_ * static_cast<size_t>(properties))) {
        symbols_.reserve(capacity_);
        weights_.reserve(capacity_);
    }

    void add(const int32_t* properties, int32_t residual, Interval allowed) {
        if (!repeats(properties, residual, allowed)) {
            push(properties, residual, allowed);
        } else if (kept_) {
            ++weights_.back();
        }
    }

    size_t size() const { return symbols_.size(); }
    int properties() const { return properties_; }
    // Property k of all samples.
    std::span<const int32_t> property(int k) const {
        return {values_.get() + static_cast<size_t>(k) * capacity_, symbols_.size()};
    }
    const std::vector<uint16_t>& symbols() const { return symbols_; }
    const std::vector<uint32_t>& weights() const { return weights_; }
    const std::vector<Symbol>& alphabet() const { return alphabet_; }

    // The share of the runs that was kept is 1 / stride().
    uint32_t stride() const { return stride_; }

   private:
    static constexpr size_t kMaxSamples = size_t{1} << 18;

    bool repeats(const int32_t* properties, int32_t residual, Interval allowed) const {
        if (runs_ == 0 || residual != last_residual_) return false;
        for (int k = 0; k < properties_; ++k) {
            if (properties[k] != last_[static_cast<size_t>(k)]) return false;
        }
        return allowed.min == last_allowed_.min && allowed.max == last_allowed_.max;
    }

    void push(const int32_t* properties, int32_t residual, Interval allowed);
    void thin_out();
    uint16_t symbol(int32_t residual, Interval allowed);

    int properties_;
    size_t capacity_;
    std::unique_ptr<int32_t[]> values_;  // property by property
    std::vector<uint16_t> symbols_;
    std::vector<uint32_t> weights_;
    std::vector<Symbol> alphabet_;
    std::vector<uint16_t> symbol_of_key_;  // + 1; 0: not met yet
    uint32_t stride_ = 1;
    uint32_t runs_ = 0;

    // The run that grows at present, and whether it is one of those kept.
    std::array<int32_t, kMaxProperties> last_{};
    int32_t last_residual_ = 0;
    Interval last_allowed_{};
    bool kept_ = false;
};

struct LearnerOptions {
    double split_bits = 36;   // what a split must save
    int count = 16;           // pixels that an inner node serves before it splits
    int lag = 19;             // decisions that a chance needs to settle in a child, which are charged to the split
    int thresholds = 24;      // candidates per property, at most 255
    size_t examined = 1400;   // of larger nodes only about so many samples are looked at
    uint64_t steps = 8;       // into which the samples of a node are divided for a first look at a property
    int max_nodes = 4000;
};

std::vector<TreeNode> grow_tree(const SampleTable& samples, const PropertyIntervals& intervals,
                                const LearnerOptions& options);

}  // namespace oslic::flif
