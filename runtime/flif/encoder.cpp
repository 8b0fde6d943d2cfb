#include "encoder.hpp"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <functional>
#include <memory>
#include <utility>

#include "checksum.hpp"
#include "integer_coder.hpp"
#include "learner.hpp"
#include "plan.hpp"
#include "planes.hpp"
#include "scan.hpp"
#include "transforms.hpp"
#include "tree.hpp"

namespace oslic::flif {

namespace {

// Coders for the scan templates.

template <class T>
class PixelWriter final : public PixelCoder<T> {
   public:
    PixelWriter(RangeEncoder& bits, const ChanceTable& table, Tree& tree) : writer_(bits, table), tree_(tree) {}

    T code(const int32_t* properties, int32_t guess, Interval residual, T current) override {
        writer_.near_zero(tree_.find(properties), current - guess, residual.min, residual.max);
        return current;
    }

   private:
    IntegerWriter writer_;
    Tree& tree_;
};

template <class T>
class PixelSampler final : public PixelCoder<T> {
   public:
    explicit PixelSampler(SampleTable& samples) : samples_(samples) {}

    T code(const int32_t* properties, int32_t guess, Interval residual, T current) override {
        samples_.add(properties, current - guess, residual);
        return current;
    }

   private:
    SampleTable& samples_;
};

// Sums the bit lengths of the residuals: how good is a predictor?
template <class T>
class ResidualMeter final : public PixelCoder<T> {
   public:
    T code(const int32_t*, int32_t guess, Interval, T current) override {
        total_ += static_cast<uint64_t>(std::bit_width(static_cast<uint32_t>(std::abs(current - guess))));
        return current;
    }
    uint64_t total() const { return total_; }

   private:
    uint64_t total_ = 0;
};

// What the effort buys.
struct Effort {
    bool transforms;
    bool palettes;
    bool trees;
    LearnerOptions learner;

    explicit Effort(int effort) : transforms(effort >= 5), palettes(effort >= 8), trees(effort >= 10) {
        if (const char* s = std::getenv("FL_SPLIT")) learner.split_bits = std::atof(s);
    }
};

// Codes one plan of a picture: trees are learned, then everything is written.
template <class T>
class PictureEncoder {
   public:
    PictureEncoder(Plan<T>& plan, int32_t maximum, bool interlaced, const Effort& effort)
        : planes_(plan.planes),
          chain_(plan.chain),
          ranges_(plan.chain.ranges()),
          alpha_zero_(plan.alpha_zero),
          interlaced_(interlaced),
          effort_(effort),
          scan_{planes_, ranges_, {}, maximum} {
        scan_.invisible.in_force =
            plan.alpha_zero && !plan.palette_alpha && ranges_.lo[3] <= 0 && ranges_.hi[3] != 0;
        settle_invisible(plan);
    }

    // Learns what is to be learned. The predictors of the interlaced scan come first: properties depend on them.
    void learn() {
        for (int p = 0; interlaced_ && p < planes_.count; ++p) {
            if (!ranges_.constant(p)) choose_predictor(p);
        }
        if (!effort_.trees) return;
        for (int p = 0; p < planes_.count; ++p) {
            if (ranges_.constant(p)) continue;
            SampleTable samples(static_cast<int>(intervals(p).size()));
            PixelSampler<T> sampler(samples);
            if (interlaced_) {
                for (int level = last_level(); level >= 0; --level) scan_level(scan_, p, level, predictors_[p], sampler);
            } else {
                scan_plane(scan_, p, sampler);
            }
            samples.finish();
            trees_[p] = Tree(grow_tree(samples, intervals(p), effort_.learner));
        }
    }

