// FP16 as 16 bits, for a compiler without the type.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace vitc {

inline float half_to_float(uint16_t h) {
    int const exponent = h >> 10 & 31;
    int const mantissa = h & 1023;
    float magnitude;
    if (exponent == 0) {
        magnitude = std::ldexp(static_cast<float>(mantissa), -24);
    } else if (exponent == 31) {
        magnitude = mantissa != 0 ? NAN : INFINITY;
    } else {
        magnitude = std::ldexp(static_cast<float>(1024 + mantissa), exponent - 25);
    }
    return (h & 0x8000) != 0 ? -magnitude : magnitude;
}

// Rounds half to even; beyond 65519.996 is infinite.
inline uint16_t float_to_half(float x) {
    uint16_t const sign = std::signbit(x) ? 0x8000 : 0;
    if (std::isnan(x)) {
        return static_cast<uint16_t>(sign | 0x7e00);
    }
    float const magnitude = std::fabs(x);
    if (magnitude >= 65520.0f) {
        return static_cast<uint16_t>(sign | 0x7c00);
    }
    // In units of the half's last place; carrying into the next exponent falls out of the sum.
    int exponent = -24;  // zero's too
    if (magnitude > 0.0f) {
        std::frexp(magnitude, &exponent);
    }
    int const last_place = exponent - 11 < -24 ? -24 : exponent - 11;
    int const units = static_cast<int>(std::nearbyint(std::ldexp(magnitude, -last_place)));
    int const biased = last_place + 24;  // 0 for subnormals and the lowest binade
    int const bits = units < 1024 && biased == 0 ? units : biased * 1024 + units;
    return static_cast<uint16_t>(sign | bits);
}

}  // namespace vitc
