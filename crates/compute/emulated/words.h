// words.h: CUDA's own words, for a host compiler; part of emulated.h.
#pragma once

#define threadIdx (::emulated::current->index)
#define blockIdx (::emulated::current->block->index)
#define blockDim (::emulated::current->block->size)
#define gridDim (::emulated::current->block->grid)
constexpr int warpSize = 32;

#define __global__
#define __device__
#define __host__
#define __constant__ static const
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#define __shared__ static_assert(false, "the emulated device has no static __shared__: use KX_SHARED");

// File and line are those of the call.
inline void __syncthreads(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    if (!emulated::left_out(file, line)) emulated::block_barrier(line);
}
inline void __syncwarp(unsigned mask = 0xffffffffu, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    if (!emulated::left_out(file, line)) emulated::collective(emulated::SYNC, mask, nullptr, emulated::perform_sync);
}
inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
inline void __threadfence_block() {}

// A shuffle's source lies in the same segment of `width` lanes; outside of it, a lane gets its own value.
template <class T>
inline T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
    const unsigned lane = emulated::current->lane;
    return emulated::shuffle(mask, value, (lane & ~(width - 1u)) | ((unsigned)source & (width - 1u)));
}
template <class T>
inline T __shfl_xor_sync(unsigned mask, T value, int with, int width = 32) {
    const unsigned lane = emulated::current->lane, source = lane ^ (unsigned)with;
    return emulated::shuffle(mask, value, (source & ~(width - 1u)) <= (lane & ~(width - 1u)) ? source : lane);
}
template <class T>
inline T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32) {
    const unsigned lane = emulated::current->lane;
    return emulated::shuffle(mask, value, (lane & (width - 1u)) + by < (unsigned)width ? lane + by : lane);
}
template <class T>
inline T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32) {
    const unsigned lane = emulated::current->lane;
    return emulated::shuffle(mask, value, (lane & (width - 1u)) >= by ? lane - by : lane);
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
    emulated::Shuffle s{predicate != 0, 0, 0};
    emulated::collective(emulated::BALLOT, mask, &s, emulated::perform_ballot);
    return (unsigned)s.result;
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) == mask; }

template <class To, class From>
inline To emulated_bits(From from) {
    static_assert(sizeof(To) == sizeof(From), "");
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}
inline float __uint_as_float(unsigned x) { return emulated_bits<float>(x); }
inline float __int_as_float(int x) { return emulated_bits<float>(x); }
inline unsigned __float_as_uint(float x) { return emulated_bits<unsigned>(x); }
inline int __float_as_int(float x) { return emulated_bits<int>(x); }

// NaN gives way to a number, as on the device.
inline float emulated_fmaxf(float a, float b) { return a > b || b != b ? a : b; }
inline float emulated_fminf(float a, float b) { return a < b || b != b ? a : b; }
#define fmaxf emulated_fmaxf
#define fminf emulated_fminf
inline float rsqrtf(float x) { return 1.f / sqrtf(x); }
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __log2f(float x) { return log2f(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __frcp_rn(float x) { return 1.f / x; }
inline float __frsqrt_rn(float x) { return 1.f / sqrtf(x); }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __int2float_rn(int x) { return (float)x; }
inline int __float2int_rn(float x) { return (int)rintf(x); }
inline int __float2int_rd(float x) { return (int)floorf(x); }
inline float __saturatef(float x) { return x > 0.f ? (x < 1.f ? x : 1.f) : 0.f; }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((uint64_t)a * b >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) { return (unsigned __int128)a * b >> 64; }

#define EMULATED_MIN_MAX(result, a, b)                                        \
    inline result min(a x, b y) { return (result)x < (result)y ? (result)x : (result)y; } \
    inline result max(a x, b y) { return (result)x > (result)y ? (result)x : (result)y; }
EMULATED_MIN_MAX(int, int, int)
EMULATED_MIN_MAX(unsigned, unsigned, unsigned)
EMULATED_MIN_MAX(unsigned, int, unsigned)
EMULATED_MIN_MAX(unsigned, unsigned, int)
EMULATED_MIN_MAX(long, long, long)
EMULATED_MIN_MAX(unsigned long, unsigned long, unsigned long)
EMULATED_MIN_MAX(long long, long long, long long)
EMULATED_MIN_MAX(unsigned long long, unsigned long long, unsigned long long)
EMULATED_MIN_MAX(double, double, double)
inline float min(float x, float y) { return fminf(x, y); }
inline float max(float x, float y) { return fmaxf(x, y); }
#undef EMULATED_MIN_MAX

template <class T>
inline T __ldg(const T* p) {
    return *p;
}
template <class T>
inline T __ldcs(const T* p) {
    return *p;
}
template <class T>
inline T __ldcg(const T* p) {
    return *p;
}
template <class T>
inline void __stcs(T* p, T value) {
    *p = value;
}
template <class T>
inline void __stcg(T* p, T value) {
    *p = value;
}
inline int atomicAdd(int* p, int x) { return __atomic_fetch_add(p, x, __ATOMIC_RELAXED); }
inline unsigned atomicAdd(unsigned* p, unsigned x) { return __atomic_fetch_add(p, x, __ATOMIC_RELAXED); }
inline unsigned long long atomicAdd(unsigned long long* p, unsigned long long x) { return __atomic_fetch_add(p, x, __ATOMIC_RELAXED); }
inline int atomicMax(int* p, int x) {
    int old = __atomic_load_n(p, __ATOMIC_RELAXED);
    while (old < x && !__atomic_compare_exchange_n(p, &old, x, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
    return old;
}
inline unsigned atomicOr(unsigned* p, unsigned x) { return __atomic_fetch_or(p, x, __ATOMIC_RELAXED); }
inline unsigned atomicExch(unsigned* p, unsigned x) { return __atomic_exchange_n(p, x, __ATOMIC_RELAXED); }
inline float atomicAdd(float* p, float x) {
    unsigned* word = reinterpret_cast<unsigned*>(p);
    unsigned old = __atomic_load_n(word, __ATOMIC_RELAXED);
    while (!__atomic_compare_exchange_n(word, &old, __float_as_uint(__uint_as_float(old) + x), false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
    return __uint_as_float(old);
}
