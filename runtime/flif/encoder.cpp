#include "encoder.hpp"

#include <array>

#include "checksum.hpp"
#include "integer_coder.hpp"
#include "planes.hpp"
#include "scan.hpp"
#include "transforms.hpp"
#include "tree.hpp"

namespace oslic::flif {

namespace {

// A coder for the scan templates that writes pixels.
template <class T>
class PixelWriter {
   public:
    PixelWriter(RangeEncoder& bits, const ChanceTable& table, Tree& tree) : writer_(bits, table), tree_(tree) {}

    T code(const int32_t* properties, int32_t guess, Interval residual, T current) {
        writer_.near_zero(tree_.find(properties), current - guess, residual.min, residual.max);
        return current;
    }

   private:
    IntegerWriter writer_;
    Tree& tree_;
};

template <class T>
Planes<T> load(const PixelSource& source) {
    Planes<T> planes(source.width, source.height, source.channels);
    const auto n = static_cast<size_t>(source.channels);
    const auto read = [&](const auto* samples) {
        for (size_t p = 0; p < n; ++p) {
            for (size_t i = 0; i < planes.pixels(); ++i) planes.data[p][i] = static_cast<T>(samples[i * n + p]);
        }
    };
    if (source.wide) {
        read(static_cast<const uint16_t*>(source.data));
    } else {
        read(static_cast<const uint8_t*>(source.data));
    }
    return planes;
}

template <class T>
std::vector<uint8_t> encode_picture(const PixelSource& source, const EncoderOptions& options, int32_t maximum) {
    Header header;
    header.width = source.width;
    header.height = source.height;
    header.planes = source.channels;
    header.interlaced = options.interlaced;
    header.depth = source.wide ? '2' : '1';
    header.chunks = options.chunks;
    std::vector<uint8_t> out;
    write_header(header, out);

    Planes<T> planes = load<T>(source);
    const uint32_t checksum = options.checksum ? picture_checksum(planes, maximum) : 0;
    RangeEncoder bits(out);
    IntegerWriter writer(bits);
    TransformChain chain(header.planes, maximum);
    if (header.planes == 4) writer.uniform(0, 0, 1);
    writer.uniform(0, 0, 1);
    writer.plain_bit(false);

    const Ranges& ranges = chain.ranges();
    const Scan<T> scan{planes, ranges, {}, maximum};
    std::array<Tree, kMaxPlanes> trees;
    const auto write_trees = [&] {
        for (int p = 0; p < planes.count; ++p) {
            if (!ranges.constant(p)) trees[static_cast<size_t>(p)].write(bits, property_intervals(ranges, p, options.interlaced));
        }
    };
    if (options.interlaced) {
        const int last = Zoom::last_level(planes.width, planes.height);
        writer.uniform(last, 0, last);
        for (int p = 0; p < planes.count; ++p) {
            if (!ranges.constant(p)) writer.uniform(planes.data[p][0], ranges.lo[p], ranges.hi[p]);
        }
        const auto pass = [&](int begin, int end) {
            writer.uniform(1, 0, 1);
            for (int p = 0; p < planes.count; ++p) writer.uniform(0, -1, 2);
            DefaultOrder order(planes.count, ranges.constant(0), begin, end);
            std::array<int, kMaxPlanes> next_level;
            next_level.fill(begin);
            for (int step = planes.count * std::max(0, begin - end + 1); step > 0; --step) {
                const int p = order.next();
                const int level = next_level[static_cast<size_t>(p)]--;
                if (ranges.constant(p)) continue;
                PixelWriter<T> pixel_writer(bits, default_chances(), trees[static_cast<size_t>(p)]);
                scan_level(scan, p, level, 0, pixel_writer);
            }
        };
        pass(last, last + 1);
        write_trees();
        pass(last, 0);
    } else {
        write_trees();
        for (const int p : plane_order()) {
            if (p >= planes.count || ranges.constant(p)) continue;
            PixelWriter<T> pixel_writer(bits, default_chances(), trees[static_cast<size_t>(p)]);
            scan_plane(scan, p, pixel_writer);
        }
    }
    writer.uniform(options.checksum ? 1 : 0, 0, 1);
    if (options.checksum) {
        writer.uniform(static_cast<int32_t>(checksum >> 16), 0, 65535);
        writer.uniform(static_cast<int32_t>(checksum & 65535), 0, 65535);
    }
    bits.finish();
    return out;
}

}  // namespace

std::vector<uint8_t> encode(const PixelSource& source, const EncoderOptions& options) {
    if (source.wide) return encode_picture<int32_t>(source, options, 65535);
    return encode_picture<int16_t>(source, options, 255);
}

}  // namespace oslic::flif
