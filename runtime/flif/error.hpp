// The one exception type of the codec, and the limits that keep its time and memory bounded.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

namespace oslic::flif {

// A file that is damaged, truncated or unsupported; or a picture that cannot be stored.
class Error : public std::runtime_error {
   public:
    using std::runtime_error::runtime_error;
};

// A size beyond the limits in force.
class LimitExceeded : public Error {
   public:
    using Error::Error;
};

struct Limits {
    // Pixels (W * H) of a picture, checked before any memory is taken.
    uint64_t max_pixels = uint64_t{1} << 26;
};

// Bounds that no useful file reaches; they hold whatever the caller allows.
inline constexpr int kMaxPaletteSize = 30000;
inline constexpr int kMaxBucketSpan = 1023;
// A tree with more leaves than the plane has pixels is of no use.
inline constexpr uint64_t max_tree_nodes(uint64_t pixels) { return 65536 + 2 * pixels; }
// Comparisons spent in one plane's trees deeper than kPlainTreeDepth.
inline constexpr int kPlainTreeDepth = 256;
inline constexpr uint64_t max_tree_steps(uint64_t pixels) { return (uint64_t{1} << 24) + 256 * pixels; }

[[noreturn]] inline void fail(const std::string& message) { throw Error(message); }

}  // namespace oslic::flif
