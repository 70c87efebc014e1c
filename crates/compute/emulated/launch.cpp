// Kernels by name, and launches: the blocks of a grid are spread over a pool of OS threads.
#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "worker.h"

namespace emulated {
namespace {

Kernel*& kernels() {
    static Kernel* first = nullptr;
    return first;
}
const LaunchBounds*& bounds() {
    static const LaunchBounds* first = nullptr;
    return first;
}

struct Job {
    const Kernel* kernel;
    uint3 grid, block;
    size_t shared_bytes;
    void** arguments;
    uint64_t seed, total, stride;
    std::atomic<uint64_t> next{0};

    void work() {
        Worker& w = own_worker();
        w.prepare(block.x * block.y * block.z);
        w.kernel = kernel, w.arguments = arguments;
        for (uint64_t taken; (taken = next.fetch_add(1, std::memory_order_relaxed)) < total;) {
            const uint64_t i = seed == 0 ? taken : seed == 1 ? total - 1 - taken : (uint64_t)((unsigned __int128)taken * stride % total);
            w.random = (seed + 1) * 0x9E3779B97F4A7C15ull ^ (i + 1) * 0xBF58476D1CE4E5B9ull;
            w.begin_block({(unsigned)(i % grid.x), (unsigned)(i / grid.x % grid.y), (unsigned)(i / grid.x / grid.y)}, grid, block, shared_bytes);
            w.run_block(seed);
        }
        w.kernel = nullptr;
    }
};

// Threads that live as long as the process; it is never destroyed, as they may outlast static objects.
struct Pool {
    std::mutex mutex;
    std::condition_variable begin, end;
    unsigned count = 0, wanted = 0, busy = 0;
    uint64_t generation = 0;
    Job* job = nullptr;

    void loop(unsigned id) {
        use_signal_stack();
        std::unique_lock<std::mutex> lock(mutex);
        for (uint64_t seen = 0;;) {
            begin.wait(lock, [&] { return generation != seen && job; });
            seen = generation;
            if (id >= wanted) continue;
            Job* mine = job;
            busy++;
            lock.unlock();
            mine->work();
            lock.lock();
            if (--busy == 0) end.notify_all();
        }
    }
    void run(Job& work, unsigned helpers) {
        if (helpers) {
            std::lock_guard<std::mutex> lock(mutex);
            for (; count < helpers; count++) std::thread(&Pool::loop, this, count).detach();
            wanted = helpers, job = &work, generation++;
            begin.notify_all();
        }
        work.work();
        if (helpers) {
            std::unique_lock<std::mutex> lock(mutex);
            job = nullptr;
            end.wait(lock, [&] { return busy == 0; });
        }
    }
};

}  // namespace

Kernel::Kernel(const char* name, const char* file, void (*run)(void**), unsigned parameters, const size_t* sizes, const bool* is_pointer)
    : name(name), file(file), run(run), parameters(parameters), sizes(sizes), is_pointer(is_pointer), next(kernels()) {
    kernels() = this;
}

LaunchBounds::LaunchBounds(const char* name, const char* file, unsigned threads) : name(name), file(file), threads(threads), next(bounds()) {
    bounds() = this;
}

unsigned launch_bounds(const Kernel& kernel) {
    for (const LaunchBounds* b = bounds(); b; b = b->next)
        if (!strcmp(b->name, kernel.name) && !strcmp(b->file, kernel.file)) return b->threads;
    return 1024;
}

const Kernel* find_kernel(const char* name, const char* file) {
    for (const Kernel* k = kernels(); k; k = k->next)
        if (!strcmp(k->name, name) && (!file || !strcmp(k->file, file))) return k;
    return nullptr;
}

void launch(const Kernel& kernel, const unsigned (&grid)[3], const unsigned (&block)[3], size_t shared_bytes, void** arguments,
            unsigned threads, uint64_t seed) {
    static std::mutex one_at_a_time;
    static Pool& pool = *new Pool;
    std::lock_guard<std::mutex> lock(one_at_a_time);
    catch_faults();
    watch_barriers();
    use_signal_stack();
    Job job;
    job.kernel = &kernel;
    job.grid = {grid[0], grid[1], grid[2]};
    job.block = {block[0], block[1], block[2]};
    job.shared_bytes = shared_bytes, job.arguments = arguments, job.seed = seed;
    job.total = (uint64_t)grid[0] * grid[1] * grid[2];
    job.stride = 1;
    if (seed > 1)  // any stride without a common divisor visits every block once
        for (job.stride = seed % job.total + 1; std::__gcd(job.stride, job.total) != 1;) job.stride++;
    pool.run(job, (unsigned)std::min<uint64_t>(threads ? threads : 1, job.total) - 1);
}

}  // namespace emulated

extern "C" int emulated_launch(const char* name, const unsigned grid[3], const unsigned block[3], size_t shared_bytes, void** arguments,
                               unsigned threads, uint64_t seed) {
    const emulated::Kernel* kernel = emulated::find_kernel(name);
    if (!kernel) return 500;
    const uint64_t size = (uint64_t)block[0] * block[1] * block[2];
    if (!size || size > 1024 || block[2] > 64 || !grid[0] || !grid[1] || !grid[2] || shared_bytes > emulated::SHARED_MAXIMUM) return 1;
    emulated::launch(*kernel, {grid[0], grid[1], grid[2]}, {block[0], block[1], block[2]}, shared_bytes, arguments, threads, seed);
    return 0;
}
