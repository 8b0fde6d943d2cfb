// Learning of MANIAC trees from the pixels of a plane.
//
// The residual of a pixel is a short string of binary decisions. A SampleTable holds, for every pixel of a plane, its
// properties and that string (runs of equal pixels are one weighted sample). grow_tree splits greedily: it tries every
// property at every quantile of it, and takes the split that lowers the entropy of the decisions most.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <vector>

#include "integer_coder.hpp"
#include "tree.hpp"

namespace oslic::flif {

// A decision of a context: index * 2 + bit.
using Decisions = std::vector<uint16_t>;

class SampleTable {
   public:
    explicit SampleTable(int properties) : properties_(properties) { last_.fill(INT32_MIN); }

    void add(const int32_t* properties, int32_t residual, Interval allowed) {
        if (residual == last_residual_ && allowed.min == last_allowed_.min && allowed.max == last_allowed_.max &&
            std::memcmp(properties, last_.data(), sizeof(int32_t) * static_cast<size_t>(properties_)) == 0) {
            ++repeats_;
            return;
        }
        push(properties, residual, allowed);
    }

    // To be called behind the last sample.
    void finish() { flush(); }

    size_t size() const { return symbols_.size(); }
    int properties() const { return properties_; }
    int32_t property(size_t sample, int k) const {
        return values_[sample * static_cast<size_t>(properties_) + static_cast<size_t>(k)];
    }
    const std::vector<uint16_t>& symbols() const { return symbols_; }
    const std::vector<uint32_t>& weights() const { return weights_; }
    const std::vector<Decisions>& alphabet() const { return alphabet_; }

    // The share of the runs that was kept is 1 / stride().
    uint32_t stride() const { return stride_; }

   private:
    static constexpr size_t kMaxSamples = size_t{1} << 18;

    void push(const int32_t* properties, int32_t residual, Interval allowed);
    void flush();
    void thin_out();
    uint16_t symbol(int32_t residual, Interval allowed);

    int properties_;
    std::vector<int32_t> values_;
    std::vector<uint16_t> symbols_;
    std::vector<uint32_t> weights_;
    std::vector<Decisions> alphabet_;
    std::vector<uint16_t> symbol_of_key_;  // + 1; 0: not met yet
    uint32_t stride_ = 1;
    uint32_t runs_ = 0;

    std::array<int32_t, kMaxProperties> last_{};
    int32_t last_residual_ = 0;
    Interval last_allowed_{1, 0};
    uint32_t repeats_ = 0;
};

struct LearnerOptions {
    double split_bits = 36;  // what a split must save
    int count = 24;          // pixels that an inner node serves before it splits
    int thresholds = 24;     // candidates per property, at most 255
    int max_nodes = 4000;
};

// The entropy of the decisions without any tree, in bits; lower mantissa bits left out.
double entropy_bits(const SampleTable& samples);

std::vector<TreeNode> grow_tree(const SampleTable& samples, const PropertyIntervals& intervals,
                                const LearnerOptions& options);

}  // namespace oslic::flif
