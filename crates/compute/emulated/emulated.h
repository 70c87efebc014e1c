// emulated.h: CUDA C++ for a host compiler. kx.h includes it under KX_EMULATED, so that the kernels run, and are tested, on machines
// without a GPU. One fiber stands for one CUDA thread; the threads of a block share an OS thread, blocks are spread over OS threads.
//
// A kernel is `extern "C" __global__ void name(...)`, followed by KX_EXPORT(name). Shared memory comes from KX_SHARED alone (it starts
// as NaN in every block): a static `__shared__` array does not compile here. Everything wrong ends the process with one line,
// "emulated CUDA: <what> (kernel K, block x,y,z, thread t)".
//
// What is not emulated: bank conflicts, registers, memory order between blocks, preemption between two barriers or warp collectives.
#pragma once

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <type_traits>
#include <utility>
#include <vector>

#ifndef KX_FILE
#define KX_FILE __FILE__
#endif

#include "types.h"

typedef unsigned long long kx_u64;

// ---- The runtime -----------------------------------------------------------------------------------------------------------------
namespace emulated {

struct Warp;
struct Block;

// Sixteen bytes that a thread has asked for and not yet waited for.
struct PendingCopy {
    void* to;
    const void* from;
};

struct Thread {
    void* context;  // where it goes on, while it waits
    unsigned lane, linear;
    uint3 index;
    int stack;  // -1 before it starts
    Warp* warp;
    Block* block;
    std::vector<PendingCopy> copies;
    std::vector<size_t> groups;  // how many of the copies lie in each committed group and those before
};

// A warp's threads run one after the other, each until it waits. `ready`: may run. `arrived`: wait in a warp collective.
struct Warp {
    unsigned ready, arrived, at_barrier, live;
    bool descending;
    Thread* threads;
    void* argument[32];  // what each waiting lane brought to the collective
    uint64_t call[32];   // the collective and its mask
};

struct Block {
    uint3 index, size, grid;
    unsigned char* shared;
    size_t shared_bytes;
    unsigned arrived, live;
    int barrier_line;
    Warp* warps;
    unsigned warp_count;
};

// Fibers never move between OS threads, so the compiler may keep this variable's address.
extern __thread Thread* current __attribute__((tls_model("initial-exec")));

[[noreturn]] void die(const char* format, ...) __attribute__((format(printf, 1, 2)));
void give_way();
void block_barrier(int line);

// Is the barrier that stands there left out? (barriers.cpp)
extern bool watching_barriers;
bool barrier_left_out(const char* file, int line);
inline bool left_out(const char* file, int line) { return __builtin_expect(watching_barriers, false) && barrier_left_out(file, line); }

// What lanes bring to a collective; `perform` runs once, when the last lane of the mask has arrived, and serves all of them.
typedef void (*Perform)(Warp& warp, unsigned mask);
void finish_collective(Warp& warp, uint64_t call, Perform perform);

enum Kind : unsigned { SYNC = 1, SHUFFLE, BALLOT, LOAD_MATRIX, MMA };

inline void collective(Kind kind, unsigned mask, void* argument, Perform perform) {
    Thread* me = current;
    Warp& warp = *me->warp;
    const unsigned bit = 1u << me->lane;
    const uint64_t call = (uint64_t)kind << 32 | mask;
    if (!(mask & bit)) die("a lane takes part in a warp collective without being in its mask %08x", mask);
    warp.argument[me->lane] = argument;
    warp.call[me->lane] = call;
    warp.arrived |= bit;
    if ((warp.arrived & mask) == mask) {
        finish_collective(warp, call, perform);
    } else {
        warp.ready &= ~bit;
        give_way();
    }
}

struct Shuffle {
    uint64_t value, result;
    unsigned source;
};
void perform_sync(Warp&, unsigned);
void perform_shuffle(Warp&, unsigned);
void perform_ballot(Warp&, unsigned);
void perform_mma(Warp&, unsigned);

template <class T>
inline T shuffle(unsigned mask, T value, unsigned source) {
    static_assert(sizeof(T) <= 8, "a shuffle moves at most 8 bytes");
    Shuffle s{0, 0, source};
    memcpy(&s.value, &value, sizeof value);
    collective(SHUFFLE, mask, &s, perform_shuffle);
    memcpy(&value, &s.result, sizeof value);
    return value;
}

// A lane's row is read when the lane arrives, not when the last one does: what other lanes write to it without __syncwarp may be missed.
struct LoadMatrix {
    unsigned short row[8];
    unsigned* to;
};
void read_row(LoadMatrix& load, const void* row);
template <int COUNT, bool TRANSPOSED>
void perform_load_matrix(Warp&, unsigned);

struct Mma {
    float* d;
    const unsigned *a, *b;
};

void copy_async16(void* shared, const void* global);
void copy_async_wait(size_t left);

// ---- Kernels by name -------------------------------------------------------------------------------------------------------------
struct Kernel {
    const char *name, *file;
    void (*run)(void** arguments);
    unsigned parameters;
    const size_t* sizes;      // bytes of each parameter
    const bool* is_pointer;
    Kernel* next;
    Kernel(const char* name, const char* file, void (*run)(void**), unsigned parameters, const size_t* sizes, const bool* is_pointer);
};

template <auto F>
struct Entry;
template <class... A, void (*F)(A...)>
struct Entry<F> {
    static constexpr size_t sizes[sizeof...(A) + 1] = {sizeof(A)..., 0};
    static constexpr bool is_pointer[sizeof...(A) + 1] = {std::is_pointer<A>::value..., false};
    static constexpr unsigned count = sizeof...(A);
    template <size_t... I>
    static void call(void** a, std::index_sequence<I...>) {
        F(*static_cast<std::remove_cv_t<A>*>(a[I])...);
    }
    static void run(void** a) { call(a, std::index_sequence_for<A...>{}); }
};

// __launch_bounds__ of a kernel: the build reads it from the source.
struct LaunchBounds {
    const char *name, *file;
    unsigned threads;
    const LaunchBounds* next;
    LaunchBounds(const char* name, const char* file, unsigned threads);
};

const Kernel* find_kernel(const char* name, const char* file = nullptr);
unsigned launch_bounds(const Kernel& kernel);

// Runs a grid to its end. `threads`: OS threads. `seed`: 0 runs warps and lanes in order, 1 in reversed order, others shuffled.
void launch(const Kernel& kernel, const unsigned (&grid)[3], const unsigned (&block)[3], size_t shared_bytes, void** arguments,
            unsigned threads, uint64_t seed);

// What a memory fault's message says of an address (driver.cpp knows the allocations); null: nothing.
extern const char* (*describe_address)(const void* address);
void catch_faults();

}  // namespace emulated

