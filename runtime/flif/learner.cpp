#include "learner.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

namespace oslic::flif {

namespace {
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
    std::copy_n(properties, properties_, last_.begin());
    last_residual_ = residual;
    last_allowed_ = allowed;
    kept_ = ++runs_ % stride_ == 0;
    if (!kept_) return;
    if (symbols_.size() == capacity_) thin_out();
    int32_t* value = values_.get() + symbols_.size();
    for (int k = 0; k < properties_; ++k, value += capacity_) *value = properties[k];
    symbols_.push_back(symbol(residual, allowed));
    weights_.push_back(1);
}

void SampleTable::thin_out() {
    const size_t half = symbols_.size() / 2;
    const auto keep_every_other = [half](auto* list) {
        for (size_t i = 0; i < half; ++i) list[i] = list[2 * i + 1];
    };
    keep_every_other(symbols_.data());
    keep_every_other(weights_.data());
    for (int k = 0; k < properties_; ++k) keep_every_other(&values_[static_cast<size_t>(k) * capacity_]);
    symbols_.resize(half);
    weights_.resize(half);
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
        Symbol spelling;
        int mantissa_left = Symbol::kMantissa;
        near_zero_decisions(residual, allowed.min, allowed.max, [&](int index, bool one) {
            if (index >= Context::kMantissa && mantissa_left-- <= 0) return;
            spelling.decision[spelling.length++] = static_cast<uint8_t>(index * 2 + one);
        });
        alphabet_.push_back(spelling);
        known = static_cast<uint16_t>(alphabet_.size());
    }
    return static_cast<uint16_t>(known - 1);
}

namespace {

// A child starts with the chance q that its parent has learned and adapts towards its own frequency p: the t-th
// decision costs about (1 - 1/lag)^(2 t) of the divergence D(p||q) more than under p. So of the n D(p||q) bits that
// counting alone promises to a child with n decisions, it saves the share that `AdaptationTable` holds.
class AdaptationTable {
   public:
    explicit AdaptationTable(int lag) {
        const double keep = std::pow(1 - 1.0 / lag, 2);
        double lost = 0;
        double power = 1;
        for (size_t n = 1; n < share_.size(); ++n) {
            lost += power;
            power *= keep;
            share_[n] = static_cast<float>(1 - lost / static_cast<double>(n));
        }
        lost_ = static_cast<float>(lost);
    }
    float operator()(uint32_t n) const { return n < share_.size() ? share_[n] : 1 - lost_ / static_cast<float>(n); }

