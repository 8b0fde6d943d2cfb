// Encoding of still FLIF16 files.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "error.hpp"
#include "header.hpp"

namespace oslic::flif {

// A picture to encode: interleaved rows of 1, 3 or 4 samples of one or two bytes.
struct PixelSource {
    const void* data = nullptr;
    bool wide = false;  // uint16_t, else uint8_t
    int width = 0;
    int height = 0;
    int channels = 1;
};

struct EncoderOptions {
    int effort = 60;           // 0 (fastest: no trees) .. 100 (exhaustive)
    bool interlaced = false;
    bool checksum = true;
    bool keep_invisible = true;  // store the color under alpha 0
    std::vector<Chunk> chunks;
};

std::vector<uint8_t> encode(const PixelSource& source, const EncoderOptions& options);

}  // namespace oslic::flif
