#include "machine.h"

#include <ucontext.h>

#include <algorithm>
#include <cstdio>
#include <deque>
#include <memory>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#define VITC_WITH_ASAN 1
#else
#define VITC_WITH_ASAN 0
#endif

namespace vitc::harness {
namespace {

constexpr size_t kStackBytes = 256 * 1024;
constexpr int kWarpSize = 32;
constexpr int kNobody = -1;
constexpr int kSeveralLanes = -2;  // readers of one warp
constexpr int kSeveralWarps = -3;

// Who touched a byte of shared memory last, and between which barriers.
struct Access {
    int thread = kNobody;
    int warp = kNobody;
    int block_epoch = -1;
    int warp_epoch = -1;
};

struct SharedByte {
    Access write;
    Access read;
    bool pending = false;  // an asynchronous copy is on its way here
};

struct Copy {
    uint32_t target;
    std::vector<unsigned char> bytes;  // read at the start, as the source may be read at any time; lands at the wait
};

struct Fiber {
    ucontext_t context{};
    std::unique_ptr<char[]> stack;
    int thread = 0;
    bool finished = false;
    std::vector<Copy> open_group;
    std::deque<std::vector<Copy>> groups;
    void* fake_stack = nullptr;
};

struct Warp {
    LaneArguments* lanes[kWarpSize] = {};
    char const* name = nullptr;
    int arrived = 0;
    int64_t generation = 0;
    int epoch = 0;  // __syncwarps so far
};

struct Machine {
    std::function<void()> const* kernel = nullptr;
    std::vector<Region> const* regions = nullptr;
    std::vector<Fiber> fibers;
    std::vector<Warp> warps;
    std::vector<unsigned char> shared;
    std::vector<SharedByte> watch;
    ucontext_t scheduler{};
    void* scheduler_fake_stack = nullptr;
    void const* scheduler_stack = nullptr;
    size_t scheduler_stack_size = 0;
    int current = 0;
    int block = 0;
    int alive = 0;
    int at_barrier = 0;
    int64_t barrier_generation = 0;
    int block_epoch = 0;
    int64_t progress = 0;
    std::string error;
    Statistics statistics{};
};

Machine* machine = nullptr;

Fiber& self() { return machine->fibers[static_cast<size_t>(machine->current)]; }
Warp& my_warp() { return machine->warps[static_cast<size_t>(machine->current / kWarpSize)]; }

// ---- fibers ----

void leave_to_scheduler(bool for_good) {
    Fiber& fiber = self();
#if VITC_WITH_ASAN
    __sanitizer_start_switch_fiber(for_good ? nullptr : &fiber.fake_stack, machine->scheduler_stack,
                                   machine->scheduler_stack_size);
#else
    (void)for_good;
#endif
    swapcontext(&fiber.context, &machine->scheduler);
#if VITC_WITH_ASAN
    __sanitizer_finish_switch_fiber(fiber.fake_stack, nullptr, nullptr);
#endif
}

void yield() { leave_to_scheduler(false); }

void resume(Fiber& fiber) {
    machine->current = fiber.thread;
#if VITC_WITH_ASAN
    __sanitizer_start_switch_fiber(&machine->scheduler_fake_stack, fiber.stack.get(), kStackBytes);
#endif
    swapcontext(&machine->scheduler, &fiber.context);
#if VITC_WITH_ASAN
    __sanitizer_finish_switch_fiber(machine->scheduler_fake_stack, nullptr, nullptr);
#endif
}

void fiber_main() {
#if VITC_WITH_ASAN
    __sanitizer_finish_switch_fiber(nullptr, &machine->scheduler_stack, &machine->scheduler_stack_size);
#endif
    (*machine->kernel)();
    Fiber& fiber = self();
    if (!fiber.groups.empty() || !fiber.open_group.empty()) {
        size_t bytes = 0;
        for (auto const& group : fiber.groups) {
            bytes += group.size();
        }
        if (bytes + fiber.open_group.size() > 0 && machine->error.empty()) {
            machine->error = "thread " + std::to_string(fiber.thread) + " ended with asynchronous copies not waited for";
        }
    }
    fiber.finished = true;
    --machine->alive;
    ++machine->progress;
    leave_to_scheduler(true);
}

// The first fault ends the run: the fiber never comes back.
[[noreturn]] void fail(std::string const& text) {
    if (machine->error.empty()) {
        machine->error = "block " + std::to_string(machine->block) + ", thread " + std::to_string(machine->current) +
                         ": " + text;
    }
    for (;;) {
        yield();
    }
}

// ---- shared memory ----

bool same_warp_and_synced(Access const& earlier, int epoch) {
    return earlier.warp == machine->current / kWarpSize && earlier.warp_epoch < epoch;
}

// Whether an earlier access is ordered before what the current thread does now.
bool ordered(Access const& earlier) {
    return earlier.thread == kNobody || earlier.thread == machine->current || earlier.block_epoch < machine->block_epoch ||
           (earlier.thread != kSeveralWarps && same_warp_and_synced(earlier, my_warp().epoch));
}

std::string describe(Access const& a) {
    if (a.thread == kSeveralWarps) {
        return "threads of several warps";
    }
    if (a.thread == kSeveralLanes) {
        return "threads of warp " + std::to_string(a.warp);
    }
    return "thread " + std::to_string(a.thread);
}

Access access_now() {
    return Access{machine->current, machine->current / kWarpSize, machine->block_epoch, my_warp().epoch};
}

uint32_t shared_offset(uint32_t address, uint32_t size, char const* what) {
    uint64_t const offset = static_cast<uint64_t>(address) - kSharedBase;
    if (address < kSharedBase || offset + size > machine->shared.size()) {
        fail(std::string(what) + " of " + std::to_string(size) + " bytes at offset " +
             std::to_string(static_cast<int64_t>(address) - kSharedBase) + " of shared memory, which has " +
             std::to_string(machine->shared.size()) + " bytes");
    }
    if (offset % size != 0) {
        fail(std::string(what) + " of " + std::to_string(size) + " bytes at offset " + std::to_string(offset) +
             " of shared memory, which is not aligned to it");
    }
    return static_cast<uint32_t>(offset);
}

std::string at(uint32_t offset) { return " byte " + std::to_string(offset) + " of shared memory"; }

void note_read(uint32_t offset, uint32_t size) {
    Access const now = access_now();
    for (uint32_t i = offset; i < offset + size; ++i) {
        SharedByte& byte = machine->watch[i];
        if (byte.pending) {
            fail("reads" + at(i) + " while an asynchronous copy into it has not been waited for");
        }
        if (byte.write.thread == kNobody) {
            fail("reads" + at(i) + ", which nothing has written");
        }
        if (!ordered(byte.write)) {
            fail("race: reads" + at(i) + " that " + describe(byte.write) + " wrote, with no barrier in between");
        }
        bool const same_interval = byte.read.thread != kNobody && byte.read.block_epoch == now.block_epoch;
        if (!same_interval || byte.read.thread == now.thread) {
            byte.read = now;
        } else if (byte.read.warp == now.warp && byte.read.thread != kSeveralWarps) {
            byte.read.thread = kSeveralLanes;
            byte.read.warp_epoch = now.warp_epoch;
        } else {
            byte.read.thread = kSeveralWarps;
        }
    }
}

void note_write(uint32_t offset, uint32_t size, bool pending) {
    for (uint32_t i = offset; i < offset + size; ++i) {
        SharedByte& byte = machine->watch[i];
        if (byte.pending) {
            fail("writes" + at(i) + " while an asynchronous copy into it has not been waited for");
        }
        if (!ordered(byte.write)) {
            fail("race: writes" + at(i) + " that " + describe(byte.write) + " wrote, with no barrier in between");
        }
        if (!ordered(byte.read)) {
            fail("race: writes" + at(i) + " that " + describe(byte.read) + " read, with no barrier in between");
        }
        byte.write = access_now();
        byte.pending = pending;
    }
}

void check_global(void const* address, size_t size, bool write) {
    char const* const begin = static_cast<char const*>(address);
    char const* const what = write ? "writes " : "reads ";
    if (reinterpret_cast<uintptr_t>(address) % size != 0) {
        fail(what + std::to_string(size) + " bytes of global memory at an address not aligned to it");
    }
    for (Region const& region : *machine->regions) {
        if (begin >= region.begin && begin + size <= region.begin + region.size && (region.writable || !write)) {
            return;
        }
    }
    fail(what + std::to_string(size) + " bytes of global memory outside of every buffer it was given");
}

// ---- the warp's instructions ----

// Rows of 16 bytes, 8 of them at once: rows in the same bank group of 16 bytes need one pass each.
void count_conflicts(LaneArguments* const (&lanes)[32], int matrix) {
    int rows_in_group[8] = {};
    int passes = 0;
    for (int row = 0; row < 8; ++row) {
        passes = std::max(passes, ++rows_in_group[lanes[8 * matrix + row]->address / 16 % 8]);
    }
    machine->statistics.bank_conflicts += passes - 1;
}

void load_matrices(LaneArguments* const (&lanes)[32], int count, bool transposed) {
    int const last_lane = machine->current;
    for (int matrix = 0; matrix < count; ++matrix) {
        uint16_t elements[8][8];
        count_conflicts(lanes, matrix);
        for (int row = 0; row < 8; ++row) {
            int const lane = 8 * matrix + row;
            machine->current = last_lane / kWarpSize * kWarpSize + lane;  // the fault is that lane's
            shared_read(lanes[lane]->address, elements[row], 16);
            machine->current = last_lane;
        }
        for (int lane = 0; lane < 32; ++lane) {
            int const a = lane / 4;
            int const b = lane % 4 * 2;
            uint16_t const low = transposed ? elements[b][a] : elements[a][b];
            uint16_t const high = transposed ? elements[b + 1][a] : elements[a][b + 1];
            lanes[lane]->out[matrix] = static_cast<uint32_t>(high) << 16 | low;
        }
    }
}

int signed_byte(uint32_t value, int i) { return static_cast<int8_t>(value >> (8 * i) & 0xffu); }
int unsigned_byte(uint32_t value, int i) { return static_cast<int>(value >> (8 * i) & 0xffu); }

// kRows x 8 sums over kDepth bytes. A: register r of a lane has row lane / 4 (+ 8 for odd r when there are 16 rows) and
// bytes 4 * (lane % 4) + 0..3 (+ 16 for the second half of the depth). B: column lane / 4, the same bytes.
template <int kRows, int kDepth, bool kUnsignedA>
void multiply_bytes(LaneArguments* const (&lanes)[32]) {
    constexpr int kRowHalves = kRows / 8;
    constexpr int kDepthHalves = kDepth / 16;
    int a[kRows][kDepth];
    int b[8][kDepth];
    for (int lane = 0; lane < 32; ++lane) {
        for (int depth = 0; depth < kDepthHalves; ++depth) {
            for (int i = 0; i < 4; ++i) {
                int const k = 16 * depth + lane % 4 * 4 + i;
                for (int half = 0; half < kRowHalves; ++half) {
                    uint32_t const reg = lanes[lane]->in[kRowHalves * depth + half];
                    a[8 * half + lane / 4][k] = kUnsignedA ? unsigned_byte(reg, i) : signed_byte(reg, i);
                }
                b[lane / 4][k] = signed_byte(lanes[lane]->in[kRowHalves * kDepthHalves + depth], i);
            }
        }
    }
    for (int lane = 0; lane < 32; ++lane) {
        for (int e = 0; e < 2 * kRowHalves; ++e) {
            int const row = lane / 4 + e / 2 * 8;
            int const column = lane % 4 * 2 + e % 2;
            int sum = bit_cast<int>(lanes[lane]->out[e]);
            for (int k = 0; k < kDepth; ++k) {
                sum += a[row][k] * b[column][k];
            }
            lanes[lane]->out[e] = bit_cast<uint32_t>(sum);
        }
    }
}

// 16 x 8 sums over kDepth FP16 numbers; FP32 sums, one after the other.
template <int kDepth>
void multiply_halves(LaneArguments* const (&lanes)[32]) {
    constexpr int kDepthHalves = kDepth / 8;
    float a[16][kDepth];
    float b[8][kDepth];
    for (int lane = 0; lane < 32; ++lane) {
        for (int depth = 0; depth < kDepthHalves; ++depth) {
            for (int i = 0; i < 2; ++i) {
                int const k = 8 * depth + lane % 4 * 2 + i;
                for (int half = 0; half < 2; ++half) {
                    a[8 * half + lane / 4][k] =
                        half_to_float(static_cast<uint16_t>(lanes[lane]->in[2 * depth + half] >> (16 * i)));
                }
                b[lane / 4][k] = half_to_float(static_cast<uint16_t>(lanes[lane]->in[2 * kDepthHalves + depth] >> (16 * i)));
            }
        }
    }
    for (int lane = 0; lane < 32; ++lane) {
        for (int e = 0; e < 4; ++e) {
            int const row = lane / 4 + e / 2 * 8;
            int const column = lane % 4 * 2 + e % 2;
            float sum = bit_cast<float>(lanes[lane]->out[e]);
            for (int k = 0; k < kDepth; ++k) {
                sum += a[row][k] * b[column][k];
            }
            lanes[lane]->out[e] = bit_cast<uint32_t>(sum);
        }
    }
}

void run_block(int block, int threads) {
    machine->block = block;
    machine->warps.assign(static_cast<size_t>(threads / kWarpSize), Warp{});
    std::fill(machine->shared.begin(), machine->shared.end(), static_cast<unsigned char>(0xA5));
    std::fill(machine->watch.begin(), machine->watch.end(), SharedByte{});
    machine->alive = threads;
    machine->at_barrier = 0;
    machine->block_epoch = 0;
    for (int thread = 0; thread < threads; ++thread) {
        Fiber& fiber = machine->fibers[static_cast<size_t>(thread)];
        fiber.thread = thread;
        fiber.finished = false;
        fiber.open_group.clear();
        fiber.groups.clear();
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.get();
        fiber.context.uc_stack.ss_size = kStackBytes;
        fiber.context.uc_link = nullptr;
        makecontext(&fiber.context, fiber_main, 0);
    }
    while (machine->alive > 0 && machine->error.empty()) {
        int64_t const before = machine->progress;
        for (Fiber& fiber : machine->fibers) {
            if (!fiber.finished) {
                resume(fiber);
                if (!machine->error.empty()) {
                    return;
                }
            }
        }
        if (machine->progress == before) {
            std::string waiting;
            for (size_t w = 0; w < machine->warps.size(); ++w) {
                if (machine->warps[w].arrived > 0) {
                    waiting += "; " + std::to_string(machine->warps[w].arrived) + " lanes of warp " + std::to_string(w) +
                               " wait at " + machine->warps[w].name;
                }
            }
            machine->error = "block " + std::to_string(block) + ": deadlock: " + std::to_string(machine->at_barrier) +
                             " of " + std::to_string(machine->alive) + " threads wait at __syncthreads" + waiting;
        }
    }
}

}  // namespace

int current_thread() { return machine->current; }
int current_block() { return machine->block; }

void barrier_block() {
    int64_t const generation = machine->barrier_generation;
    if (++machine->at_barrier == machine->alive) {
        machine->at_barrier = 0;
        ++machine->barrier_generation;
        ++machine->block_epoch;
        ++machine->progress;
        return;
    }
    while (machine->barrier_generation == generation) {
        yield();
    }
}

void together(WarpOperation operation, char const* name, LaneArguments& mine) {
    Warp& warp = my_warp();
    if (warp.arrived > 0 && std::strcmp(warp.name, name) != 0) {
        fail(std::string("the warp has parted: this lane is at ") + name + ", others wait at " + warp.name);
    }
    warp.name = name;
    warp.lanes[machine->current % kWarpSize] = &mine;
    int64_t const generation = warp.generation;
    if (++warp.arrived == kWarpSize) {
        operation(warp.lanes);
        warp.arrived = 0;
        ++warp.generation;
        ++machine->progress;
        return;
    }
    while (warp.generation == generation) {
        yield();
    }
}

void barrier_warp() {
    LaneArguments nothing{};
    together([](LaneArguments* const (&)[32]) { ++my_warp().epoch; }, "__syncwarp", nothing);
}

void shared_read(uint32_t address, void* target, uint32_t size) {
    uint32_t const offset = shared_offset(address, size, "a read");
    note_read(offset, size);
    std::memcpy(target, &machine->shared[offset], size);
}

void shared_write(uint32_t address, void const* source, uint32_t size) {
    uint32_t const offset = shared_offset(address, size, "a write");
    note_write(offset, size, false);
    std::memcpy(&machine->shared[offset], source, size);
}

void global_read(void const* address, void* target, size_t size) {
    check_global(address, size, false);
    std::memcpy(target, address, size);
}

void global_write(void* address, void const* source, size_t size) {
    check_global(address, size, true);
    std::memcpy(address, source, size);
}

void copy_start(uint32_t target, void const* source, uint32_t size, bool valid) {
    uint32_t const offset = shared_offset(target, size, "an asynchronous copy");
    Copy copy{offset, std::vector<unsigned char>(size, 0)};
    if (valid) {
        global_read(source, copy.bytes.data(), size);
    }
    note_write(offset, size, true);
    self().open_group.push_back(std::move(copy));
}

void copy_commit() {
    Fiber& fiber = self();
    fiber.groups.push_back(std::move(fiber.open_group));
    fiber.open_group.clear();
}

void copy_wait(int groups_left) {
    Fiber& fiber = self();
    while (static_cast<int>(fiber.groups.size()) > groups_left) {
        for (Copy const& copy : fiber.groups.front()) {
            std::memcpy(&machine->shared[copy.target], copy.bytes.data(), copy.bytes.size());
            for (size_t i = 0; i < copy.bytes.size(); ++i) {
                SharedByte& byte = machine->watch[copy.target + i];
                byte.pending = false;
                byte.write = access_now();
            }
        }
        fiber.groups.pop_front();
    }
}

void op_shuffle_xor(LaneArguments* const (&lanes)[32]) {
    for (int lane = 0; lane < 32; ++lane) {
        lanes[lane]->out[0] = lanes[lane ^ static_cast<int>(lanes[lane]->address)]->in[0];
    }
}

void op_any_lane(LaneArguments* const (&lanes)[32]) {
    uint32_t any = 0;
    for (LaneArguments const* lane : lanes) {
        any |= lane->in[0];
    }
    for (LaneArguments* lane : lanes) {
        lane->out[0] = any;
    }
}

void op_load_matrix_x4(LaneArguments* const (&lanes)[32]) { load_matrices(lanes, 4, false); }
void op_load_matrix_x4_trans(LaneArguments* const (&lanes)[32]) { load_matrices(lanes, 4, true); }
void op_load_matrix_x2(LaneArguments* const (&lanes)[32]) { load_matrices(lanes, 2, false); }
void op_mma_s8_m16n8k32(LaneArguments* const (&lanes)[32]) { multiply_bytes<16, 32, false>(lanes); }
void op_mma_u8s8_m16n8k32(LaneArguments* const (&lanes)[32]) { multiply_bytes<16, 32, true>(lanes); }
void op_mma_s8_m16n8k16(LaneArguments* const (&lanes)[32]) { multiply_bytes<16, 16, false>(lanes); }
void op_mma_s8_m8n8k16(LaneArguments* const (&lanes)[32]) { multiply_bytes<8, 16, false>(lanes); }
void op_mma_u8s8_m8n8k16(LaneArguments* const (&lanes)[32]) { multiply_bytes<8, 16, true>(lanes); }
void op_mma_f16_m16n8k16(LaneArguments* const (&lanes)[32]) { multiply_halves<16>(lanes); }
void op_mma_f16_m16n8k8(LaneArguments* const (&lanes)[32]) { multiply_halves<8>(lanes); }

bool launch(std::function<void()> const& kernel, int blocks, int threads, size_t shared_bytes,
            std::vector<Region> const& regions, std::string& error, Statistics& statistics) {
    Machine played;
    machine = &played;
    played.kernel = &kernel;
    played.regions = &regions;
    played.shared.resize(shared_bytes);
    played.watch.resize(shared_bytes);
    played.fibers.resize(static_cast<size_t>(threads));
    for (Fiber& fiber : played.fibers) {
        fiber.stack = std::make_unique<char[]>(kStackBytes);
    }
    for (int block = 0; block < blocks && played.error.empty(); ++block) {
        run_block(block, threads);
    }
    error = played.error;
    statistics = played.statistics;
    machine = nullptr;
    return error.empty();
}

}  // namespace vitc::harness
