// The tape: steps over the tokens of some images, run by a pool of threads. lowering/cpu/native/tape.py writes it.
//
// Every buffer is [tokens, width] row after row. `Buffer` is the workspace (one chunk of images at a time) or an array
// of the caller's (the whole batch). Everything here was checked by the host; nothing is allocated per step.

#include <algorithm>
#include <memory>
#include <mutex>

#include "attention.h"
#include "gemm.h"
#include "layer_norm.h"
#include "pool.h"

using namespace vitc;

namespace {

enum class Kind : int32_t { kLayerNorm = 0, kLinear = 1, kAttention = 2, kCopy = 3 };

// What a thread's own cache should hold of the activations while a panel of weights passes over them.
constexpr int64_t kCachedBytes = 640 << 10;
constexpr int kNormRows = 8;

struct Step {
    Kind kind;
    Leave leave;
    int32_t in, out;  // buffers; kAddTo adds to `out`
    int32_t in_width, out_width;
    Weights weights;
    LayerNorm norm;
    Attention attention;
    const Activation* activation;
    float inverse_step;
    int32_t zero;
};

struct Buffer {
    uint8_t* data;
    int32_t row_bytes;
    int32_t whole_batch;  // 0: of one chunk only
};

class Runner {
   public:
    Runner(const Step* steps, int count, int threads) : steps_(steps, steps + count), pool_(threads), scratch_(threads) {}

    void run(const Buffer* buffers, int64_t images, int64_t tokens, int64_t chunk) {
        std::lock_guard<std::mutex> lock(mutex_);  // one inference at a time has all threads
        pool_.run([&](int thread) {
            for (int64_t first = 0; first < images; first += chunk)
                for (const Step& step : steps_)
                    run_step(step, buffers, first, std::min(chunk, images - first), tokens, scratch_[thread]);
        });
    }

   private:
    void run_step(const Step& step, const Buffer* buffers, int64_t first, int64_t images, int64_t tokens,
                  AttentionScratch& scratch) {
        const int64_t rows = images * tokens;
        auto at = [&](int32_t id) {
            const Buffer& b = buffers[id];
            return b.data + (b.whole_batch ? first * tokens * b.row_bytes : 0);
        };
        const uint8_t* in = at(step.in);
        uint8_t* out = at(step.out);
        switch (step.kind) {
            case Kind::kLayerNorm:
                pool_.share(static_cast<int>((rows + kNormRows - 1) / kNormRows), [&](int task) {
                    for (int64_t m = int64_t{task} * kNormRows; m < std::min(rows, int64_t{task + 1} * kNormRows); m++)
                        layer_norm_row(reinterpret_cast<const float*>(in) + m * step.in_width, step.norm, out + m * step.out_width);
                });
                break;
            case Kind::kLinear: linear(step, in, out, rows); break;
            case Kind::kAttention:
                pool_.share(static_cast<int>(images) * step.attention.heads, [&](int task) {
                    const int64_t image = task / step.attention.heads;
                    attention_head(in + image * tokens * step.in_width, step.attention, static_cast<int>(tokens),
                                   task % step.attention.heads, out + image * tokens * step.out_width, scratch);
                });
                break;
            case Kind::kCopy:
                pool_.share(static_cast<int>(rows), [&](int m) {
                    std::memcpy(out + int64_t{m} * 4 * step.out_width, in + int64_t{m} * 4 * step.in_width, 4 * step.in_width);
                });
                break;
        }
    }

    // A task is one panel of weights over one block of rows: blocks small enough for the cache, and enough tasks for all.
    void linear(const Step& step, const uint8_t* in, uint8_t* out, int64_t rows) {
        const int panels = (step.weights.n + kPanel - 1) / kPanel;
        const int64_t cached = std::max<int64_t>(kCachedBytes / step.weights.k, kTileRows);
        int64_t blocks = (rows + cached - 1) / cached;
        while (blocks * panels < 8 * pool_.size() && blocks * kTileRows < rows) blocks++;
        const Output leave{step.leave, out, step.out_width, step.activation, step.inverse_step, step.zero, nullptr};
        pool_.share(static_cast<int>(blocks) * panels, [&](int task) {
            const int64_t block = task / panels;
            const int panel = task % panels;
            // What this thread will most likely want next.
            const int next = std::min(panel + pool_.size(), panels - 1);
            gemm(in, step.in_width, step.weights, panel, next, leave, rows * block / blocks, rows * (block + 1) / blocks);
        });
    }

    const std::vector<Step> steps_;
    Pool pool_;
    std::vector<AttentionScratch> scratch_;
    std::mutex mutex_;
};

}  // namespace

extern "C" {

int32_t vitc_step_bytes() { return sizeof(Step); }
int32_t vitc_has_vnni() { return VITC_VNNI; }
void* vitc_open(const Step* steps, int32_t count, int32_t threads) { return new Runner(steps, count, threads); }
void vitc_run(void* runner, const Buffer* buffers, int64_t images, int64_t tokens, int64_t chunk) {
    static_cast<Runner*>(runner)->run(buffers, images, tokens, chunk);
}
void vitc_close(void* runner) { delete static_cast<Runner*>(runner); }
// Products and nothing else, on registers alone: what a core can do at most. Returns the operations done.
double vitc_peak(int64_t rounds) {
    for (int64_t i = 0; i < rounds; i++) products_only();
    return static_cast<double>(rounds) * kProducts * 8 * kLanes;
}
}
