// The leaves of a tree by bit masks, for scans that know most properties of a pixel before they come to it.
//
// A leaf is a box: an interval of every property. For each property a table says which boxes a value lies in, as a mask
// with a bit per leaf. The masks of a pixel's properties have one bit in common. They can be looked up in any order,
// whole rows ahead, where a walk down the tree waits for one comparison after the other.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "integer_coder.hpp"
#include "ranges.hpp"
#include "tree.hpp"

namespace oslic::flif {

// Large trees have masks for their upper part only: some of its ends, here called exits, are inner nodes, from where
// the tree is walked.
class LeafMasks {
   public:
    using Mask = uint64_t;

    // Which exits a value of one property leads to.
    struct Table {
        const Mask* masks = nullptr;
        int32_t min = 0;
        uint32_t outside = 0;  // the entry of values outside the property's interval, which lead nowhere

        Mask operator[](int32_t value) const {
            return masks[std::min(static_cast<uint32_t>(value) - static_cast<uint32_t>(min), outside)];
        }
    };

    // Counts and splits go on in `tree`, which must not be used otherwise.
    LeafMasks(Tree& tree, PropertyIntervals intervals) : tree_(tree), intervals_(std::move(intervals)) {
        choose_parts();
        fill_tables();
        serving_.assign(contexts_.size(), 0);
        settle(parts_[0]);
    }

    LeafMasks(const LeafMasks&) = delete;
    LeafMasks& operator=(const LeafMasks&) = delete;

    // Whether the tree looks at property k at all; if not, its masks need not be looked up.
    bool looks_at(int k) const { return tables_[static_cast<size_t>(k)].outside != 0; }
    const Table& table(int k) const { return tables_[static_cast<size_t>(k)]; }

    // Whether the exit of this mask is a leaf and all nodes on the way there have split.
    bool settled(Mask mask) const { return (mask & settled_) != 0; }
    Context& settled_context(Mask mask) { return contexts_[static_cast<size_t>(std::countr_zero(mask))]; }

    // The context for a pixel with this mask, settled or not; counts and splits on the way.
    Context& context(Mask mask, const int32_t* properties) {
        if (mask == 0) mask = clamped_mask(properties);
        const auto exit = static_cast<size_t>(std::countr_zero(mask));
        const Part& part = parts_[serving_[exit]];
        // An exit's own node is a leaf, which is settled, or goes on below.
        if (part.first < 0) return settled(mask) ? contexts_[exit] : tree_.find(properties, part.node);
        if (tree_.spend(part.node)) return tree_.context(part.node);
        tree_.split(part.node);
        settle(parts_[static_cast<size_t>(part.first)]);
        settle(parts_[static_cast<size_t>(part.first) + 1]);
        return settled(mask) ? contexts_[exit] : tree_.context(parts_[serving_[exit]].node);
    }

   private:
    static constexpr size_t kMaxExits = 64;
    static constexpr uint64_t kMaxTableEntries = uint64_t{1} << 14;

    // A node of the upper part of the tree.
    struct Part {
        uint32_t node = 0;
        Mask exits = 0;
        int first = -1;  // the first child's part; the second child's follows. -1: an exit
        std::array<Interval, kMaxProperties> box{};
    };

    // Chooses the upper part, level by level; only the root where the tables would be large, as for 16-bit samples.
    void choose_parts() {
        parts_.reserve(2 * kMaxExits);
        Part& root = parts_.emplace_back();
        std::copy(intervals_.begin(), intervals_.end(), root.box.begin());
        uint64_t entries = 0;
        for (const Interval& interval : intervals_) {
            entries += static_cast<uint64_t>(std::max<int64_t>(0, int64_t{interval.max} - interval.min)) + 2;
        }
        const size_t most = entries <= kMaxTableEntries ? kMaxExits : 1;
        // In flat areas all differences are 0: what leads there comes first.
        size_t exits = 1;
        for (const bool flat : {true, false}) {
            for (size_t i = 0; i < parts_.size() && exits < most; ++i) {
                if (parts_[i].first >= 0 || tree_.nodes()[parts_[i].node].property < 0) continue;
                if (flat && !is_flat(parts_[i])) continue;
                divide(i);
                ++exits;
            }
        }
        contexts_.resize(exits);
        Mask exit = 1;
        for (size_t i = parts_.size(); i-- > 0;) {
            Part& part = parts_[i];
            if (part.first < 0) {
                part.exits = exit;
                exit <<= 1;
            } else {
                const auto first = static_cast<size_t>(part.first);
                part.exits = parts_[first].exits | parts_[first + 1].exits;
            }
        }
    }

