#include "scan.hpp"

namespace oslic::flif {

namespace {

template <int Lower, bool Horizontal, class T, class ConcreteRanges>
class LevelScanner : detail::PlaneScanner<Lower, T> {
   public:
    LevelScanner(const Scan<T>& scan, int p, const ConcreteRanges& ranges, PixelCoder<T>& coder, int level, int predictor)
        : detail::PlaneScanner<Lower, T>(scan, p),
          ranges_(ranges),
          coder_(coder),
          scan_(scan),
          predictor_(predictor),
          rows_(1 + (scan.planes.height - 1) / Zoom::row_step(level)),
          columns_(1 + (scan.planes.width - 1) / Zoom::column_step(level)),
          up_(ptrdiff_t{scan.planes.width} * Zoom::row_step(level)),
          side_(Zoom::column_step(level)) {}

    void run() {
        for (int r = Horizontal ? 1 : 0; r < rows_; r += Horizontal ? 2 : 1) {
            for (int c = Horizontal ? 0 : 1; c < columns_; c += Horizontal ? 1 : 2) {
                if (r > 1 && c > 1 && r + 1 < rows_ && c + 1 < columns_) {
                    pixel<true>(r, c);
                } else {
                    border_pixel(r, c);
                }
            }
        }
    }

   private:
    int32_t predict(int predictor, int32_t mean, int32_t m, int32_t top, int32_t left, int32_t far) const {
        if (predictor == 0) return mean;
        return predictor == 1 ? m : median(top, far, left);
    }

    [[gnu::cold, gnu::noinline]] void border_pixel(int r, int c) { pixel<false>(r, c); }

    // Inner: all neighbors exist.
    template <bool Inner>
    void pixel(int r, int c) {
        const ptrdiff_t offset = r * up_ + c * side_;
        T* at = this->plane_ + offset;
        const bool above = Inner || r > 0;
        const bool below = Inner || r + 1 < rows_;
        const bool before = Inner || c > 0;
        const bool behind = Inner || c + 1 < columns_;
        const bool skipped = this->skipped(offset);

        int32_t top, left, top_left, top_right, bottom_left, far, bottom_right;
        if constexpr (Horizontal) {
            top = at[-up_];
            left = before ? at[-side_] : top;
            top_left = before ? at[-up_ - side_] : top;
            top_right = behind ? at[-up_ + side_] : top;
            bottom_left = below && before ? at[up_ - side_] : left;
            far = below ? at[up_] : skipped ? top : left;
            bottom_right = below && behind ? at[up_ + side_] : far;
        } else {
            left = at[-side_];
            top = above ? at[-up_] : left;
            top_left = above ? at[-up_ - side_] : left;
            top_right = above && behind ? at[-up_ + side_] : top;
            bottom_left = below ? at[up_ - side_] : left;
            far = behind ? at[side_] : skipped ? left : top;
            bottom_right = below && behind ? at[up_ + side_] : far;
        }
        const int32_t mean = ((Horizontal ? top : left) + far) >> 1;
        const int32_t gradient1 = left + top - top_left;
        const int32_t gradient2 = Horizontal ? left + far - bottom_left : far + top - top_right;
        const int32_t m = median(mean, gradient1, gradient2);
        if (skipped) {
            const int32_t value = predict(scan_.invisible.predictor, mean, m, top, left, far);
            *at = static_cast<T>(stored(value, this->p_, scan_.maximum));
            return;
        }

        int32_t properties[kMaxProperties] = {};
        for (int lower = 0; lower < Lower; ++lower) properties[lower] = this->lower_[lower][offset];
        int32_t guess = predict(predictor_, mean, m, top, left, far);
        const Interval bounds = ranges_.snap(this->p_, properties, guess);
        if (bounds.min == bounds.max) {
            *at = static_cast<T>(bounds.min);
            return;
        }
        int k = Lower;
        if (this->alpha_ != nullptr) properties[k++] = this->alpha_[offset];
        properties[k++] = m == mean ? 0 : m == gradient1 ? 1 : 2;
        if constexpr (Lower > 0) {
            const T* luma = this->lower_[0] + offset;
            const int32_t near_luma = Horizontal ? luma[-up_] : luma[-side_];
            const bool has_far = Horizontal ? below : behind;
            const int32_t far_luma = has_far ? (Horizontal ? luma[up_] : luma[side_]) : near_luma;
            properties[k++] = *luma - ((near_luma + far_luma) >> 1);
        }
        const int32_t top_edge = top - ((top_left + top_right) >> 1);
        const int32_t left_edge = left - ((bottom_left + top_left) >> 1);
        properties[k++] = (Horizontal ? top : left) - far;
        properties[k++] = Horizontal ? top_edge : left_edge;
        properties[k++] = Horizontal ? left_edge : top_edge;
        properties[k++] = far - (((Horizontal ? bottom_left : top_right) + bottom_right) >> 1);
        properties[k++] = guess;
        if constexpr (Lower != 2) {
            properties[k++] = Inner || r > 1 ? at[-2 * up_] - top : 0;
            properties[k++] = Inner || c > 1 ? at[-2 * side_] - left : 0;
        }
        *at = coder_.code(properties, guess, Interval{bounds.min - guess, bounds.max - guess}, *at);
    }

    const ConcreteRanges& ranges_;
    PixelCoder<T>& coder_;
    const Scan<T>& scan_;
    int predictor_;
    int rows_;
    int columns_;
    ptrdiff_t up_;
    ptrdiff_t side_;
};

}  // namespace

template <class T>
void scan_level(const Scan<T>& scan, int p, int level, int predictor, PixelCoder<T>& coder) {
    detail::with_plane<T>(scan.ranges, p, [&](auto lower, const auto& ranges) {
        using Concrete = std::decay_t<decltype(ranges)>;
        if (level % 2 == 0) {
            LevelScanner<lower(), true, T, Concrete>(scan, p, ranges, coder, level, predictor).run();
        } else {
            LevelScanner<lower(), false, T, Concrete>(scan, p, ranges, coder, level, predictor).run();
        }
    });
}

template void scan_level(const Scan<int16_t>&, int, int, int, PixelCoder<int16_t>&);
template void scan_level(const Scan<int32_t>&, int, int, int, PixelCoder<int32_t>&);

}  // namespace oslic::flif
