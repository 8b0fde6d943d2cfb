// The transforms of still images: parameters, the ranges behind them, and their undoing.
//
// Every transform is a class with
//   static read(reader, before, list)   parameters from the stream, conditions checked
//   write(writer, before)               parameters to the stream
//   ranges(before)                      the range object behind the transform
//   undo(planes, before)                back to the values in front of the transform
// where `before` is the range object in front of it.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "integer_coder.hpp"
#include "planes.hpp"
#include "ranges.hpp"

namespace oslic::flif {

// What a transform's parameters depend on besides the ranges.
struct StreamFlags {
    bool alpha_zero = false;  // color under alpha 0 is not stored
    bool palette_alpha = false;
};

struct ChannelCompact {
    static constexpr int kNumber = 0;
    static constexpr const char* kName = "ChannelCompact";

    std::array<std::vector<int32_t>, kMaxPlanes> values;  // per plane, strictly increasing

    static ChannelCompact read(IntegerReader& reader, const Ranges& before, const StreamFlags&);
    void write(IntegerWriter& writer, const Ranges& before) const;
    std::unique_ptr<Ranges> ranges(const Ranges& before) const;

    template <class T>
    void undo(Planes<T>& planes, const Ranges&) const {
        for (int p = 0; p < planes.count; ++p) {
            const auto& list = values[p];
            T* samples = planes.data[p].get();
            const size_t pixels = planes.pixels();
            for (size_t i = 0; i < pixels; ++i) {
                const auto position = static_cast<uint32_t>(samples[i]);
                samples[i] = position < list.size() ? static_cast<T>(list[position]) : T{0};
            }
        }
    }
};

struct YCoCg {
    static constexpr int kNumber = 1;
    static constexpr const char* kName = "YCoCg";

    static bool allowed(const Ranges& before);
    static YCoCg read(IntegerReader& reader, const Ranges& before, const StreamFlags&);
    void write(IntegerWriter&, const Ranges&) const {}
    std::unique_ptr<Ranges> ranges(const Ranges& before) const;

    template <class T>
    void apply(Planes<T>& planes) const {
        for (size_t i = 0; i < planes.pixels(); ++i) {
            const int32_t r = planes.data[0][i];
            const int32_t g = planes.data[1][i];
            const int32_t b = planes.data[2][i];
            const int32_t s = (r + b) >> 1;
            planes.data[0][i] = static_cast<T>((s + g) >> 1);
            planes.data[1][i] = static_cast<T>(r - b);
            planes.data[2][i] = static_cast<T>(g - s);
        }
    }

    template <class T>
    void undo(Planes<T>& planes, const Ranges& before) const {
        const auto hi = before.hi;
        T* plane0 = planes.data[0].get();
        T* plane1 = planes.data[1].get();
        T* plane2 = planes.data[2].get();
        const size_t pixels = planes.pixels();
        for (size_t i = 0; i < pixels; ++i) {
            const int32_t y = plane0[i];
            const int32_t co = plane1[i];
            const int32_t cg = plane2[i];
            const int32_t g = y - ((-cg) >> 1);
            const int32_t b = y + ((1 - cg) >> 1) - (co >> 1);
            const int32_t r = co + b;
            plane0[i] = static_cast<T>(std::clamp(r, 0, hi[0]));
            plane1[i] = static_cast<T>(std::clamp(g, 0, hi[1]));
            plane2[i] = static_cast<T>(std::clamp(b, 0, hi[2]));
        }
    }
};

struct PermutePlanes {
    static constexpr int kNumber = 3;
    static constexpr const char* kName = "PermutePlanes";

    std::array<int, kMaxPlanes> permutation{0, 1, 2, 3};  // plane p was plane permutation[p]
    bool subtract = false;                                // plane 0 is subtracted from planes 1 and 2

    static bool allowed(const Ranges& before);
    static PermutePlanes read(IntegerReader& reader, const Ranges& before, const StreamFlags&);
    void write(IntegerWriter& writer, const Ranges& before) const;
    std::unique_ptr<Ranges> ranges(const Ranges& before) const;

    template <class T>
    void apply(Planes<T>& planes) const {
        auto old = std::move(planes.data);
        for (int p = 0; p < planes.count; ++p) planes.data[p] = std::move(old[permutation[p]]);
        for (int p = 1; subtract && p < 3; ++p) {
            for (size_t i = 0; i < planes.pixels(); ++i) {
                planes.data[p][i] = static_cast<T>(planes.data[p][i] - planes.data[0][i]);
            }
        }
    }

    template <class T>
    void undo(Planes<T>& planes, const Ranges& before) const {
        for (int p = 1; subtract && p < 3; ++p) {
            const int32_t lo = before.lo[permutation[p]];
            const int32_t hi = before.hi[permutation[p]];
            for (size_t i = 0; i < planes.pixels(); ++i) {
                planes.data[p][i] = static_cast<T>(std::clamp(planes.data[p][i] + planes.data[0][i], lo, hi));
            }
        }
        auto old = std::move(planes.data);
        for (int p = 0; p < planes.count; ++p) planes.data[permutation[p]] = std::move(old[p]);
    }
};

struct Bounds {
    static constexpr int kNumber = 4;
    static constexpr const char* kName = "Bounds";