    void divide(size_t i) {
        const TreeNode& node = tree_.nodes()[parts_[i].node];
        const auto k = static_cast<size_t>(node.property);
        parts_[i].first = static_cast<int>(parts_.size());
        Part child = parts_[i];
        child.first = -1;
        child.node = node.child;
        child.box[k].min = node.split + 1;
        parts_.push_back(child);
        ++child.node;
        child.box[k] = {parts_[i].box[k].min, node.split};
        parts_.push_back(child);
    }

    // Whether all differences can be 0.
    bool is_flat(const Part& part) const {
        for (size_t k = 0; k < intervals_.size(); ++k) {
            const bool difference = intervals_[k].min == -intervals_[k].max;
            if (difference && (part.box[k].min > 0 || part.box[k].max < 0)) return false;
        }
        return true;
    }

    void fill_tables() {
        std::array<bool, kMaxProperties> looked_at{};
        for (const Part& part : parts_) {
            if (part.first >= 0) looked_at[static_cast<size_t>(tree_.nodes()[part.node].property)] = true;
        }
        size_t entries = 1;
        for (size_t k = 0; k < intervals_.size(); ++k) {
            if (looked_at[k]) entries += static_cast<size_t>(intervals_[k].max - intervals_[k].min) + 2;
        }
        masks_.resize(entries);
        masks_[0] = ~Mask{0};  // of the properties that the tree does not look at
        tables_.fill({masks_.data(), 0, 0});
        Mask* masks = masks_.data() + 1;
        for (size_t k = 0; k < intervals_.size(); ++k) {
            if (!looked_at[k]) continue;
            const auto [min, max] = intervals_[k];
            const auto size = static_cast<size_t>(max - min) + 1;
            tables_[k] = {masks, min, static_cast<uint32_t>(size)};
            // Where boxes begin and end; then, from value to value, what lies between.
            for (const Part& part : parts_) {
                if (part.first >= 0) continue;
                masks[part.box[k].min - min] ^= part.exits;
                masks[part.box[k].max + 1 - min] ^= part.exits;
            }
            for (size_t i = 1; i <= size; ++i) masks[i] ^= masks[i - 1];
            masks += size + 1;
        }
    }

    // Of a pixel with properties outside their intervals. There they compare like the intervals' ends.
    [[gnu::noinline, gnu::cold]] Mask clamped_mask(const int32_t* properties) const {
        Mask mask = ~Mask{0};
        for (size_t k = 0; k < intervals_.size(); ++k) {
            const auto [min, max] = intervals_[k];
            mask &= tables_[k][std::max(min, std::min(properties[k], max))];
        }
        return mask;
    }

    // From now on the part's own node serves the pixels that come to it.
    void settle(const Part& part) {
        for (Mask rest = part.exits; rest != 0; rest &= rest - 1) {
            serving_[static_cast<size_t>(std::countr_zero(rest))] = static_cast<uint8_t>(&part - parts_.data());
        }
        if (tree_.nodes()[part.node].property >= 0) return;
        contexts_[static_cast<size_t>(std::countr_zero(part.exits))] = tree_.context(part.node);
        settled_ |= part.exits;
    }

    Tree& tree_;
    PropertyIntervals intervals_;
    std::vector<Part> parts_;
    std::vector<Mask> masks_;
    std::array<Table, kMaxProperties> tables_;
    std::vector<uint8_t> serving_;   // by exit: the part whose node serves its pixels
    std::vector<Context> contexts_;  // by exit, of the settled ones
    Mask settled_ = 0;
};

}  // namespace oslic::flif
