#include "encoder.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdlib>
#include <optional>
#include <span>
#include <utility>
#include <variant>

#include "checksum.hpp"
#include "integer_coder.hpp"
#include "learner.hpp"
#include "meter.hpp"
#include "plan.hpp"
#include "planes.hpp"
#include "row_contexts.hpp"
#include "scan.hpp"
#include "transforms.hpp"
#include "tree.hpp"

namespace oslic::flif {

namespace {

// Coders for the two scans.

template <class T>
class RowWriter {
   public:
    RowWriter(RangeEncoder& bits, const ChanceTable& table, RowContexts<T>& contexts)
        : bits_(&bits), table_(&table), contexts_(&contexts) {}

    void start_row(const Row<T>& row) { finder_ = contexts_->start_row(row); }
    T code(int column, const Near& near, Interval residual, T current) {
        IntegerWriter writer(*bits_, *table_);
        writer.near_zero(finder_(column, near), current - near.guess, residual.min, residual.max);
        return current;
    }

   private:
    RangeEncoder* bits_;
    const ChanceTable* table_;
    RowContexts<T>* contexts_;
    typename RowContexts<T>::Finder finder_;
};

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
    bool exhaustive;  // several plans are coded, with several settings
    size_t plans;     // how many
    int thresholds;

    explicit Effort(int effort)
        : transforms(effort >= 5),
          palettes(effort >= 8),
          trees(effort >= 10),
          exhaustive(effort >= 80),
          plans(effort < 80 ? 1 : 4),
          thresholds(effort < 40 ? 12 : effort < 80 ? 24 : 64) {}
};

// The adaptation of the chances, and how trees grow (see LearnerOptions). Found by measurement.
struct Settings {
    double split_bits;
    int count;
    int lag;
    int cutoff;
    int divisor;
};

// Label maps and palette numbers: long runs of certain pixels, sudden changes. Quick chances with wide margins suit them.
constexpr Settings kLabelSettings[] = {{20, 2, 1, 5, 9}, {28, 1, 2, 7, 8}, {20, 4, 2, 3, 11}, {30, 12, 9, 2, 19}};
// Pictures whose samples are quantities.
constexpr Settings kToneSettings[] = {
    {36, 16, 19, kDefaultCutoff, kDefaultDivisor}, {44, 24, 17, 2, 17}, {30, 12, 22, 2, 22}, {40, 16, 28, 2, 28}};

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

    // Collects what can be learned from. Predictors of the interlaced scan come first: properties depend on them.
    void sample() {
        for (int p = 0; interlaced_ && p < planes_.count; ++p) {
            if (!ranges_.constant(p)) choose_predictor(p);
        }
        for (int p = 0; effort_.trees && p < planes_.count; ++p) {
            if (ranges_.constant(p)) continue;
            SampleTable& samples = samples_[static_cast<size_t>(p)].emplace(static_cast<int>(intervals(p).size()), planes_.pixels());
            PixelSampler<T> sampler(samples);
            if (interlaced_) {
                for (int level = last_level(); level >= 0; --level) scan_level(scan_, p, level, predictors_[p], sampler);
            } else {
                WholeProperties<T, PixelSampler<T>> rows(sampler);
                scan_plane(scan_, p, rows);
            }
        }
    }

    void learn(const Settings& settings) {
        LearnerOptions options;
        options.split_bits = settings.split_bits;
        options.count = settings.count;
        options.lag = settings.lag;
        options.thresholds = effort_.thresholds;
        if (effort_.exhaustive || are_labels()) {
            // Every single value can matter here.
            options.examined = SIZE_MAX;
            options.steps = UINT64_MAX;
        }
        for (int p = 0; p < planes_.count; ++p) {
            const auto& samples = samples_[static_cast<size_t>(p)];
            if (samples) trees_[static_cast<size_t>(p)] = Tree(grow_tree(*samples, intervals(p), options));
        }
    }

    // The settings to try, the most likely one first.
    std::span<const Settings> settings() const {
        const std::span<const Settings> all = are_labels() ? kLabelSettings : kToneSettings;
        return effort_.exhaustive ? all : all.first(1);
    }