    std::array<Interval, kMaxPlanes> bounds{};

    static Bounds read(IntegerReader& reader, const Ranges& before, const StreamFlags&);
    void write(IntegerWriter& writer, const Ranges& before) const;
    std::unique_ptr<Ranges> ranges(const Ranges& before) const;

    template <class T>
    void undo(Planes<T>&, const Ranges&) const {}
};

struct PaletteAlpha {
    static constexpr int kNumber = 5;
    static constexpr const char* kName = "PaletteAlpha";

    using Entry = std::array<int32_t, 4>;  // alpha, plane 0, 1, 2
    std::vector<Entry> entries;
    bool sorted = false;
    bool alpha_zero = false;

    static PaletteAlpha read(IntegerReader& reader, const Ranges& before, const StreamFlags& flags);
    void write(IntegerWriter& writer, const Ranges& before) const;
    std::unique_ptr<Ranges> ranges(const Ranges& before) const;

    template <class T>
    void undo(Planes<T>& planes, const Ranges&) const {
        for (size_t i = 0; i < planes.pixels(); ++i) {
            const auto number = static_cast<uint32_t>(planes.data[1][i]);
            const Entry entry = number < entries.size() ? entries[number] : Entry{};
            planes.data[3][i] = static_cast<T>(entry[0]);
            for (int p = 0; p < 3; ++p) planes.data[p][i] = static_cast<T>(entry[p + 1]);
        }
    }
};

struct Palette {
    static constexpr int kNumber = 6;
    static constexpr const char* kName = "Palette";

    using Entry = std::array<int32_t, 3>;
    std::vector<Entry> entries;
    bool sorted = false;

    static bool allowed(const Ranges& before, const StreamFlags& flags);
    static Palette read(IntegerReader& reader, const Ranges& before, const StreamFlags& flags);
    void write(IntegerWriter& writer, const Ranges& before) const;
    std::unique_ptr<Ranges> ranges(const Ranges& before) const;

    template <class T>
    void undo(Planes<T>& planes, const Ranges&) const {
        for (size_t i = 0; i < planes.pixels(); ++i) {
            const auto number = static_cast<uint32_t>(planes.data[1][i]);
            const Entry entry = number < entries.size() ? entries[number] : Entry{};
            for (int p = 0; p < 3; ++p) planes.data[p][i] = static_cast<T>(entry[p]);
        }
    }
};

struct ColorBuckets {
    static constexpr int kNumber = 7;
    static constexpr const char* kName = "ColorBuckets";

    std::shared_ptr<const BucketRanges> buckets;

    // This encoder never chooses it: it pays only for sparse colors that are too many for a palette.
    void write(IntegerWriter&, const Ranges&) const { fail("ColorBuckets cannot be written"); }

    static bool allowed(const Ranges& before);
    static ColorBuckets read(IntegerReader& reader, const Ranges& before, const StreamFlags&);
    std::unique_ptr<Ranges> ranges(const Ranges& before) const;

    template <class T>
    void undo(Planes<T>&, const Ranges&) const {}
};

using Transform = std::variant<ChannelCompact, YCoCg, PermutePlanes, Bounds, PaletteAlpha, Palette, ColorBuckets>;

inline int number_of(const Transform& transform) {
    return std::visit([](const auto& t) { return std::decay_t<decltype(t)>::kNumber; }, transform);
}

inline const char* name_of(const Transform& transform) {
    return std::visit([](const auto& t) { return std::decay_t<decltype(t)>::kName; }, transform);
}

// The transforms of a file in the order of their application, with the range object in front of each.
class TransformChain {
   public:
    TransformChain(int planes, int32_t maximum);

    // Reads the list; flags.palette_alpha is set when PaletteAlpha is met.
    void read(IntegerReader& reader, StreamFlags& flags);

    // The range object behind all transforms.
    const Ranges& ranges() const { return *ranges_.back(); }

    const std::vector<Transform>& list() const { return list_; }

    void append(Transform transform);

    // Writes the list.
    void write(IntegerWriter& writer) const;

    TransformChain clone() const;

    template <class T>
    void undo(Planes<T>& planes) const {
        for (size_t i = list_.size(); i-- > 0;) {
            std::visit([&](const auto& transform) { transform.undo(planes, *ranges_[i]); }, list_[i]);
        }
    }

    // The range object in front of transform i.
    const Ranges& before(size_t i) const { return *ranges_[i]; }

   private:
    TransformChain() = default;

    std::vector<Transform> list_;
    std::vector<std::unique_ptr<Ranges>> ranges_;  // one more than transforms
};

}  // namespace oslic::flif
