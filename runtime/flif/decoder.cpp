#include "decoder.hpp"

#include <algorithm>
#include <array>
#include <memory>

#include "checksum.hpp"
#include "integer_coder.hpp"
#include "planes.hpp"
#include "row_contexts.hpp"
#include "scan.hpp"
#include "transforms.hpp"
#include "tree.hpp"

namespace oslic::flif {

namespace {

// Some files of the reference library have a byte or two behind the end. A checksum that went unread has four.
constexpr size_t kMaxPadding = 3;

// The second header, as far as it steers decoding.
struct StreamHead {
    int32_t maximum;
    StreamFlags flags;
    int cutoff = kDefaultCutoff;
    int divisor = kDefaultDivisor;
    bool custom_chances = false;
    TransformChain chain;
    Invisible invisible;
};

int32_t read_maximum(const Header& header, IntegerReader& reader) {
    if (header.depth == '1') return 255;
    if (header.depth == '2') return 65535;
    int bits = 1;
    for (int p = 0; p < header.planes; ++p) bits = std::max(bits, reader.uniform(1, 16));
    return (1 << bits) - 1;
}

StreamHead read_stream_head(const Header& header, RangeDecoder& bits) {
    IntegerReader reader(bits);
    const int32_t maximum = read_maximum(header, reader);
    StreamHead head{.maximum = maximum, .flags = {}, .chain = TransformChain(header.planes, maximum), .invisible = {}};
    head.flags.alpha_zero = header.planes == 4 && reader.uniform(0, 1) != 0;
    head.custom_chances = reader.uniform(0, 1) != 0;
    if (head.custom_chances) {
        head.cutoff = reader.uniform(1, 128);
        head.divisor = reader.uniform(2, 128);
        if (reader.uniform(0, 1) != 0) fail("unsupported: own initial chances (a reserved feature)");
    }
    head.chain.read(reader, head.flags);
    const Ranges& ranges = head.chain.ranges();
    if (head.flags.alpha_zero && header.interlaced && ranges.lo[3] <= 0) head.invisible.predictor = reader.uniform(0, 2);
    head.invisible.in_force =
        head.flags.alpha_zero && !head.flags.palette_alpha && ranges.lo[3] <= 0 && ranges.hi[3] != 0;
    return head;
}

// Coders for the two scans that read pixels.

template <class T>
class RowReader {
   public:
    RowReader(const RangeDecoder& bits, const ChanceTable& table, RowContexts<T>& contexts)
        : bits_(bits), table_(&table), contexts_(&contexts) {}

    void start_row(const Row<T>& row) { finder_ = contexts_->start_row(row); }
    [[gnu::always_inline]] T code(int column, const Near& near, Interval residual, T) {
        IntegerReader reader(bits_, *table_);
        return static_cast<T>(near.guess + reader.near_zero(finder_(column, near), residual.min, residual.max));
    }

    // Where it stands in the stream.
    const RangeDecoder& bits() const { return bits_; }

   private:
    RangeDecoder bits_;  // a copy, which the compiler can keep in registers
    const ChanceTable* table_;
    RowContexts<T>* contexts_;
    typename RowContexts<T>::Finder finder_;
};

template <class T>
class PixelReader final : public PixelCoder<T> {
   public:
    PixelReader(RangeDecoder& bits, const ChanceTable& table, Tree& tree) : reader_(bits, table), tree_(tree) {}

    T code(const int32_t* properties, int32_t guess, Interval residual, T) override {
        return static_cast<T>(guess + reader_.near_zero(tree_.find(properties), residual.min, residual.max));
    }

   private:
    IntegerReader reader_;
    Tree& tree_;
};

template <class T>
class PictureDecoder {
   public:
    PictureDecoder(const Header& header, const StreamHead& head, RangeDecoder& bits)
        : header_(header),
          bits_(bits),
          plain_(bits),
          ranges_(head.chain.ranges()),
          own_table_(head.custom_chances ? std::make_unique<ChanceTable>(head.cutoff, head.divisor) : nullptr),
          table_(own_table_ ? *own_table_ : default_chances()),
          planes_(header.width, header.height, header.planes),
          scan_{planes_, ranges_, head.invisible, head.maximum} {}

    Planes<T>& run() {
        for (int p = 0; p < planes_.count; ++p) {
            if (ranges_.constant(p)) planes_.fill(p, ranges_.lo[p]);
        }
        if (header_.interlaced) {
            interlaced();
        } else {
            non_interlaced();
        }
        return planes_;
    }

   private:
    Tree read_tree(int p) {
        return Tree::read(bits_, property_intervals(ranges_, p, header_.interlaced), planes_.pixels());
    }

    void read_trees() {
        for (int p = 0; p < planes_.count; ++p) {
            if (!ranges_.constant(p)) trees_[static_cast<size_t>(p)] = read_tree(p);
        }
    }

    void non_interlaced() {
        read_trees();
        for (const int p : plane_order()) {
            if (p >= planes_.count || ranges_.constant(p)) continue;
            RowContexts<T> contexts(trees_[static_cast<size_t>(p)], ranges_, p, planes_.width);
            RowReader<T> reader(bits_, table_, contexts);
            scan_plane(scan_, p, reader);
            bits_ = reader.bits();
        }
    }

    void interlaced() {
        const int last = Zoom::last_level(planes_.width, planes_.height);
        const int rough = plain_.uniform(0, last);
        for (int p = 0; p < planes_.count; ++p) {
            if (!ranges_.constant(p)) {
                planes_.data[p][0] = static_cast<T>(plain_.uniform(ranges_.lo[p], ranges_.hi[p]));
            }
        }
        pass(last, rough + 1);
        read_trees();
        pass(rough, 0);
    }

