// CRC-32C (Castagnoli), as RFC 3720 appendix B.4 defines it: reflected polynomial 0x82F63B78, start and final
// value all ones. Eight bytes a step by the "slicing" tables; some 2 GB/s, no special instructions needed.

#include <array>
#include <cstddef>
#include <cstdint>

#include <nanobind/nanobind.h>

namespace nb = nanobind;

namespace {

using Tables = std::array<std::array<std::uint32_t, 256>, 8>;

constexpr Tables make_tables() {
  Tables tables{};
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    std::uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1U) ? 0x82F63B78U : 0U);
    tables[0][byte] = crc;
  }
  for (std::size_t slice = 1; slice < tables.size(); ++slice) {
    for (std::size_t byte = 0; byte < 256; ++byte) {
      const std::uint32_t before = tables[slice - 1][byte];
      tables[slice][byte] = (before >> 8) ^ tables[0][before & 0xFFU];
    }
  }
  return tables;
}

constexpr Tables kTables = make_tables();

std::uint32_t crc32c(const std::uint8_t* data, std::size_t size) {
  std::uint32_t crc = 0xFFFFFFFFU;
  for (; size >= 8; data += 8, size -= 8) {
    crc ^= static_cast<std::uint32_t>(data[0]) | static_cast<std::uint32_t>(data[1]) << 8 |
           static_cast<std::uint32_t>(data[2]) << 16 | static_cast<std::uint32_t>(data[3]) << 24;
    crc = kTables[7][crc & 0xFFU] ^ kTables[6][(crc >> 8) & 0xFFU] ^ kTables[5][(crc >> 16) & 0xFFU] ^
          kTables[4][crc >> 24] ^ kTables[3][data[4]] ^ kTables[2][data[5]] ^ kTables[1][data[6]] ^
          kTables[0][data[7]];
  }
  for (; size > 0; ++data, --size) crc = (crc >> 8) ^ kTables[0][(crc ^ *data) & 0xFFU];
  return ~crc;
}

}  // namespace

NB_MODULE(_native, module) {
  module.doc() = "Small helpers of the runtime that Python is too slow for.";
  module.def(
      "crc32c",
      [](nb::bytes data) { return crc32c(static_cast<const std::uint8_t*>(data.data()), data.size()); },
      nb::arg("data"), "Return the CRC-32C (Castagnoli) of `data`, in 0..2**32-1.");
}
