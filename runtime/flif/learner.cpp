#include "learner.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

namespace oslic::flif {

namespace {

constexpr int kUsedMantissa = 1;  // lower mantissa bits are noise: they cannot tell good splits from bad ones

// n * log2(n).
double n_log_n(double n) { return n > 0 ? n * std::log2(n) : 0; }

class EntropyTable {
   public:
    EntropyTable() {
        for (size_t n = 0; n < table_.size(); ++n) table_[n] = static_cast<float>(n_log_n(static_cast<double>(n)));
    }
    float operator()(uint32_t n) const {
        return n < table_.size() ? table_[n] : static_cast<float>(n) * std::log2(static_cast<float>(n));
    }

   private:
    std::array<float, 4096> table_;
};

const EntropyTable& entropy_table() {
    static const EntropyTable table;
    return table;
}

}  // namespace

void SampleTable::push(const int32_t* properties, int32_t residual, Interval allowed) {
    flush();
    std::memcpy(last_.data(), properties, sizeof(int32_t) * static_cast<size_t>(properties_));
    last_residual_ = residual;
    last_allowed_ = allowed;
    repeats_ = 1;
}

void SampleTable::flush() {
    if (repeats_ == 0) return;
    if (++runs_ % stride_ == 0) {
        values_.insert(values_.end(), last_.begin(), last_.begin() + properties_);
        symbols_.push_back(symbol(last_residual_, last_allowed_));
        weights_.push_back(repeats_);
        if (symbols_.size() == kMaxSamples) thin_out();
    }
    repeats_ = 0;
}

void SampleTable::thin_out() {
    const auto k = static_cast<size_t>(properties_);
    const size_t half = symbols_.size() / 2;
    for (size_t i = 0; i < half; ++i) {
        symbols_[i] = symbols_[2 * i + 1];
        weights_[i] = weights_[2 * i + 1];
        std::copy_n(values_.begin() + static_cast<ptrdiff_t>((2 * i + 1) * k), k,
                    values_.begin() + static_cast<ptrdiff_t>(i * k));
    }
    symbols_.resize(half);
    weights_.resize(half);
    values_.resize(half * k);
    stride_ *= 2;
}

uint16_t SampleTable::symbol(int32_t residual, Interval allowed) {
    // The key holds all that the decisions depend on: sign known or not, exponent, whether it is the largest possible
    // one, the upper mantissa bit.
    uint32_t key = 0;
    if (residual != 0) {
        const bool positive = residual > 0;
        const auto magnitude = static_cast<uint32_t>(positive ? residual : -residual);
        const auto largest = static_cast<uint32_t>(positive ? allowed.max : -allowed.min);
        const int e = log2_floor(magnitude);
        const bool last = e == log2_floor(largest);
        const bool sign_known = allowed.min == 0 || allowed.max == 0;
        const int upper = e == 0 ? 0 : 1 + static_cast<int>((magnitude >> (e - 1)) & 1);
        const bool bit_known = e > 0 && (3u << (e - 1)) > largest;
        key = 1 + (((static_cast<uint32_t>(e) * 3 + static_cast<uint32_t>(bit_known ? 0 : upper)) * 2 + last) * 2 +
                   sign_known) * 2 + positive;
    }
    if (key >= symbol_of_key_.size()) symbol_of_key_.resize(key + 1);
    uint16_t& known = symbol_of_key_[key];
    if (known == 0) {
        Decisions decisions;
        int mantissa_left = kUsedMantissa;
        near_zero_decisions(residual, allowed.min, allowed.max, [&](int index, bool one) {
            if (index >= Context::kMantissa && mantissa_left-- <= 0) return;
            decisions.push_back(static_cast<uint16_t>(index * 2 + one));
        });
        alphabet_.push_back(std::move(decisions));
        known = static_cast<uint16_t>(alphabet_.size());
    }
    return static_cast<uint16_t>(known - 1);
}

namespace {

using Counts = std::array<std::array<uint32_t, 2>, Context::kSize>;

class TreeGrower {
   public:
    TreeGrower(const SampleTable& samples, const PropertyIntervals& intervals, const LearnerOptions& options)
        : samples_(samples), options_(options), alphabet_(samples.alphabet()), order_(samples.size()) {
        std::iota(order_.begin(), order_.end(), 0u);
        for (int k = 0; k < samples.properties(); ++k) bin_property(k, intervals[static_cast<size_t>(k)]);
        for (const Decisions& decisions : alphabet_) {
            for (const uint16_t d : decisions) used_.push_back(d / 2);
        }
        std::sort(used_.begin(), used_.end());
        used_.erase(std::unique(used_.begin(), used_.end()), used_.end());
    }

