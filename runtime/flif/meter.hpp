// A quick estimate of what a plan costs, to choose between transforms before any tree is learned.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "integer_coder.hpp"
#include "plan.hpp"
#include "scan.hpp"

namespace oslic::flif {

// Estimates the bits of planes under a fixed model: the length and sign of the residual given the unrest of the
// neighborhood, by their entropy; the lower bits of the residual as they are. Of large planes only some rows are read.
class Meter {
   public:
    template <class T>
    explicit Meter(const Plan<T>& plan)
        : width_(plan.planes.width), height_(plan.planes.height),
          step_(std::max<int>(1, static_cast<int>(plan.planes.pixels() / kExamined))) {
        if (!plan.invisible.empty()) invisible_ = &plan.invisible;
    }

    // p: the plane's number, which decides whether invisible pixels count.
    template <class T>
    double plane_bits(const T* plane, int p) const {
        const bool hidden = p < 3 && invisible_ != nullptr;
        std::array<std::array<uint32_t, kLengths>, kUnrests> counts{};
        uint64_t plain_bits = 0;
        const ptrdiff_t width = width_;
        for (int r = std::min(1, height_ - 1); r < height_; r += step_) {
            const T* row = plane + r * width;
            const T* above = r > 0 ? row - width : row;
            for (ptrdiff_t c = 1; c < width; ++c) {
                if (hidden && (*invisible_)[static_cast<size_t>(row - plane + c)]) continue;
                const int32_t left = row[c - 1];
                const int32_t top = above[c];
                const int32_t corner = above[c - 1];
                const int32_t residual = row[c] - median(left + top - corner, left, top);
                const int length = log2_floor(2 * static_cast<uint32_t>(std::abs(residual)) + 1);
                const int unrest = log2_floor(2 * static_cast<uint32_t>(std::abs(left - corner) + std::abs(corner - top)) + 1);
                ++counts[static_cast<size_t>(unrest)][static_cast<size_t>(2 * length + (residual > 0 ? 1 : 0))];
                plain_bits += static_cast<uint64_t>(std::max(0, length - 1));
            }
        }
        double bits = static_cast<double>(plain_bits);
        const auto n_log_n = [](double n) { return n > 0 ? n * std::log2(n) : 0; };
        for (const auto& row : counts) {
            double all = 0;
            for (const uint32_t n : row) {
                all += n;
                bits -= n_log_n(n);
            }
            bits += n_log_n(all);
        }
        return bits * step_;
    }

   private:
    static constexpr size_t kExamined = 2048;
    static constexpr size_t kLengths = 36;  // of residuals, by sign
    static constexpr size_t kUnrests = 19;

    int width_;
    int height_;
    int step_;
    const std::vector<bool>* invisible_ = nullptr;
};

}  // namespace oslic::flif