    // Appends the compressed stream.
    void write(std::vector<uint8_t>& out, const uint32_t* checksum, const Settings& settings) {
        const auto [split_bits, count, lag, cutoff, divisor] = settings;
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
                RowContexts<T> contexts(trees[static_cast<size_t>(p)], ranges_, p, planes_.width);
                RowWriter<T> rows(bits, table, contexts);
                scan_plane(scan_, p, rows);
            }
        }
        writer.uniform(checksum != nullptr ? 1 : 0, 0, 1);
        if (checksum != nullptr) {
            writer.uniform(static_cast<int32_t>(*checksum >> 16), 0, 65535);
            writer.uniform(static_cast<int32_t>(*checksum & 65535), 0, 65535);
        }
        bits.finish();
    }

   private:
    // Whether the samples look like class or palette numbers: one plane varies, and has few values.
    bool are_labels() const {
        int varying = 0;
        int32_t span = 0;
        for (int p = 0; p < planes_.count; ++p) {
            if (ranges_.constant(p)) continue;
            ++varying;
            span = ranges_.span(p);
        }
        return varying == 1 && span < 64;
    }

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
    std::array<std::optional<SampleTable>, kMaxPlanes> samples_;
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

// Metered bits of the best palette over those of the best plan without: where the latter need not be coded, and where
// the former need not.
constexpr double kClearlyBetter = 0.75;
constexpr double kPerhapsBetter = 0.95;
constexpr double kHopeless = 1.2;  // no other order of the colors will help
constexpr int32_t kFewColors = 64;  // such pictures are mostly drawings: a palette is always tried

// Appends a palette, with alpha where it varies. False, the plan untouched, if there are too many colors.
template <class T>
bool add_any_palette(Plan<T>& plan, PaletteOrder order) {
    const size_t most = std::min<size_t>(512, plan.planes.pixels() / 3);
    const Ranges& before = plan.chain.ranges();
    if (before.planes == 4 && !before.constant(3) && add_palette(plan, most, order, true)) return true;
    return Palette::allowed(before, {}) && add_palette(plan, most, order, false);
}

// What the parameters of the transforms take, in bits.
template <class T>
double parameter_bits(const Plan<T>& plan) {
    std::vector<uint8_t> parameters;
    RangeEncoder bits(parameters);
    IntegerWriter writer(bits);
    plan.chain.write(writer);
    return 8 * static_cast<double>(parameters.size());
}

template <class T>
double metered_bits(const Plan<T>& plan) {
    const Meter meter(plan);
    double bits = parameter_bits(plan);
    for (int p = 0; p < plan.planes.count; ++p) {
        if (!plan.chain.ranges().constant(p)) bits += meter.plane_bits(plan.planes.data[p].get(), p);
    }
    return bits;
}

using ColorTransform = std::variant<std::monostate, YCoCg, PermutePlanes>;

struct Candidate {
    size_t base;
    ColorTransform transform;
    double bits;
};

// Adds what a picture takes as it is and behind each color transform. The transforms share planes: each is metered once.
template <class T>
void meter_colors(const Plan<T>& plan, size_t base, std::vector<Candidate>& candidates) {
    const Meter meter(plan);
    const auto& data = plan.planes.data;
    const auto bits_of = [&](const T* plane, int p) { return meter.plane_bits(plane, p); };
    double common = parameter_bits(plan);
    if (plan.planes.count == 4) common += bits_of(data[3].get(), 3);
    std::array<double, 3> plain{};
    for (int p = 0; p < std::min(plan.planes.count, 3); ++p) plain[static_cast<size_t>(p)] = bits_of(data[p].get(), p);
    candidates.push_back({base, {}, common + plain[0] + plain[1] + plain[2]});

    const Ranges& ranges = plan.chain.ranges();
    if (!PermutePlanes::allowed(ranges)) return;
    std::vector<T> difference(plan.planes.pixels());
    const auto difference_bits = [&](int p, int q) {
        for (size_t i = 0; i < difference.size(); ++i) difference[i] = static_cast<T>(data[p][i] - data[q][i]);
        return bits_of(difference.data(), 1);
    };
    const double red_green = difference_bits(0, 1);
    const double green_blue = difference_bits(1, 2);
    const double blue_red = difference_bits(2, 0);
    const auto permuted = [&](std::array<int, kMaxPlanes> order, double rest) {
        candidates.push_back({base, PermutePlanes{order, true}, common + plain[static_cast<size_t>(order[0])] + rest});
    };
    permuted({1, 0, 2, 3}, red_green + green_blue);
    permuted({0, 1, 2, 3}, red_green + blue_red);
    permuted({2, 1, 0, 3}, green_blue + blue_red);
    if (!YCoCg::allowed(ranges)) return;
    Planes<T> planes = plan.planes.clone();
    YCoCg{}.apply(planes);
    double bits = common;
    for (int p = 0; p < 3; ++p) bits += bits_of(planes.data[p].get(), p);
    candidates.push_back({base, YCoCg{}, bits});
}

