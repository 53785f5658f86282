// The tape: steps over the tokens of some images, run by a pool of threads. lowering/cpu/native/tape.py writes it.
//
// Every buffer is [tokens, width] row after row. `Buffer` is the workspace (one chunk of images at a time) or an array
// of the caller's (the whole batch). The steps are checked against the buffers once, when the tape is opened, and the
// arrays once a run; nothing is checked or allocated per step. No exception leaves: each call says what went wrong.

#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <exception>
#include <iterator>
#include <memory>
#include <mutex>
#include <new>

#include "attention.h"
#include "check.h"
#include "gemm.h"
#include "layer_norm.h"
#include "pool.h"
#include "step.h"

using namespace vitc;

namespace {

// What a thread's own cache should hold of the activations while a panel of weights passes over them.
constexpr int64_t kCachedBytes = 640 << 10;
constexpr int kNormRows = 8;

class Runner {
   public:
    Runner(const Step* steps, int count, const BufferForm* forms, int buffers, int threads)
        : steps_(steps, steps + count), forms_(forms, forms + buffers), pool_(threads), scratch_(threads) {}

    // Why these arrays can't be run; nullptr: they can.
    const char* refusal(const Buffer* buffers, int32_t count, int64_t images, int64_t tokens, int64_t chunk) const {
        return refused_run(forms_.data(), static_cast<int32_t>(forms_.size()), buffers, count, images, tokens, chunk);
    }

    void run(const Buffer* buffers, int64_t images, int64_t tokens, int64_t chunk) {
        std::lock_guard<std::mutex> lock(mutex_);  // one inference at a time has all threads
        for (const Step& step : steps_)
            if (step.kind == Kind::kAttention)
                for (AttentionScratch& scratch : scratch_) scratch.hold(static_cast<int>(tokens), step.attention.head_dim);
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
            const BufferForm& form = forms_[id];
            return buffers[id].data + (form.whole_batch ? first * tokens * form.row_bytes() : 0);
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
    const std::vector<BufferForm> forms_;
    Pool pool_;
    std::vector<AttentionScratch> scratch_;
    std::mutex mutex_;
};

// Field by field what tape.py mirrors, and the enums' values, for it to compare.
constexpr int32_t kLayout[] = {
    sizeof(Step), offsetof(Step, kind), offsetof(Step, leave), offsetof(Step, in), offsetof(Step, out),
    offsetof(Step, in_width), offsetof(Step, out_width), offsetof(Step, weights), offsetof(Step, norm),
    offsetof(Step, attention), offsetof(Step, activation), offsetof(Step, inverse_step), offsetof(Step, zero),
    sizeof(Weights), offsetof(Weights, panels), offsetof(Weights, start), offsetof(Weights, scale),
    offsetof(Weights, bias), offsetof(Weights, k), offsetof(Weights, n),
    sizeof(LayerNorm), offsetof(LayerNorm, gain), offsetof(LayerNorm, shift), offsetof(LayerNorm, epsilon),
    offsetof(LayerNorm, width),
    sizeof(Attention), offsetof(Attention, heads), offsetof(Attention, head_dim), offsetof(Attention, score_scale),
    offsetof(Attention, value_scale),
    sizeof(Activation), offsetof(Activation, cubic), offsetof(Activation, segments_per_unit), offsetof(Activation, last),
    sizeof(BufferForm), offsetof(BufferForm, width), offsetof(BufferForm, real), offsetof(BufferForm, whole_batch),
    sizeof(Buffer), offsetof(Buffer, data), offsetof(Buffer, bytes),
    static_cast<int32_t>(Kind::kLayerNorm), static_cast<int32_t>(Kind::kLinear), static_cast<int32_t>(Kind::kAttention),
    static_cast<int32_t>(Kind::kCopy),
    static_cast<int32_t>(Leave::kReal), static_cast<int32_t>(Leave::kAddTo), static_cast<int32_t>(Leave::kQuantized),
    static_cast<int32_t>(Leave::kActivatedQuantized),
    kPanel, kLanes, kMostTokens, kMostWidth, kMostHeadDim,
};

constexpr int kMessage = 256;  // bytes of a caller's `message`

void say(char* message, const char* text) { std::snprintf(message, kMessage, "%s", text); }

}  // namespace

extern "C" {

// The i-th number of the layout; -1 behind the last.
int32_t vitc_layout(int32_t i) { return i >= 0 && i < static_cast<int32_t>(std::size(kLayout)) ? kLayout[i] : -1; }
int32_t vitc_has_vnni() { return VITC_VNNI; }

// nullptr, with the reason in `message`, where the tape can't be run or there is no memory or no thread to run it with.
void* vitc_open(const Step* steps, int32_t count, const BufferForm* forms, int32_t buffers, int32_t threads, char* message) {
    if (const char* why = refused_tape(steps, count, forms, buffers, threads)) {
        say(message, why);
        return nullptr;
    }
    try {
        return new Runner(steps, count, forms, buffers, threads);
    } catch (const std::exception& error) {
        say(message, error.what());
        return nullptr;
    }
}

// 0: done. Otherwise nothing was computed, and `message` says why.
int32_t vitc_run(void* runner, const Buffer* buffers, int32_t count, int64_t images, int64_t tokens, int64_t chunk,
                 char* message) {
    Runner& opened = *static_cast<Runner*>(runner);
    if (const char* why = opened.refusal(buffers, count, images, tokens, chunk)) {
        say(message, why);
        return 1;
    }
    try {
        opened.run(buffers, images, tokens, chunk);
        return 0;
    } catch (const std::exception& error) {
        say(message, error.what());
        return 1;
    }
}
void vitc_close(void* runner) { delete static_cast<Runner*>(runner); }
// Products and nothing else, on registers alone: what a core can do at most. Returns the operations done.
double vitc_peak(int64_t rounds) {
    for (int64_t i = 0; i < rounds; i++) products_only();
    return static_cast<double>(rounds) * kProducts * 8 * kLanes;
}
}