// The same for a small main: 0, or the driver's error (1 CUDA_ERROR_INVALID_VALUE, 500 CUDA_ERROR_NOT_FOUND).
extern "C" __attribute__((visibility("default"))) int emulated_launch(const char* name, const unsigned grid[3], const unsigned block[3],
                                                                      size_t shared_bytes, void** arguments, unsigned threads, uint64_t seed);

#define KX_EXPORT(name)                                                                                                       \
    static ::emulated::Kernel kx_kernel_##name(#name, KX_FILE, &::emulated::Entry<&name>::run, ::emulated::Entry<&name>::count, \
                                               ::emulated::Entry<&name>::sizes, ::emulated::Entry<&name>::is_pointer);
#define KX_BOUNDS(name, threads) static ::emulated::LaunchBounds kx_bounds_##name(#name, KX_FILE, threads);
#define KX_SHARED(type, name) type* name = reinterpret_cast<type*>(::emulated::current->block->shared)

#include "words.h"

// ---- kx.h's contract -------------------------------------------------------------------------------------------------------------
namespace kx {

struct bf16 {
    unsigned short bits;
};

inline float bits_to_float(unsigned bits) { return __uint_as_float(bits); }
// Every NaN becomes 0x7fff, as the device's conversion has it.
inline unsigned bf16_bits(float x) {
    const unsigned u = __float_as_uint(x);
    return x != x ? 0x7fffu : (u + 0x7fffu + (u >> 16 & 1u)) >> 16;
}
inline unsigned pack_bf16(float low, float high) { return bf16_bits(low) | bf16_bits(high) << 16; }

inline void copy_async16(void* shared, const void* global) { emulated::copy_async16(shared, global); }
inline void copy_async_commit() { emulated::current->groups.push_back(emulated::current->copies.size()); }
template <int N>
inline void copy_async_wait(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    if (!emulated::left_out(file, line)) emulated::copy_async_wait(N);
}

template <int COUNT, bool TRANSPOSED>
inline void load_matrix(unsigned* r, const void* row) {
    emulated::LoadMatrix load;
    load.to = r;
    if (emulated::current->lane < 8 * COUNT) emulated::read_row(load, row);
    emulated::collective(emulated::LOAD_MATRIX, 0xffffffffu, &load, emulated::perform_load_matrix<COUNT, TRANSPOSED>);
}
inline void load_matrix4(unsigned (&r)[4], const void* row) { load_matrix<4, false>(r, row); }
inline void load_matrix2(unsigned (&r)[2], const void* row) { load_matrix<2, false>(r, row); }
inline void load_matrix4_transposed(unsigned (&r)[4], const void* row) { load_matrix<4, true>(r, row); }
inline void load_matrix2_transposed(unsigned (&r)[2], const void* row) { load_matrix<2, true>(r, row); }

inline void mma_bf16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    emulated::Mma mma{d, a, b};
    emulated::collective(emulated::MMA, 0xffffffffu, &mma, emulated::perform_mma);
}

}  // namespace kx