    // Appends the compressed stream.
    void write(std::vector<uint8_t>& out, const uint32_t* checksum, int cutoff, int divisor) {
        RangeEncoder bits(out);
        IntegerWriter writer(bits);
        const bool custom = cutoff != kDefaultCutoff || divisor != kDefaultDivisor;
        std::optional<ChanceTable> own;
        if (custom) own.emplace(cutoff, divisor);
        const ChanceTable& table = custom ? *own : default_chances();
        if (planes_.count == 4) writer.uniform(alpha_zero_ ? 1 : 0, 0, 1);
        writer.uniform(custom ? 1 : 0, 0, 1);
        if (custom) {
            writer.uniform(cutoff, 1, 128);
            writer.uniform(divisor, 2, 128);
            writer.uniform(0, 0, 1);
        }
        chain_.write(writer);
        std::array<Tree, kMaxPlanes> trees = trees_;
        if (interlaced_) {
            if (alpha_zero_ && ranges_.lo[3] <= 0) writer.uniform(scan_.invisible.predictor, 0, 2);
            write_interlaced(bits, writer, table, trees);
        } else {
            write_trees(bits, trees);
            for (const int p : plane_order()) {
                if (p >= planes_.count || ranges_.constant(p)) continue;
                PixelWriter<T> pixels(bits, table, trees[static_cast<size_t>(p)]);
                scan_plane(scan_, p, pixels);
            }
        }
        writer.uniform(checksum != nullptr ? 1 : 0, 0, 1);
        if (checksum != nullptr) {
            writer.uniform(static_cast<int32_t>(*checksum >> 16), 0, 65535);
            writer.uniform(static_cast<int32_t>(*checksum & 65535), 0, 65535);
        }
        bits.finish();
    }

    size_t tree_nodes(int p) const { return trees_[static_cast<size_t>(p)].nodes().size(); }

   private:
    PropertyIntervals intervals(int p) const { return property_intervals(ranges_, p, interlaced_); }
    int last_level() const { return Zoom::last_level(planes_.width, planes_.height); }

    void choose_predictor(int p) {
        uint64_t least = ~uint64_t{0};
        for (int predictor = 0; predictor < 3; ++predictor) {
            ResidualMeter<T> meter;
            for (int level = std::min(2, last_level()); level >= 0; --level) {
                scan_level(scan_, p, level, predictor, meter);
            }
            if (meter.total() < least) {
                least = meter.total();
                predictors_[static_cast<size_t>(p)] = predictor;
            }
        }
    }

    void write_trees(RangeEncoder& bits, const std::array<Tree, kMaxPlanes>& trees) const {
        for (int p = 0; p < planes_.count; ++p) {
            if (!ranges_.constant(p)) trees[static_cast<size_t>(p)].write(bits, intervals(p));
        }
    }

    void write_interlaced(RangeEncoder& bits, IntegerWriter& writer, const ChanceTable& table,
                          std::array<Tree, kMaxPlanes>& trees) {
        // The rough pass, whose levels have no trees, is empty: trees pay from the first pixel on.
        const int last = last_level();
        writer.uniform(last, 0, last);
        for (int p = 0; p < planes_.count; ++p) {
            if (!ranges_.constant(p)) writer.uniform(planes_.data[p][0], ranges_.lo[p], ranges_.hi[p]);
        }
        write_pass_head(writer);
        write_trees(bits, trees);
        write_pass_head(writer);
        DefaultOrder order(planes_.count, ranges_.constant(0), last, 0);
        std::array<int, kMaxPlanes> next_level;
        next_level.fill(last);
        for (int step = planes_.count * (last + 1); step > 0; --step) {
            const auto p = static_cast<size_t>(order.next());
            const int level = next_level[p]--;
            if (ranges_.constant(static_cast<int>(p))) continue;
            PixelWriter<T> pixels(bits, table, trees[p]);
            scan_level(scan_, static_cast<int>(p), level, predictors_[p], pixels);
        }
    }

    void write_pass_head(IntegerWriter& writer) const {
        writer.uniform(1, 0, 1);  // the default order
        for (int p = 0; p < planes_.count; ++p) writer.uniform(predictors_[static_cast<size_t>(p)], -1, 2);
    }

