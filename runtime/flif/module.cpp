// The Python module oslic.runtime.flif._flif.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstdint>
#include <memory>
#include <span>

#include "decoder.hpp"
#include "encoder.hpp"
#include "error.hpp"

namespace nb = nanobind;
namespace flif = oslic::flif;

namespace {

using Buffer = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Pixels = nb::ndarray<nb::ro, nb::c_contig, nb::device::cpu>;

std::span<const uint8_t> bytes_of(const Buffer& buffer) { return {buffer.data(), buffer.size()}; }

// The decoded samples, owned by the array that Python gets.
struct Samples {
    std::unique_ptr<uint8_t[]> data;
    std::array<size_t, 3> shape{};
    size_t dimensions = 0;
    bool wide = false;
};

template <class Sample>
nb::object to_array(Samples&& samples) {
    auto* data = samples.data.release();
    nb::capsule owner(data, [](void* p) noexcept { delete[] static_cast<uint8_t*>(p); });
    return nb::cast(nb::ndarray<nb::numpy, Sample>(data, samples.dimensions, samples.shape.data(), owner));
}

nb::object decode(const Buffer& buffer, uint64_t max_pixels) {
    Samples samples;
    {
        nb::gil_scoped_release release;
        flif::decode(bytes_of(buffer), flif::Limits{max_pixels}, [&](const flif::Info& info) {
            const flif::Header& header = info.header;
            samples.wide = info.stream.maximum > 255;
            samples.dimensions = header.planes == 1 ? 2 : 3;
            samples.shape = {static_cast<size_t>(header.height), static_cast<size_t>(header.width),
                             static_cast<size_t>(header.planes)};
            const size_t size = samples.shape[0] * samples.shape[1] * samples.shape[2];
            samples.data = std::make_unique_for_overwrite<uint8_t[]>(size * (samples.wide ? 2 : 1));
            return flif::PixelSink{samples.data.get(), samples.wide};
        });
    }
    return samples.wide ? to_array<uint16_t>(std::move(samples)) : to_array<uint8_t>(std::move(samples));
}

nb::bytes encode(const Pixels& pixels, int effort, bool interlaced, bool crc, bool keep_invisible,
                 const std::vector<std::pair<std::string, nb::bytes>>& chunks) {
    flif::PixelSource source;
    source.data = pixels.data();
    source.wide = pixels.dtype() == nb::dtype<uint16_t>();
    source.height = static_cast<int>(pixels.shape(0));
    source.width = static_cast<int>(pixels.shape(1));
    source.channels = pixels.ndim() == 2 ? 1 : static_cast<int>(pixels.shape(2));
    flif::EncoderOptions options;
    options.effort = effort;
    options.interlaced = interlaced;
    options.checksum = crc;
    options.keep_invisible = keep_invisible;
    for (const auto& [name, content] : chunks) {
        options.chunks.push_back({name, {reinterpret_cast<const uint8_t*>(content.c_str()), content.size()}});
    }
    std::vector<uint8_t> file;
    {
        nb::gil_scoped_release release;
        file = flif::encode(source, options);
    }
    return nb::bytes(file.data(), file.size());
}

nb::dict read_header(const Buffer& buffer, uint64_t max_pixels) {
    const flif::Info info = flif::read_info(bytes_of(buffer), flif::Limits{max_pixels});
    nb::dict result;
    result["width"] = info.header.width;
    result["height"] = info.header.height;
    result["channels"] = info.header.planes;
    result["maximum"] = info.stream.maximum;
    result["interlaced"] = info.header.interlaced;
    result["alpha_zero"] = info.stream.alpha_zero;
    result["cutoff"] = info.stream.cutoff;
    result["divisor"] = info.stream.divisor;
    result["transforms"] = info.stream.transforms;
    nb::list chunks;
    for (const flif::Chunk& chunk : info.header.chunks) {
        chunks.append(nb::make_tuple(chunk.name, chunk.content.data() - buffer.data(), chunk.content.size()));
    }
    result["chunks"] = chunks;
    return result;
}

}  // namespace

NB_MODULE(_flif, m) {
    nb::exception<flif::Error> error(m, "Error", PyExc_ValueError);
    nb::exception<flif::LimitExceeded> limit(m, "LimitError", error);
    m.def("decode", &decode, nb::arg("data"), nb::kw_only(), nb::arg("max_pixels"));
    m.def("encode", &encode, nb::arg("pixels"), nb::kw_only(), nb::arg("effort"), nb::arg("interlaced"),
          nb::arg("crc"), nb::arg("keep_invisible"), nb::arg("chunks"));
    m.def("read_header", &read_header, nb::arg("data"), nb::kw_only(), nb::arg("max_pixels"));
}