// The plans that are worth coding.
template <class T>
std::vector<Plan<T>> make_plans(Plan<T> start, const Effort& effort) {
    std::vector<Plan<T>> plans;
    if (!effort.transforms || start.planes.pixels() <= 2) {
        plans.push_back(std::move(start));
        return plans;
    }
    const bool color = start.planes.count > 1;
    std::vector<Plan<T>> bases;
    bases.push_back(std::move(start));
    if (has_gaps(bases[0])) {
        bases.push_back(bases[0].clone());
        add_channel_compact(bases[1]);
        if (!color) bases.erase(bases.begin());
    }
    std::vector<Candidate> candidates;
    for (size_t i = 0; i < bases.size(); ++i) meter_colors(bases[i], i, candidates);
    std::sort(candidates.begin(), candidates.end(), [](const auto& a, const auto& b) { return a.bits < b.bits; });
    candidates.resize(std::min(candidates.size(), effort.plans));
    for (const Candidate& candidate : candidates) {
        Plan<T>& plan = plans.emplace_back(bases[candidate.base].clone());
        if (const auto* transform = std::get_if<YCoCg>(&candidate.transform)) add_color_transform(plan, *transform);
        if (const auto* transform = std::get_if<PermutePlanes>(&candidate.transform)) add_color_transform(plan, *transform);
        add_bounds(plan);
    }

    if (!effort.palettes || !color) return plans;
    std::optional<Plan<T>> best;
    double best_bits = 0;
    bool few = false;
    for (const PaletteOrder order : {PaletteOrder::sorted, PaletteOrder::by_appearance}) {
        Plan<T> plan = plans[0].clone();
        if (!add_any_palette(plan, order)) break;
        const double bits = metered_bits(plan);
        few = plan.chain.ranges().span(1) < kFewColors;
        if (!few && bits > kHopeless * candidates[0].bits) return plans;
        if (best && bits > best_bits) continue;
        best = std::move(plan);
        best_bits = bits;
    }
    // The meter compares like with like, but palette numbers are no quantities: unless it is clear, both are coded.
    if (!best || (!few && best_bits > kPerhapsBetter * candidates[0].bits)) return plans;
    if (best_bits < kClearlyBetter * candidates[0].bits && !effort.exhaustive) plans.clear();
    plans.push_back(std::move(*best));
    return plans;
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
        // The checksum is about what a decoder returns: black where color is not stored.
        for (int p = 0; p < 3; ++p) {
            for (size_t i = 0; start.skips(p) && i < start.planes.pixels(); ++i) {
                if (!start.visible(i)) start.planes.data[p][i] = 0;
            }
        }
        checksum = picture_checksum(start.planes, maximum);
    }
    std::vector<uint8_t> best;
    for (Plan<T>& plan : make_plans(std::move(start), effort)) {
        PictureEncoder<T> encoder(plan, maximum, options.interlaced, effort);
        encoder.sample();
        for (const Settings& settings : encoder.settings()) {
            encoder.learn(settings);
            std::vector<uint8_t> out = head;
            encoder.write(out, options.checksum ? &checksum : nullptr, settings);
            if (best.empty() || out.size() < best.size()) best = std::move(out);
        }
    }
    return best;
}

}  // namespace

std::vector<uint8_t> encode(const PixelSource& source, const EncoderOptions& options) {
    if (source.wide) return encode_picture<int32_t>(source, options, 65535);
    return encode_picture<int16_t>(source, options, 255);
}

}  // namespace oslic::flif
