// Pictures as separate planes of signed samples.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "ranges.hpp"

namespace oslic::flif {

// T: int16_t where the sample maximum is below 256 (palette numbers reach 29999, differences -255), else int32_t.
template <class T>
struct Planes {
    int width = 0;
    int height = 0;
    int count = 0;
    std::array<std::unique_ptr<T[]>, kMaxPlanes> data;

    Planes(int width_, int height_, int count_) : width(width_), height(height_), count(count_) {
        for (int p = 0; p < count; ++p) data[p] = std::make_unique<T[]>(pixels());  // zeroed
    }

    Planes clone() const {
        Planes copy(width, height, count);
        for (int p = 0; p < count; ++p) std::copy_n(data[p].get(), pixels(), copy.data[p].get());
        return copy;
    }

    size_t pixels() const { return static_cast<size_t>(width) * static_cast<size_t>(height); }
    void fill(int p, int32_t value) { std::fill_n(data[p].get(), pixels(), static_cast<T>(value)); }
};

}  // namespace oslic::flif
