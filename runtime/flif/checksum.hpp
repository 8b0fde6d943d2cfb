// The CRC-32 at the end of a file.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "planes.hpp"

namespace oslic::flif {

// CRC-32 with the zlib polynomial, eight bytes at a time.
class Crc32 {
   public:
    explicit Crc32(uint32_t start) : state_(~start) {}

    void update(const uint8_t* bytes, size_t size) {
        const auto& t = tables();
        uint32_t crc = state_;
        for (; size >= 8; bytes += 8, size -= 8) {
            crc ^= static_cast<uint32_t>(bytes[0]) | static_cast<uint32_t>(bytes[1]) << 8 |
                   static_cast<uint32_t>(bytes[2]) << 16 | static_cast<uint32_t>(bytes[3]) << 24;
            crc = t[7][crc & 255] ^ t[6][(crc >> 8) & 255] ^ t[5][(crc >> 16) & 255] ^ t[4][crc >> 24] ^
                  t[3][bytes[4]] ^ t[2][bytes[5]] ^ t[1][bytes[6]] ^ t[0][bytes[7]];
        }
        for (; size > 0; ++bytes, --size) crc = (crc >> 8) ^ t[0][(crc ^ *bytes) & 255];
        state_ = crc;
    }

    uint32_t value() const { return ~state_; }

   private:
    using Tables = std::array<std::array<uint32_t, 256>, 8>;

    static const Tables& tables() {
        static const Tables made = [] {
            Tables t{};
            for (uint32_t i = 0; i < 256; ++i) {
                uint32_t crc = i;
                for (int k = 0; k < 8; ++k) crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0xedb88320u : 0);
                t[0][i] = crc;
            }
            for (size_t k = 1; k < 8; ++k) {
                for (size_t i = 0; i < 256; ++i) t[k][i] = (t[k - 1][i] >> 8) ^ t[0][t[k - 1][i] & 255];
            }
            return t;
        }();
        return made;
    }

    uint32_t state_;
};

template <int Bytes, class T>
void little_endian(const T* samples, size_t n, uint8_t* out) {
    for (size_t i = 0; i < n; ++i) {
        const auto sample = static_cast<uint32_t>(samples[i]);
        for (int b = 0; b < Bytes; ++b) *out++ = static_cast<uint8_t>(sample >> (8 * b));
    }
}

// The checksum of a picture's samples as the format defines it; maximum: the sample maximum.
template <class T>
uint32_t picture_checksum(const Planes<T>& planes, int32_t maximum) {
    Crc32 crc(static_cast<uint32_t>(planes.width) * 65536u + static_cast<uint32_t>(planes.height));
    std::array<uint8_t, 4096> buffer;
    for (int p = 0; p < planes.count; ++p) {
        const size_t bytes = (maximum < 256 ? 1u : 2u) * (p == 1 || p == 2 ? 2u : 1u);
        const size_t block = buffer.size() / bytes;
        const T* samples = planes.data[p].get();
        for (size_t done = 0; done < planes.pixels(); done += block) {
            const size_t n = std::min(block, planes.pixels() - done);
            switch (bytes) {
                case 1: little_endian<1>(samples + done, n, buffer.data()); break;
                case 2: little_endian<2>(samples + done, n, buffer.data()); break;
                default: little_endian<4>(samples + done, n, buffer.data());
            }
            crc.update(buffer.data(), n * bytes);
        }
    }
    return crc.value();
}

}  // namespace oslic::flif
