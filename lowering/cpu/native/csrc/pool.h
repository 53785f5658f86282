// Threads that go through one inference together: every thread runs the same function, takes tasks from shared
// counters, and waits for the others at barriers. They sleep between inferences.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "vec.h"

namespace vitc {

class Pool {
   public:
    // Throws where the system has no more threads or memory; those begun until then are gone by then.
    explicit Pool(int threads) : size_(threads) {
        try {
            workers_.reserve(threads);
            for (int i = 1; i < threads; i++) workers_.emplace_back([this, i] { work(i); });
        } catch (...) {
            stop();
            throw;
        }
    }
    ~Pool() { stop(); }
    int size() const { return size_; }

    // fn(thread), which may not throw, on every thread; returns when all are done.
    void run(const std::function<void(int)>& fn) {
        {
            std::lock_guard<std::mutex> lock(mutex_);
            fn_ = &fn;
            next_ = 0;
            round_++;
        }
        wake_.notify_all();
        fn(0);
        barrier();
    }

    // Inside run: fn(task) for each task of [0, tasks), each on the thread that comes first; then a barrier.
    template <class Fn>
    void share(int tasks, const Fn& fn) {
        for (int t; (t = next_.fetch_add(1, std::memory_order_relaxed)) < tasks;) fn(t);
        barrier();
    }

   private:
    void stop() {
        {
            std::lock_guard<std::mutex> lock(mutex_);
            stop_ = true;
            round_++;
        }
        wake_.notify_all();
        for (std::thread& worker : workers_) worker.join();
    }

    // The last to arrive resets the task counter and lets the others go.
    void barrier() {
        const int generation = generation_.load(std::memory_order_acquire);
        if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == size_) {
            arrived_.store(0, std::memory_order_relaxed);
            next_.store(0, std::memory_order_relaxed);
            generation_.store(generation + 1, std::memory_order_release);
            generation_.notify_all();
            return;
        }
        // Work is shared finely, so the wait is short, unless another process holds the core: then sleep.
        for (int spins = 0; spins < 500; spins++) {
            if (generation_.load(std::memory_order_acquire) != generation) return;
            relax();
        }
        generation_.wait(generation, std::memory_order_acquire);
    }

    void work(int thread) {
        for (unsigned seen = 0;;) {
            const std::function<void(int)>* fn;
            {
                std::unique_lock<std::mutex> lock(mutex_);
                wake_.wait(lock, [&] { return round_ != seen; });
                if (stop_) return;
                seen = round_;
                fn = fn_;
            }
            (*fn)(thread);
            barrier();
        }
    }

    const int size_;
    std::vector<std::thread> workers_;
    std::mutex mutex_;
    std::condition_variable wake_;
    unsigned round_ = 0;
    bool stop_ = false;
    const std::function<void(int)>* fn_ = nullptr;
    alignas(64) std::atomic<int> next_{0};
    alignas(64) std::atomic<int> arrived_{0};
    alignas(64) std::atomic<int> generation_{0};  // int: what the kernel can wait on
};

}  // namespace vitc