   private:
    std::array<float, 1024> share_{};
    float lost_;
};

class TreeGrower {
   public:
    TreeGrower(const SampleTable& samples, const PropertyIntervals& intervals, const LearnerOptions& options)
        : samples_(samples),
          options_(options),
          alphabet_(samples.alphabet()),
          order_(samples.size()),
          spare_(samples.size()),
          rows_(samples.size()),
          node_(samples.size()),
          adaptation_(options.lag) {
        std::iota(order_.begin(), order_.end(), 0u);
        slots_.push_back(0);
        for (int k = 0; k < samples.properties(); ++k) bin_property(k, intervals[static_cast<size_t>(k)]);
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
            const size_t boundary = partition(task.begin, task.end, split);
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
    // The bins of a sample's properties. The bins of all properties are numbered on: property k has those from
    // slots_[k] to slots_[k + 1] - 1, as many as thresholds below them and one.
    using Row = std::array<uint16_t, kMaxProperties + 1>;

    struct Examined {
        const Row* row;
        uint32_t symbol;
        uint32_t weight;
    };

    struct Split {
        int property = -1;
        uint8_t bin = 0;  // samples in higher bins go to the first child
    };

    struct Best {
        Split split;
        float gain;
    };

    // Chooses the thresholds of a property and sorts the samples into the bins between them.
    void bin_property(int k, Interval interval) {
        thresholds_.emplace_back();
        const std::span<const int32_t> values = samples_.property(k);
        int32_t min = INT32_MAX;
        int32_t max = INT32_MIN;
        for (const int32_t v : values) {
            min = std::min(min, v);
            max = std::max(max, v);
        }
        const uint16_t first_slot = slots_.back();
        if (values.empty() || min == max) {
            slots_.push_back(static_cast<uint16_t>(first_slot + 1));
            for (Row& row : rows_) row[static_cast<size_t>(k)] = first_slot;
            return;
        }
        // A histogram of at most 2^13 cells, coarser for the wide ranges of 16-bit pictures.
        const int shift = std::max(0, log2_floor(static_cast<uint32_t>(max - min)) - 12);
        if (shift == 0) {
            place_thresholds(k, interval, {min, max}, 0, [min](int32_t v) { return static_cast<size_t>(v - min); });
        } else {
            place_thresholds(k, interval, {min, max}, shift,
                             [min, shift](int32_t v) { return static_cast<size_t>((v - min) >> shift); });
        }
    }

    template <class Cell>
    void place_thresholds(int k, Interval interval, Interval extent, int shift, Cell&& cell) {
        auto& thresholds = thresholds_.back();
        const std::span<const int32_t> values = samples_.property(k);
        const uint16_t first_slot = slots_.back();
        cells_.assign(cell(extent.max) + 1, 0);
        for (const int32_t v : values) ++cells_[cell(v)];
        const auto filled = static_cast<size_t>(std::count_if(cells_.begin(), cells_.end(), [](uint32_t c) { return c > 0; }));
        const auto wanted = static_cast<size_t>(options_.thresholds);
        const double step = filled <= wanted ? 0 : static_cast<double>(values.size()) / static_cast<double>(wanted);
        double reached = 0;
        double next = step;
        for (size_t c = 0; c < cells_.size(); ++c) {
            const uint32_t count = cells_[c];
            cells_[c] = static_cast<uint32_t>(first_slot + thresholds.size());  // from here on: the cell's slot
            reached += count;
            if (count == 0 || c + 1 == cells_.size() || reached < next) continue;
            const int32_t threshold = extent.min + (static_cast<int32_t>(c + 1) << shift) - 1;
            if (threshold < interval.min || threshold >= interval.max) continue;
            thresholds.push_back(threshold);
            while (step > 0 && next <= reached) next += step;
        }
        for (size_t i = 0; i < values.size(); ++i) rows_[i][static_cast<size_t>(k)] = static_cast<uint16_t>(cells_[cell(values[i])]);
        slots_.push_back(static_cast<uint16_t>(first_slot + thresholds.size() + 1));
    }

    // Puts the samples of the first child in front, both in coding order. Returns where the second child begins.
    size_t partition(size_t begin, size_t end, Split split) {
        const auto k = static_cast<size_t>(split.property);
        const int last_slot = slots_[k] + split.bin;
        size_t first = begin;
        size_t second = 0;
        for (size_t i = begin; i < end; ++i) {
            const uint32_t sample = order_[i];
            const bool above = rows_[sample][k] > last_slot;
            order_[first] = sample;
            spare_[second] = sample;
            first += above ? 1 : 0;
            second += above ? 0 : 1;
        }
        std::copy_n(spare_.begin(), second, order_.begin() + static_cast<ptrdiff_t>(first));
        return first;
    }

    // The counts of one chance in the node under examination and in a division of it.
    struct Tally {
        std::array<uint32_t, 2> total;
        std::array<uint32_t, 2> low;
        std::array<float, 2> bits;  // what a 0 and a 1 cost under the node's frequencies
        float saved;
        bool changed;
    };

    float saved(uint32_t zeros, uint32_t ones, const Tally& tally) const {
        const uint32_t n = zeros + ones;
        if (n == 0) return 0;
        const EntropyTable& f = *table_;
        const float divergence = f(zeros) + f(ones) - f(n) + static_cast<float>(zeros) * tally.bits[0] +
                                 static_cast<float>(ones) * tally.bits[1];
        return divergence * adaptation_(n);
    }

    Split best_split(size_t begin, size_t end) {
        const auto step = static_cast<uint32_t>(std::max<size_t>(1, (end - begin) / options_.examined));
        const size_t n = (end - begin) / step;
        // The symbols of this node, numbered anew.
        local_.assign(alphabet_.size(), uint16_t{0});
        present_.clear();
        for (size_t i = 0; i < n; ++i) {
            const uint32_t sample = order_[begin + i * step];
            const uint16_t symbol = samples_.symbols()[sample];
            if (local_[symbol] == 0) {
                present_.push_back(symbol);
                local_[symbol] = static_cast<uint16_t>(present_.size());
            }
            node_[i] = {&rows_[sample], static_cast<uint32_t>(local_[symbol] - 1), samples_.weights()[sample] * step};
        }
        const size_t symbols = present_.size();
        histogram_.assign(symbols, 0);  // here of the node's symbols, below of the symbols by slot
        uint64_t weight_sum = 0;
        for (size_t i = 0; i < n; ++i) {
            histogram_[node_[i].symbol] += node_[i].weight;
            weight_sum += node_[i].weight;
        }
        tallies_ = {};
        used_.clear();
        for (size_t s = 0; s < symbols; ++s) {
            for (const uint8_t d : alphabet_[present_[s]].decisions()) {
                Tally& tally = tallies_[d / 2];
                if (tally.total[0] + tally.total[1] == 0) used_.push_back(static_cast<uint8_t>(d / 2));
                tally.total[d & 1] += histogram_[s];
            }
        }
        float most = 0;  // what a split into children of perfect certainty would save
        for (const uint8_t d : used_) {
            auto& [total, low, bits, _, __] = tallies_[d];
            const uint32_t count = total[0] + total[1];
            float whole = 0;
            for (int bit = 0; bit < 2; ++bit) {
                if (total[bit] == 0) continue;
                bits[bit] = std::log2(static_cast<float>(count) / static_cast<float>(total[bit]));
                whole += static_cast<float>(total[bit]) * bits[bit];
            }
            most += whole * adaptation_(count);
        }
        Best best{{}, static_cast<float>(options_.split_bits / samples_.stride())};
        if (most <= best.gain) return {};

        const auto properties = static_cast<size_t>(samples_.properties());
        const size_t slots = slots_.back();
        histogram_.assign(slots * symbols, 0);
        for (size_t i = 0; i < n; ++i) {
            const auto& [row, symbol, weight] = node_[i];
            uint32_t* counts = &histogram_[symbol * slots];
            for (size_t k = 0; k < properties; ++k) counts[(*row)[k]] += weight;
        }
        slot_weights_.assign(slots, 0);
        for (size_t s = 0; s < symbols; ++s) {
            for (size_t slot = 0; slot < slots; ++slot) slot_weights_[slot] += histogram_[s * slots + slot];
        }
        // First steps of some size, then every threshold of the best property.
        const auto pace = static_cast<uint32_t>(weight_sum / options_.steps);
        const auto whole = static_cast<uint32_t>(weight_sum);
        for (size_t k = 0; k < properties; ++k) sweep(k, symbols, pace, whole, best);
        if (best.split.property >= 0) sweep(static_cast<size_t>(best.split.property), symbols, 1, whole, best);
        return best.split;
    }

    // Tries the thresholds of property k, from one to the next at least `pace` samples of the `whole` that there are.
    void sweep(size_t k, size_t symbols, uint32_t pace, uint32_t whole, Best& best) {
        for (const uint8_t d : used_) {
            tallies_[d].low = {};
            tallies_[d].saved = 0;
        }
        moved_.assign(symbols, 0);
        uint32_t moved = 0;
        uint32_t reached = 0;
        float gain = 0;
        const uint32_t* sums = slot_weights_.data();
        const size_t slots = slots_.back();
        for (int slot = slots_[k]; slot + 1 < slots_[k + 1]; ++slot) {
            if (sums[slot] == 0) continue;
            const uint32_t* counts = &histogram_[static_cast<size_t>(slot)];
            for (size_t s = 0; s < symbols; ++s, counts += slots) moved_[s] += *counts;
            moved += sums[slot];
            reached += sums[slot];
            // With nothing left for the first child there is no gain but that of rounding, which can be large where many
            // pixels are equal. A tree that splits the same interval again and again cannot be written.
            if (reached == whole) break;
            if (moved + sums[slot + 1] <= pace) continue;
            moved = 0;
            changed_.clear();
            for (size_t s = 0; s < symbols; ++s) {
                if (moved_[s] == 0) continue;
                for (const uint8_t d : alphabet_[present_[s]].decisions()) {
                    Tally& tally = tallies_[d / 2];
                    tally.low[d & 1] += moved_[s];
                    if (!tally.changed) {
                        tally.changed = true;
                        changed_.push_back(d / 2);
                    }
                }
                moved_[s] = 0;
            }
            for (const uint8_t d : changed_) {
                Tally& tally = tallies_[d];
                tally.changed = false;
                const float now = saved(tally.low[0], tally.low[1], tally) +
                                  saved(tally.total[0] - tally.low[0], tally.total[1] - tally.low[1], tally);
                gain += now - tally.saved;
                tally.saved = now;
            }
            if (gain > best.gain) best = {{static_cast<int>(k), static_cast<uint8_t>(slot - slots_[k])}, gain};
        }
    }

    const SampleTable& samples_;
    const LearnerOptions& options_;
    const std::vector<Symbol>& alphabet_;
    std::vector<uint32_t> order_;
    std::vector<uint32_t> spare_;
    std::vector<Row> rows_;
    std::vector<Examined> node_;
    AdaptationTable adaptation_;
    const EntropyTable* table_ = &entropy_table();
    std::vector<std::vector<int32_t>> thresholds_;  // per property, ascending
    std::vector<uint16_t> slots_;                   // per property: the number of its first bin
    std::vector<uint32_t> cells_;
    std::vector<uint16_t> local_;
    std::vector<uint16_t> present_;
    std::vector<uint32_t> histogram_;
    std::array<Tally, Context::kSize> tallies_{};
    std::vector<uint32_t> moved_;
    std::vector<uint32_t> slot_weights_;
    std::vector<uint8_t> used_;
    std::vector<uint8_t> changed_;
    std::vector<TreeNode> nodes_;
};

}  // namespace

std::vector<TreeNode> grow_tree(const SampleTable& samples, const PropertyIntervals& intervals,
                                const LearnerOptions& options) {
    return TreeGrower(samples, intervals, options).run();
}

}  // namespace oslic::flif
