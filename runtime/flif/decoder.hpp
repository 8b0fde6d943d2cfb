// Decoding of still FLIF16 files.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "error.hpp"
#include "header.hpp"

namespace oslic::flif {

// What the second header says, which lies at the start of the arithmetic-coded stream.
struct StreamInfo {
    int32_t maximum = 255;  // of the samples
    bool alpha_zero = false;
    int cutoff = 0;  // 0: default chances
    int divisor = 0;
    std::vector<std::string> transforms;
};

struct Info {
    Header header;
    StreamInfo stream;
};

// Reads both headers; refers to `file`.
Info read_info(std::span<const uint8_t> file, const Limits& limits);

// Where the decoded samples go: interleaved rows, samples of one or two bytes.
struct PixelSink {
    void* data = nullptr;
    bool wide = false;  // uint16_t, else uint8_t
};

// What is asked of the end of a file.
enum class Ending {
    checked,  // the checksum matches, and nothing lies behind the picture
    ignored,  // for fuzzing alone: damage that only these two checks would notice still reaches everything else
};

// Decodes the file. `allocate` is called once, with the info, when the size is known to be within the limits.
void decode(std::span<const uint8_t> file, const Limits& limits, const std::function<PixelSink(const Info&)>& allocate,
            Ending ending = Ending::checked);

}  // namespace oslic::flif