    std::vector<TreeNode> run() {
        nodes_.resize(1);
        struct Task {
            uint32_t node;
            size_t begin;
            size_t end;
        };
        std::vector<Task> tasks{{0, 0, order_.size()}};
        while (!tasks.empty()) {
            const Task task = tasks.back();
            tasks.pop_back();
            if (static_cast<int>(nodes_.size()) + 2 > options_.max_nodes) continue;
            const Split split = best_split(task.begin, task.end);
            if (split.property < 0) continue;
            const auto& bins = bins_[static_cast<size_t>(split.property)];
            const auto middle = std::stable_partition(
                order_.begin() + static_cast<ptrdiff_t>(task.begin), order_.begin() + static_cast<ptrdiff_t>(task.end),
                [&](uint32_t sample) { return bins[sample] > split.bin; });
            const auto boundary = static_cast<size_t>(middle - order_.begin());
            TreeNode& node = nodes_[task.node];
            node.property = split.property;
            node.split = thresholds_[static_cast<size_t>(split.property)][split.bin];
            node.count = options_.count;
            const auto child = static_cast<uint32_t>(nodes_.size());
            node.child = child;
            nodes_.resize(nodes_.size() + 2);
            tasks.push_back({child + 1, boundary, task.end});
            tasks.push_back({child, task.begin, boundary});
        }
        return std::move(nodes_);
    }

   private:
    struct Split {
        int property = -1;
        uint8_t bin = 0;  // samples in higher bins go to the first child
    };

    // Chooses the thresholds of a property and sorts the samples into the bins between them.
    void bin_property(int k, Interval interval) {
        auto& thresholds = thresholds_.emplace_back();
        auto& bins = bins_.emplace_back(samples_.size());
        const size_t n = samples_.size();
        int32_t min = INT32_MAX;
        int32_t max = INT32_MIN;
        for (size_t i = 0; i < n; ++i) {
            min = std::min(min, samples_.property(i, k));
            max = std::max(max, samples_.property(i, k));
        }
        if (n == 0 || min == max) return;
        // A histogram of at most 2^13 cells, coarser for the wide ranges of 16-bit pictures.
        const int shift = std::max(0, log2_floor(static_cast<uint32_t>(max - min)) - 12);
        const auto cell = [&](int32_t value) { return static_cast<size_t>((value - min) >> shift); };
        std::vector<uint32_t> histogram(cell(max) + 1);
        for (size_t i = 0; i < n; ++i) ++histogram[cell(samples_.property(i, k))];
        const auto filled = static_cast<size_t>(std::count_if(histogram.begin(), histogram.end(), [](uint32_t c) { return c > 0; }));
        const auto wanted = static_cast<size_t>(options_.thresholds);
        const double step = filled <= wanted ? 0 : static_cast<double>(n) / static_cast<double>(wanted);
        std::vector<uint8_t> bin_of(histogram.size());
        double reached = 0;
        double next = step;
        for (size_t c = 0; c < histogram.size(); ++c) {
            bin_of[c] = static_cast<uint8_t>(thresholds.size());
            reached += histogram[c];
            if (histogram[c] == 0 || c + 1 == histogram.size() || reached < next) continue;
            const int32_t threshold = min + (static_cast<int32_t>(c + 1) << shift) - 1;
            if (threshold < interval.min || threshold >= interval.max) continue;
            thresholds.push_back(threshold);
            while (step > 0 && next <= reached) next += step;
        }
        for (size_t i = 0; i < n; ++i) bins[i] = bin_of[cell(samples_.property(i, k))];
    }