    void pass(int begin, int end) {
        const bool default_order = plain_.uniform(0, 1) != 0;
        std::array<int, kMaxPlanes> predictors{};
        for (int p = 0; p < planes_.count; ++p) predictors[static_cast<size_t>(p)] = plain_.uniform(-1, 2);
        DefaultOrder order(planes_.count, ranges_.constant(0), begin, end);
        std::array<int, kMaxPlanes> next_level;
        next_level.fill(begin);
        for (int step = planes_.count * std::max(0, begin - end + 1); step > 0; --step) {
            const int p = default_order ? order.next() : plain_.uniform(0, planes_.count - 1);
            const int level = next_level[static_cast<size_t>(p)]--;
            if (level < end) fail("corrupt: the plane order has too many steps of one plane");
            if (scan_.invisible_plane(p) && level <= next_level[3]) {
                fail("corrupt: the plane order puts color in front of the alpha that decides about it");
            }
            if (ranges_.constant(p)) continue;
            const int fixed = predictors[static_cast<size_t>(p)];
            const int predictor = fixed >= 0 ? fixed : plain_.uniform(0, 2);
            PixelReader<T> reader(bits_, table_, trees_[static_cast<size_t>(p)]);
            scan_level(scan_, p, level, predictor, reader);
        }
    }

    const Header& header_;
    RangeDecoder& bits_;
    IntegerReader plain_;
    const Ranges& ranges_;
    std::unique_ptr<const ChanceTable> own_table_;
    const ChanceTable& table_;
    Planes<T> planes_;
    Scan<T> scan_;
    std::array<Tree, kMaxPlanes> trees_;
};

template <class T>
void finish_samples(Planes<T>& planes, const StreamHead& head) {
    head.chain.undo(planes);
    const size_t pixels = planes.pixels();
    const auto maximum = static_cast<T>(head.maximum);
    for (int p = 0; p < planes.count; ++p) {
        T* samples = planes.data[p].get();
        for (size_t i = 0; i < pixels; ++i) samples[i] = std::clamp(samples[i], T{0}, maximum);
    }
    if (!head.flags.alpha_zero) return;
    for (size_t i = 0; i < pixels; ++i) {
        if (planes.data[3][i] != 0) continue;
        for (int p = 0; p < 3; ++p) planes.data[p][i] = 0;
    }
}

template <int Count, class Sample, class T>
void interleave(const Planes<T>& planes, Sample* out) {
    std::array<const T*, Count> samples;
    for (size_t p = 0; p < Count; ++p) samples[p] = planes.data[p].get();
    const size_t pixels = planes.pixels();
    for (size_t i = 0; i < pixels; ++i) {
        for (size_t p = 0; p < Count; ++p) *out++ = static_cast<Sample>(samples[p][i]);
    }
}

template <class Sample, class T>
void interleave_into(const Planes<T>& planes, void* out) {
    auto* samples = static_cast<Sample*>(out);
    switch (planes.count) {
        case 1: return interleave<1>(planes, samples);
        case 3: return interleave<3>(planes, samples);
        default: return interleave<4>(planes, samples);
    }
}

template <class T>
void check_ending(const Planes<T>& planes, int32_t maximum, RangeDecoder& bits) {
    IntegerReader trailer(bits);
    if (trailer.uniform(0, 1) != 0) {
        const auto high = static_cast<uint32_t>(trailer.uniform(0, 65535));
        const auto low = static_cast<uint32_t>(trailer.uniform(0, 65535));
        if (picture_checksum(planes, maximum) != (high << 16 | low)) {
            fail("corrupt: the checksum does not match the pixels");
        }
    }
    if (bits.remaining() > kMaxPadding) {
        fail("corrupt: " + std::to_string(bits.remaining()) + " bytes lie behind the end of the picture");
    }
}

template <class T>
void decode_picture(const Info& info, const StreamHead& head, RangeDecoder& bits, const PixelSink& sink,
                    Ending ending) {
    PictureDecoder<T> decoder(info.header, head, bits);
    Planes<T>& planes = decoder.run();
    finish_samples(planes, head);
    if (ending == Ending::checked) check_ending(planes, head.maximum, bits);
    if (sink.wide) {
        interleave_into<uint16_t>(planes, sink.data);
    } else {
        interleave_into<uint8_t>(planes, sink.data);
    }
}

Info make_info(Header header, const StreamHead& head) {
    Info info{std::move(header), {}};
    info.stream.maximum = head.maximum;
    info.stream.alpha_zero = head.flags.alpha_zero;
    if (head.custom_chances) {
        info.stream.cutoff = head.cutoff;
        info.stream.divisor = head.divisor;
    }
    for (const Transform& transform : head.chain.list()) info.stream.transforms.emplace_back(name_of(transform));
    return info;
}

}  // namespace

Info read_info(std::span<const uint8_t> file, const Limits& limits) {
    Header header = read_header(file, limits);
    RangeDecoder bits(file.subspan(header.stream_offset));
    const StreamHead head = read_stream_head(header, bits);
    return make_info(std::move(header), head);
}

void decode(std::span<const uint8_t> file, const Limits& limits,
            const std::function<PixelSink(const Info&)>& allocate, Ending ending) {
    Header header = read_header(file, limits);
    RangeDecoder bits(file.subspan(header.stream_offset));
    const StreamHead head = read_stream_head(header, bits);
    const Info info = make_info(std::move(header), head);
    const PixelSink sink = allocate(info);
    if (head.maximum < 256) {
        decode_picture<int16_t>(info, head, bits, sink, ending);
    } else {
        decode_picture<int32_t>(info, head, bits, sink, ending);
    }
}

}  // namespace oslic::flif
