// The main header and the metadata chunks: everything in front of the arithmetic-coded stream.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "error.hpp"

namespace oslic::flif {

// A metadata chunk; content is a raw DEFLATE stream.
struct Chunk {
    std::string name;
    std::span<const uint8_t> content;
};

struct Header {
    int width = 0;
    int height = 0;
    int planes = 0;
    bool interlaced = false;
    char depth = '1';  // '1': 8 bit, '2': 16 bit, '0': custom
    std::vector<Chunk> chunks;
    size_t stream_offset = 0;
};

// Refers to `file`, which must outlive it.
Header read_header(std::span<const uint8_t> file, const Limits& limits);

void write_header(const Header& header, std::vector<uint8_t>& out);

}  // namespace oslic::flif