    float cost(const Counts& counts) const {
        const EntropyTable& f = entropy_table();
        float bits = 0;
        for (const uint16_t c : used_) bits += f(counts[c][0] + counts[c][1]) - f(counts[c][0]) - f(counts[c][1]);
        return bits;
    }

    void add_symbol(Counts& counts, size_t symbol, uint32_t weight) const {
        for (const uint16_t d : alphabet_[symbol]) counts[d / 2][d & 1] += weight;
    }

    Split best_split(size_t begin, size_t end) const {
        const size_t symbols = alphabet_.size();
        Counts total{};
        std::vector<uint32_t> all(symbols);
        for (size_t i = begin; i < end; ++i) all[samples_.symbols()[order_[i]]] += samples_.weights()[order_[i]];
        for (size_t s = 0; s < symbols; ++s) add_symbol(total, s, all[s]);
        const float whole = cost(total);
        float best_gain = static_cast<float>(options_.split_bits / samples_.stride());
        Split best;
        if (whole <= best_gain) return best;

        std::vector<uint32_t> histogram;
        for (int k = 0; k < samples_.properties(); ++k) {
            const auto& bins = bins_[static_cast<size_t>(k)];
            const size_t bin_count = thresholds_[static_cast<size_t>(k)].size() + 1;
            if (bin_count < 2) continue;
            histogram.assign(bin_count * symbols, 0);
            for (size_t i = begin; i < end; ++i) {
                const uint32_t sample = order_[i];
                histogram[bins[sample] * symbols + samples_.symbols()[sample]] += samples_.weights()[sample];
            }
            Counts low{};
            Counts high = total;
            for (size_t b = 0; b + 1 < bin_count; ++b) {
                const uint32_t* row = &histogram[b * symbols];
                bool any = false;
                for (size_t s = 0; s < symbols; ++s) {
                    if (row[s] == 0) continue;
                    any = true;
                    add_symbol(low, s, row[s]);
                    add_symbol(high, s, ~row[s] + 1);  // modulo 2^32: a subtraction
                }
                if (!any) continue;
                const float gain = whole - cost(low) - cost(high);
                if (gain > best_gain) {
                    best_gain = gain;
                    best = {k, static_cast<uint8_t>(b)};
                }
            }
        }
        return best;
    }

    const SampleTable& samples_;
    const LearnerOptions& options_;
    const std::vector<Decisions>& alphabet_;
    std::vector<uint32_t> order_;
    std::vector<std::vector<int32_t>> thresholds_;  // per property, ascending
    std::vector<std::vector<uint8_t>> bins_;        // per property and sample: the number of thresholds below its value
    std::vector<uint16_t> used_;
    std::vector<TreeNode> nodes_;
};

}  // namespace

double entropy_bits(const SampleTable& samples) {
    Counts counts{};
    for (size_t i = 0; i < samples.size(); ++i) {
        for (const uint16_t d : samples.alphabet()[samples.symbols()[i]]) counts[d / 2][d & 1] += samples.weights()[i];
    }
    double bits = 0;
    for (const auto& [zeros, ones] : counts) {
        bits += n_log_n(static_cast<double>(zeros) + ones) - n_log_n(zeros) - n_log_n(ones);
    }
    return bits * samples.stride();
}

std::vector<TreeNode> grow_tree(const SampleTable& samples, const PropertyIntervals& intervals,
                                const LearnerOptions& options) {
    return TreeGrower(samples, intervals, options).run();
}

}  // namespace oslic::flif