    Planes<T>& planes_;
    const TransformChain& chain_;
    const Ranges& ranges_;
    bool alpha_zero_;
    bool interlaced_;
    const Effort& effort_;
    Scan<T> scan_;
    std::array<int, kMaxPlanes> predictors_{};
    std::array<Tree, kMaxPlanes> trees_;
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

// Whether ChannelCompact would shorten the range of a plane enough to pay for its lists.
template <class T>
bool compactable(const Plan<T>& plan) {
    for (int p = 0; p < plan.planes.count; ++p) {
        const Interval extent = coded_extent(plan, p);
        std::vector<bool> met(static_cast<size_t>(extent.max - extent.min) + 1);
        int distinct = 0;
        for (size_t i = 0; i < plan.planes.pixels(); ++i) {
            if (plan.skips(p) && !plan.visible(i)) continue;
            const auto place = static_cast<size_t>(plan.planes.data[p][i] - extent.min);
            if (!met[place]) {
                met[place] = true;
                ++distinct;
            }
        }
        if (10 * distinct <= 9 * (extent.max - extent.min)) return true;
    }
    return false;
}

// The plans that are worth trying, the most likely one first.
template <class T>
std::vector<Plan<T>> plans(Plan<T> start, const Effort& effort) {
    std::vector<Plan<T>> list;
    if (!effort.transforms) {
        list.push_back(std::move(start));
        return list;
    }
    if (compactable(start)) add_channel_compact(start);
    if (start.planes.count == 1) {
        add_bounds(start);
        list.push_back(std::move(start));
        return list;
    }
    const size_t most_colours = std::min<size_t>(512, start.planes.pixels() / 3);
    const Ranges& ranges = start.chain.ranges();
    if (YCoCg::allowed(ranges)) {
        list.push_back(start.clone());
        add_colour_transform(list.back(), YCoCg{});
    }
    if (PermutePlanes::allowed(ranges)) {
        list.push_back(start.clone());
        add_colour_transform(list.back(), PermutePlanes{{1, 0, 2, 3}, true});
    }
    if (list.empty()) list.push_back(start.clone());
    for (Plan<T>& plan : list) add_bounds(plan);
    if (effort.palettes) {
        Plan<T> with_palette = list.front().clone();
        const Ranges& before = with_palette.chain.ranges();
        const bool alpha_varies = before.planes == 4 && !before.constant(3);
        bool added = alpha_varies && add_palette(with_palette, most_colours, PaletteOrder::sorted, true);
        if (!added && Palette::allowed(before, {})) {
            added = add_palette(with_palette, most_colours, PaletteOrder::sorted, false);
        }
        if (added) list.insert(list.begin(), std::move(with_palette));
    }
    return list;
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
    std::vector<uint8_t> head;
    write_header(header, head);

    const Effort effort(options.effort);
    Plan<T> start(load<T>(source), maximum);
    if (header.planes == 4 && !options.keep_invisible) hide_invisible(start);
    uint32_t checksum = 0;
    if (options.checksum) {
        // The checksum is about what a decoder returns: black where colour is not stored.
        for (int p = 0; p < 3; ++p) {
            for (size_t i = 0; start.skips(p) && i < start.planes.pixels(); ++i) {
                if (!start.visible(i)) start.planes.data[p][i] = 0;
            }
        }
        checksum = picture_checksum(start.planes, maximum);
    }
    std::vector<uint8_t> best;
    for (Plan<T>& plan : plans(std::move(start), effort)) {
        PictureEncoder<T> encoder(plan, maximum, options.interlaced, effort);
        encoder.learn();
        if (std::getenv("FL_LOG")) for (int p = 0; p < plan.planes.count; ++p) fprintf(stderr, "%s plane %d nodes %zu\n", plan.chain.list().empty() ? "-" : name_of(plan.chain.list().back()), p, encoder.tree_nodes(p));
        std::vector<uint8_t> out = head;
        int cutoff = 2, divisor = 19;
        if (const char* s = std::getenv("FL_CUT")) cutoff = std::atoi(s);
        if (const char* s = std::getenv("FL_DIV")) divisor = std::atoi(s);
        encoder.write(out, options.checksum ? &checksum : nullptr, cutoff, divisor);
        if (best.empty() || out.size() < best.size()) best = std::move(out);
    }
    return best;
}

}  // namespace

std::vector<uint8_t> encode(const PixelSource& source, const EncoderOptions& options) {
    if (source.wide) return encode_picture<int32_t>(source, options, 65535);
    return encode_picture<int16_t>(source, options, 255);
}

}  // namespace oslic::flif
