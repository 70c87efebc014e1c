// worker.h: what an OS thread holds to run blocks. Stacks, each above a page that faults, a block's threads and warps, and its shared
// memory, which ends at such a page as well. All of it is used again by the next block.
#pragma once

#include "emulated.h"

// Fibers are switched by a few instructions where they are written, by the C library (much slower) elsewhere.
#if defined(__x86_64__) && !defined(EMULATED_UCONTEXT)
#define EMULATED_SWITCH 1
#else
#define EMULATED_SWITCH 0
#include <ucontext.h>
#endif

namespace emulated {

constexpr size_t STACK = 64 << 10;
constexpr size_t PAGE = 4096;
constexpr size_t SHARED_ALIGNMENT = 1024;  // of KX_SHARED
constexpr size_t SHARED_MAXIMUM = 227 << 10;

// Where a fiber begins; on x86-64 the stack itself says it.
struct Stack {
#if !EMULATED_SWITCH
    ucontext_t begin;
#endif
    void* fresh(unsigned char* bottom, size_t size, void (*entry)());
};

// A barrier that was asked for before, so that the next time is quick.
struct KnownBarrier {
    const char* file;
    int line;
    bool left_out;
};

struct Worker {
    static constexpr unsigned BARRIERS = 64;
    KnownBarrier barriers[BARRIERS] = {};
    std::vector<Thread> threads;
    std::vector<Warp> warps;
    std::vector<unsigned> order;
    std::vector<Stack> stacks;
    std::vector<int> free_stacks;
    unsigned char* stack_memory = nullptr;
    unsigned char* shared_memory = nullptr;  // SHARED_REGION and a page that faults
    void* scheduler = nullptr;               // the context of run_block
    void** arguments = nullptr;
    const Kernel* kernel = nullptr;          // null: none is running
    uint64_t random = 0;
    Block block;

    static constexpr size_t SHARED_REGION = (SHARED_MAXIMUM + SHARED_ALIGNMENT + PAGE - 1) / PAGE * PAGE;

    ~Worker();
    void prepare(unsigned threads_of_block);
    void begin_block(const uint3& index, const uint3& grid, const uint3& size, size_t shared_bytes);
    void run_block(uint64_t seed);
    void start(Thread& t);
    bool in_stack_guard(const unsigned char* p) const;
    bool in_shared_guard(const unsigned char* p) const;

private:
    void release_stacks();
    void end_block();
    unsigned next_random(unsigned below);
};

// The calling thread's; null before own_worker().
extern __thread Worker* worker __attribute__((tls_model("initial-exec")));
Worker& own_worker();

// Reads what is asked of barriers, once a process.
void watch_barriers();

// A fault on a full stack needs another one for its handler.
void use_signal_stack();

}  // namespace emulated
