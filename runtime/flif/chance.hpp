// Adaptive 12-bit chances: the state machine behind every modeled bit.
#pragma once

#include <array>
#include <cstdint>

namespace oslic::flif {

inline constexpr int kDefaultCutoff = 2;
inline constexpr int kDefaultDivisor = 19;

// next[bit][q] is the chance that follows chance q (the probability of a 1 in units of 1/4096) when `bit` was seen.
struct ChanceTable {
    std::array<std::array<uint16_t, 4096>, 2> next{};

    // cutoff C in 1..128 keeps chances within C..4096-C; divisor D in 2..128 is the inverse of the adaptation rate.
    explicit ChanceTable(int cutoff = kDefaultCutoff, int divisor = kDefaultDivisor) {
        constexpr uint64_t one = uint64_t{1} << 32;
        constexpr uint64_t states = 4096;
        const uint64_t last_state = states - static_cast<uint64_t>(cutoff);
        const uint64_t factor = 0xffffffffu / static_cast<uint64_t>(divisor);
        const auto step = [&](uint64_t p) { return p + (((one - p) * factor + one / 2) >> 32); };
        const auto state = [&](uint64_t p) { return (states * p + one / 2) >> 32; };

        auto& up = next[1];
        uint64_t p = one / 2;
        uint64_t last = 0;
        for (int i = 0; i < 2048; ++i) {
            uint64_t s = state(p);
            if (s <= last) s = last + 1;
            if (last != 0 && last < states && s <= last_state) up[last] = static_cast<uint16_t>(s);
            p = step(p);
            last = s;
        }
        for (uint64_t i = static_cast<uint64_t>(cutoff); i <= last_state; ++i) {
            if (up[i] != 0) continue;
            uint64_t s = state(step((i * one + states / 2) / states));
            if (s <= i) s = i + 1;
            if (s > last_state) s = last_state;
            up[i] = static_cast<uint16_t>(s);
        }
        for (uint64_t i = static_cast<uint64_t>(cutoff); i <= last_state; ++i) {
            next[0][i] = static_cast<uint16_t>(states - up[states - i]);
        }
    }
};

inline const ChanceTable& default_chances() {
    static const ChanceTable table;
    return table;
}

}  // namespace oslic::flif
