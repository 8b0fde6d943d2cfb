// The contexts of a row's pixels, for decoder and encoder of non-interlaced pictures.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "leaf_masks.hpp"
#include "scan.hpp"

namespace oslic::flif {

template <class T>
class RowContexts {
   public:
    // Finds those of one row; small, so that a loop can have a copy of its own.
    class Finder {
       public:
        Finder() = default;

        [[gnu::always_inline]] Context& operator()(int column, const Near& near) const {
            LeafMasks::Mask mask = masks_[column] & guess_[near.guess] & left_corner_[near.left_corner()] &
                                   left_left_[near.left_left()];
            if (kind_.outside != 0) mask &= kind_[near.kind()];
            if (leaves_->settled(mask)) [[likely]] return leaves_->settled_context(mask);
            return unsettled(mask, column, near);
        }

       private:
        friend RowContexts;

        Finder(RowContexts& contexts, const Row<T>& row)
            : leaves_(&contexts.leaves_),
              row_(&row),
              masks_(contexts.masks_.data()),
              guess_(leaves_->table(row.guess())),
              kind_(leaves_->table(row.kind())),
              left_corner_(leaves_->table(row.left_corner())),
              left_left_(leaves_->table(row.left_left())) {}

        // By value: what a loop has passed on by reference it cannot keep in registers.
        [[gnu::noinline]] Context& unsettled(LeafMasks::Mask mask, int column, Near near) const {
            int32_t properties[kMaxProperties];
            gather_properties(*row_, column, near, properties);
            return leaves_->context(mask, properties);
        }

        LeafMasks* leaves_ = nullptr;
        const Row<T>* row_ = nullptr;
        const LeafMasks::Mask* masks_ = nullptr;
        LeafMasks::Table guess_, kind_, left_corner_, left_left_;
    };

    RowContexts(Tree& tree, const Ranges& ranges, int p, int width)
        : leaves_(tree, property_intervals(ranges, p, false)), masks_(static_cast<size_t>(width), ~LeafMasks::Mask{0}) {}

    // The row must last as long as the finder is used.
    Finder start_row(const Row<T>& row) {
        bool first = true;
        for (int k = 0; k < row.size(); ++k) {
            const T* values = row.known[static_cast<size_t>(k)];
            if (values == nullptr || !leaves_.looks_at(k)) continue;
            const LeafMasks::Table table = leaves_.table(k);
            LeafMasks::Mask* masks = masks_.data();
            const size_t width = masks_.size();
            if (first) {
                for (size_t c = 0; c < width; ++c) masks[c] = table[values[c]];
            } else {
                for (size_t c = 0; c < width; ++c) masks[c] &= table[values[c]];
            }
            first = false;
        }
        return Finder(*this, row);
    }

   private:
    LeafMasks leaves_;
    std::vector<LeafMasks::Mask> masks_;  // by column, of what is known of the row ahead
};

}  // namespace oslic::flif
