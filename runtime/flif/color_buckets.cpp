#include <algorithm>
#include <utility>

#include "transforms.hpp"

namespace oslic::flif {

namespace {

constexpr std::array<int32_t, kMaxPlanes> kMaxListed = {255, 510, 5, 255};

struct BucketContexts {
    Context exists, first, last, listed, size, step;
};

Bucket read_bucket(IntegerReader& reader, BucketContexts& contexts, int p, Interval allowed) {
    Bucket bucket;
    if (reader.shifted(contexts.exists, 0, 1) == 0) return bucket;
    if (allowed.min == allowed.max) {
        bucket.min = bucket.max = allowed.min;
        return bucket;
    }
    bucket.min = reader.shifted(contexts.first, allowed.min, allowed.max);
    bucket.max = reader.shifted(contexts.last, bucket.min, allowed.max);
    if (bucket.max - bucket.min <= 1 || reader.shifted(contexts.listed, 0, 1) == 0) return bucket;
    const int32_t n = reader.shifted(contexts.size, 2, std::min(kMaxListed[p], bucket.max - bucket.min));
    bucket.values.reserve(static_cast<size_t>(n));
    bucket.values.push_back(bucket.min);
    for (int32_t i = 1; i <= n - 2; ++i) {
        bucket.values.push_back(reader.shifted(contexts.step, bucket.values.back() + 1, bucket.max + 1 - n + i));
    }
    bucket.values.push_back(bucket.max);
    return bucket;
}

// Takes the values out of the bucket for which removed(value) holds.
template <class Removed>
void remove_values(Bucket& bucket, Removed&& removed) {
    if (bucket.empty()) return;
    std::vector<int32_t> left;
    if (bucket.values.empty()) {
        for (int32_t v = bucket.min; v <= bucket.max; ++v) {
            if (!removed(v)) left.push_back(v);
        }
    } else {
        std::copy_if(bucket.values.begin(), bucket.values.end(), std::back_inserter(left),
                     [&](int32_t v) { return !removed(v); });
    }
    if (left.empty()) {
        bucket = Bucket{};
        return;
    }
    bucket.min = left.front();
    bucket.max = left.back();
    const bool gapless = static_cast<size_t>(bucket.max - bucket.min) + 1 == left.size();
    bucket.values = gapless ? std::vector<int32_t>{} : std::move(left);
}

}  // namespace

bool ColorBuckets::allowed(const Ranges& before) {
    if (before.planes < 3 || before.constant(1)) return false;
    if (before.lo[0] == 0 && before.hi[0] == 0 && before.lo[2] == 0 && before.hi[2] == 0) return false;
    return before.span(0) <= kMaxBucketSpan && before.span(1) <= kMaxBucketSpan && before.span(2) <= kMaxBucketSpan;
}

ColorBuckets ColorBuckets::read(IntegerReader& reader, const Ranges& before, const StreamFlags&) {
    if (!allowed(before)) fail("corrupt: transform ColorBuckets is not allowed here: the planes' ranges do not fit");
    auto buckets = std::make_shared<BucketRanges>(before);
    BucketContexts contexts;
    const auto possible = [&](int p, const int32_t* below, int32_t v, const Bucket& bucket) {
        int32_t snapped = v;
        before.snap(p, below, snapped);
        return snapped == v && bucket.contains(v);
    };
    int32_t below[2] = {};

    buckets->plane0 = read_bucket(reader, contexts, 0, before.minmax(0, below));
    std::vector<bool> y_possible(buckets->plane1.size());
    for (int32_t y = before.lo[0]; y <= before.hi[0]; ++y) {
        if (!possible(0, below, y, buckets->plane0)) continue;
        y_possible[static_cast<size_t>(y - before.lo[0])] = true;
        below[0] = y;
        buckets->bucket1(y) = read_bucket(reader, contexts, 1, before.minmax(1, below));
    }
    if (!before.constant(2)) {
        for (int32_t y = before.lo[0]; y <= before.hi[0]; ++y) {
            if (!y_possible[static_cast<size_t>(y - before.lo[0])]) continue;
            below[0] = y;
            const Bucket& bucket1 = buckets->bucket1(y);
            for (size_t group = 0; group < buckets->groups(); ++group) {
                const int32_t first = before.lo[1] + 4 * static_cast<int32_t>(group);
                bool any = false;
                for (int32_t co = first; co < first + 4; ++co) any = any || possible(1, below, co, bucket1);
                if (!any) continue;
                // All four values count here, the impossible ones too.
                Interval allowed{before.hi[2] + 1, before.lo[2] - 1};
                for (int i = 0; i < 4; ++i) {
                    below[1] = first + i;
                    const Interval bounds = before.minmax(2, below);
                    allowed = i == 0 ? bounds
                                     : Interval{std::min(allowed.min, bounds.min), std::max(allowed.max, bounds.max)};
                }
                buckets->bucket2(y, group) = read_bucket(reader, contexts, 2, allowed);
            }
            remove_values(buckets->bucket1(y), [&](int32_t co) {
                return buckets->bucket2(y, static_cast<size_t>((co - before.lo[1]) / 4)).empty();
            });
        }
    }
    if (before.planes == 4) buckets->plane3 = read_bucket(reader, contexts, 3, before.minmax(3, below));

    ColorBuckets transform;
    transform.buckets = std::move(buckets);
    return transform;
}

}  // namespace oslic::flif
