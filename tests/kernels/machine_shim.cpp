// One instruction of the played machine at a time, for test_machine.py: registers in, registers out.
#include <cstring>

#include "machine.h"

using namespace vitc;

namespace {

template <typename T>
T* lane(T* registers, int count) {
    return registers + thread_index() * count;
}

bool play(std::function<void()> const& body, size_t shared, std::vector<harness::Region> const& regions) {
    std::string error;
    harness::Statistics statistics{};
    return harness::launch(body, 1, 32, shared, regions, error, statistics);
}

}  // namespace

// which: 0 s8 16x8x32, 1 u8.s8 16x8x32, 2 s8 16x8x16, 3 s8 8x8x16, 4 u8.s8 8x8x16. a [32][4], b [32][2], d [32][4].
extern "C" int shim_mma_integer(int which, uint32_t const* a_all, uint32_t const* b_all, int* d_all) {
    auto const body = [&] {
        uint32_t a[4];
        std::memcpy(a, lane(a_all, 4), sizeof(a));
        uint32_t const* const b = lane(b_all, 2);
        int d[4];
        std::memcpy(d, lane(d_all, 4), sizeof(d));
        switch (which) {
            case 0: mma_s8_m16n8k32(d, a, b[0], b[1]); break;
            case 1: mma_u8s8_m16n8k32(d, a, b[0], b[1]); break;
            case 2: mma_s8_m16n8k16(d, a[0], a[1], b[0]); break;
            case 3: mma_s8_m8n8k16(d[0], d[1], a[0], b[0]); break;
            default: mma_u8s8_m8n8k16(d[0], d[1], a[0], b[0]); break;
        }
        std::memcpy(lane(d_all, 4), d, sizeof(d));
    };
    return play(body, 0, {}) ? 0 : 1;
}

// which: 0 16x8x16, 1 16x8x8.
extern "C" int shim_mma_half(int which, uint32_t const* a_all, uint32_t const* b_all, float* d_all) {
    auto const body = [&] {
        uint32_t a[4];
        std::memcpy(a, lane(a_all, 4), sizeof(a));
        uint32_t const* const b = lane(b_all, 2);
        float d[4];
        std::memcpy(d, lane(d_all, 4), sizeof(d));
        if (which == 0) {
            mma_f16_m16n8k16(d, a, b[0], b[1]);
        } else {
            mma_f16_m16n8k8(d, a[0], a[1], b[0]);
        }
        std::memcpy(lane(d_all, 4), d, sizeof(d));
    };
    return play(body, 0, {}) ? 0 : 1;
}

// Four 8x8 matrices of 16-bit elements, one after the other in memory, as each lane's four registers.
extern "C" int shim_load_matrix(int transposed, uint16_t const* matrices, uint32_t* r_all) {
    auto const body = [&] {
        for (int row = thread_index(); row < 32; row += 32) {
            uint4 piece;
            std::memcpy(&piece, matrices + 8 * row, sizeof(piece));
            store_shared(shared_base() + 16u * static_cast<uint32_t>(row), piece);
        }
        sync_warp();
        uint32_t r[4];
        uint32_t const address = shared_base() + 16u * static_cast<uint32_t>(thread_index());
        if (transposed != 0) {
            load_matrix_x4_trans(r, address);
        } else {
            load_matrix_x4(r, address);
        }
        std::memcpy(lane(r_all, 4), r, sizeof(r));
    };
    return play(body, 512, {}) ? 0 : 1;
}

extern "C" uint16_t shim_float_to_half(float x) { return float_to_half(x); }
extern "C" uint32_t shim_permute(uint32_t x, uint32_t y, uint32_t selector) { return permute_bytes(x, y, selector); }
