// The machine the kernel is written for: PTX when nvcc compiles it, a block played on the CPU when the host does.
//
// Both sides give: kArch, thread_index(), block_index(), sync_block(), sync_warp(), shuffle_xor(), load_matrix*(),
// mma_*(), copy_async<bytes>(), copy_async_commit(), copy_async_wait_all(), load/store_shared(), load/store_global(),
// exp2_approx(), permute_bytes(), half conversions. Shared memory is addressed by 32-bit offsets.
#pragma once

#if defined(__CUDACC__)
#include "ptx.cuh"
#else
#include "machine.h"  // kernels/harness
#endif
