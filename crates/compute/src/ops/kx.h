// kx.h: the only header a kernel includes. Below are the few instructions and types that kernels use beyond plain CUDA C++, in two halves
// of one contract: PTX for the device (sm_80 and later), and the same meaning in C++ (KX_EMULATED), so that every kernel runs, and is
// tested, on machines without a GPU. Needs no header of a CUDA toolkit.
#pragma once

#ifdef KX_EMULATED
#include "emulated.h"
#else

#define KX_EXPORT(name)
#define KX_SHARED(type, name)                              \
    extern __shared__ __align__(1024) unsigned char kx_shared_[]; \
    type* name = reinterpret_cast<type*>(kx_shared_)
typedef unsigned long long kx_u64;

namespace kx {

// A bfloat16 in memory. Arithmetic is in f32: see widen and narrow.
struct bf16 {
    unsigned short bits;
};

__device__ __forceinline__ float bits_to_float(unsigned bits) { return __uint_as_float(bits); }

// Two floats to two bf16, rounded to nearest even; `low` lies at the lower address.
__device__ __forceinline__ unsigned pack_bf16(float low, float high) {
    unsigned both;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
}

__device__ __forceinline__ unsigned shared_address(const void* p) { return (unsigned)__cvta_generic_to_shared(p); }

// 16 bytes from global to shared memory, asynchronously: there after wait, and for other threads after a barrier.
__device__ __forceinline__ void copy_async16(void* shared, const void* global) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(shared)), "l"(global) : "memory");
}
__device__ __forceinline__ void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most N of this thread's committed groups are under way.
template <int N>
__device__ __forceinline__ void copy_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

// 8 x 8 matrices of bf16 from shared memory to the fragments of mma_bf16. Lane 8 i + r names row r of matrix i, 16 bytes, aligned.
__device__ __forceinline__ void load_matrix4(unsigned (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}
__device__ __forceinline__ void load_matrix2(unsigned (&r)[2], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];" : "=r"(r[0]), "=r"(r[1]) : "r"(shared_address(row)) : "memory");
}
// The same, each matrix transposed.
__device__ __forceinline__ void load_matrix4_transposed(unsigned (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}
__device__ __forceinline__ void load_matrix2_transposed(unsigned (&r)[2], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(row))
                 : "memory");
}

// d += a b with a 16 x 16 (rows), b 16 x 8 (columns) of bf16, d 16 x 8 of f32: mma.sync.m16n8k16.
// Lane l holds, with g = l / 4 and q = 2 (l % 4): d = (g, q) (g, q+1) (g+8, q) (g+8, q+1);
// a = pairs at (g, q) (g+8, q) (g, q+8) (g+8, q+8); b = pairs at rows (q, q+1) and (q+8, q+9) of column g.
__device__ __forceinline__ void mma_bf16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

}  // namespace kx
#endif  // KX_EMULATED

namespace kx {

constexpr unsigned ALL = 0xffffffffu;

__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ float widen(bf16 x) { return bits_to_float((unsigned)x.bits << 16); }

// The nearest value of a type.
template <class T>
struct Narrow;
template <>
struct Narrow<float> {
    static __device__ __forceinline__ float of(float x) { return x; }
};
template <>
struct Narrow<bf16> {
    static __device__ __forceinline__ bf16 of(float x) { return bf16{(unsigned short)(pack_bf16(x, 0.f) & 0xffffu)}; }
};
template <class T>
__device__ __forceinline__ T narrow(float x) {
    return Narrow<T>::of(x);
}

// Low and high half of two packed bf16.
__device__ __forceinline__ float low_of(unsigned both) { return bits_to_float(both << 16); }
__device__ __forceinline__ float high_of(unsigned both) { return bits_to_float(both & 0xffff0000u); }

// Elements of 16 bytes, and such a vector (the address is a multiple of 16).
template <class T>
constexpr int LANES = 16 / (int)sizeof(T);

__device__ __forceinline__ void load_lanes(const float* p, float (&x)[4]) {
    float4 v = *reinterpret_cast<const float4*>(p);
    x[0] = v.x, x[1] = v.y, x[2] = v.z, x[3] = v.w;
}
__device__ __forceinline__ void load_lanes(const bf16* p, float (&x)[8]) {
    uint4 v = *reinterpret_cast<const uint4*>(p);
    const unsigned w[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; i++) x[2 * i] = low_of(w[i]), x[2 * i + 1] = high_of(w[i]);
}
__device__ __forceinline__ void store_lanes(float* p, const float (&x)[4]) {
    *reinterpret_cast<float4*>(p) = float4{x[0], x[1], x[2], x[3]};
}
__device__ __forceinline__ void store_lanes(bf16* p, const float (&x)[8]) {
    *reinterpret_cast<uint4*>(p) = uint4{pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]), pack_bf16(x[4], x[5]), pack_bf16(x[6], x[7])};
}

// Sums over a warp, a butterfly: every lane gets the same bits.
__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int o = 16; o; o >>= 1) x += __shfl_xor_sync(ALL, x, o);
    return x;
}
__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
    for (int o = 16; o; o >>= 1) x = fmaxf(x, __shfl_xor_sync(ALL, x, o));
    return x;
}
// Over a block whose size is a multiple of 32; `part` is 32 floats of shared memory, free again after the next barrier.
__device__ __forceinline__ float block_sum(float x, float* part) {
    x = warp_sum(x);
    if ((threadIdx.x & 31) == 0) part[threadIdx.x >> 5] = x;
    __syncthreads();
    x = (threadIdx.x & 31) < blockDim.x / 32 ? part[threadIdx.x & 31] : 0.f;
    return warp_sum(x);
}

// What changes from step to step and stands in device memory, so that a captured graph can be run again: `Control` of device/cuda.
struct Control {
    kx_u64 seed;
    kx_u64 step;
    kx_u64 first_sample;
    kx_u64 view;
    float seed_grad;
    unsigned pad;
};

// The random numbers of random.rs, bit for bit.
__device__ __forceinline__ kx_u64 mix_bits(kx_u64 z) {
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
}
__device__ __forceinline__ kx_u64 hash_word(kx_u64 h, kx_u64 word) { return mix_bits((h + 0x9E3779B97F4A7C15ull) ^ mix_bits(word)); }

// Drop path's factor of a sample: 0, or 1 / (1 - rate) (DropPath::scale).
__device__ __forceinline__ float drop_scale(const Control* c, unsigned site, kx_u64 sample, double rate) {
    kx_u64 h = 0x243F6A8885A308D3ull;
    h = hash_word(h, c->seed);
    h = hash_word(h, c->step);
    h = hash_word(h, site);
    h = hash_word(h, c->first_sample + sample);
    h = hash_word(h, c->view);
    double uniform = (double)(h >> 11) * (1.0 / 9007199254740992.0);
    return uniform < rate ? 0.f : (float)(1.0 / (1.0 - rate));
}

// Eight neighbours as they lie in memory (the address is a multiple of 16), kept in registers at their own size.
template <class T>
struct Eight;
template <>
struct Eight<float> {
    float4 low, high;
    __device__ __forceinline__ void load(const float* p) {
        low = reinterpret_cast<const float4*>(p)[0], high = reinterpret_cast<const float4*>(p)[1];
    }
    __device__ __forceinline__ void widen(float (&x)[8]) const {
        x[0] = low.x, x[1] = low.y, x[2] = low.z, x[3] = low.w;
        x[4] = high.x, x[5] = high.y, x[6] = high.z, x[7] = high.w;
    }
};
template <>
struct Eight<bf16> {
    uint4 all;
    __device__ __forceinline__ void load(const bf16* p) { all = *reinterpret_cast<const uint4*>(p); }
    __device__ __forceinline__ void widen(float (&x)[8]) const {
        x[0] = low_of(all.x), x[1] = high_of(all.x), x[2] = low_of(all.y), x[3] = high_of(all.y);
        x[4] = low_of(all.z), x[5] = high_of(all.z), x[6] = low_of(all.w), x[7] = high_of(all.w);
    }
};

// W neighbours: eight, at an address that is a multiple of 16, or one.
template <int W, class T>
__device__ __forceinline__ void load(const T* p, float (&x)[W]) {
    if constexpr (W == 8) {
        Eight<T> eight;
        eight.load(p);
        eight.widen(x);
    } else {
        x[0] = widen(*p);
    }
}
template <int W>
__device__ __forceinline__ void store(float* p, const float (&x)[W]) {
    if constexpr (W == 8) {
        reinterpret_cast<float4*>(p)[0] = float4{x[0], x[1], x[2], x[3]};
        reinterpret_cast<float4*>(p)[1] = float4{x[4], x[5], x[6], x[7]};
    } else {
        *p = x[0];
    }
}
template <int W>
__device__ __forceinline__ void store(bf16* p, const float (&x)[W]) {
    if constexpr (W == 8)
        store_lanes(p, x);
    else
        *p = narrow<bf16>(x[0]);
}
// Stores a gradient: sets it, or adds it to what is there.
template <int W, class T>
__device__ __forceinline__ void deliver_all(T* to, const float (&x)[W], bool add) {
    float sum[W];
    if (add) load<W>(to, sum);
#pragma unroll
    for (int i = 0; i < W; i++) sum[i] = add ? sum[i] + x[i] : x[i];
    store<W>(to, sum);
}

// Threads that share a row: `lanes` neighbours in a warp (a power of two), or all `lanes` of a block (a multiple of 32).
struct Team {
    int lane, lanes;
    float* part;  // 32 floats of shared memory for each sum made at once, where the team is a block

    __device__ __forceinline__ Team(int lanes, float* part) : lane(threadIdx.x % lanes), lanes(lanes), part(part) {}
    // Which of the block's teams this is, and how many there are.
    __device__ __forceinline__ int index() const { return threadIdx.x / lanes; }
    __device__ __forceinline__ int count() const { return blockDim.x / lanes; }
    // Sums over the team, in fixed order; every thread gets the same bits. All threads of the block must call it.
    template <int K>
    __device__ __forceinline__ void sum(float (&x)[K]) const {
        for (int o = min(lanes, 32) / 2; o; o >>= 1) {
#pragma unroll
            for (int k = 0; k < K; k++) x[k] += __shfl_xor_sync(ALL, x[k], o);
        }
        if (lanes <= 32) return;
        __syncthreads();  // the sums before have been read
        if ((lane & 31) == 0) {
#pragma unroll
            for (int k = 0; k < K; k++) part[32 * k + (lane >> 5)] = x[k];
        }
        __syncthreads();
#pragma unroll
        for (int k = 0; k < K; k++) {
            x[k] = part[32 * k];
            for (int w = 1; w < lanes / 32; w++) x[k] += part[32 * k + w];
        }
    }
    __device__ __forceinline__ float sum(float x) const {
        float one[1] = {x};
        sum(one);
        return one[0];
    }
};

// This thread's share of a row, in registers: V times eight neighbours. Rows of multiples of 8 elements, at most 8 V lanes.
template <class T, int V>
struct RegisterRow {
    static constexpr int WIDTH = 8, VECTORS = V;
    Eight<T> eights[V];
    int lane, lanes, cols;

    // No columns: an empty row, of which nothing is read.
    __device__ __forceinline__ RegisterRow(const T* row, const Team& team, int cols) : lane(team.lane), lanes(team.lanes), cols(cols) {
#pragma unroll
        for (int i = 0; i < V; i++)
            if (column(i) < cols) eights[i].load(row + column(i));
    }
    __device__ __forceinline__ int column(int i) const { return (lane + i * lanes) * 8; }
    __device__ __forceinline__ void get(int i, int, float (&x)[8]) const { eights[i].widen(x); }
    // f(which of the share's vectors, its first column, its elements)
    template <class F>
    __device__ __forceinline__ void each(F f) const {
#pragma unroll
        for (int i = 0; i < V; i++) {
            if (column(i) >= cols) continue;
            float x[8];
            eights[i].widen(x);
            f(i, column(i), x);
        }
    }
};

// The same for rows of any width: element by element, from memory each time.
template <class T>
struct MemoryRow {
    static constexpr int WIDTH = 1, VECTORS = 1;
    const T* row;
    int lane, lanes, cols;

    __device__ __forceinline__ MemoryRow(const T* row, const Team& team, int cols) : row(row), lane(team.lane), lanes(team.lanes), cols(cols) {}
    __device__ __forceinline__ void get(int, int c, float (&x)[1]) const { x[0] = widen(row[c]); }
    template <class F>
    __device__ __forceinline__ void each(F f) const {
        for (int c = lane; c < cols; c += lanes) {
            float x[1] = {widen(row[c])};
            f(0, c, x);
        }
    }
};

// Mean of a row, and 1 / sqrt(variance + eps) with the variance from centred values.
template <class Row>
__device__ __forceinline__ void moments(const Row& row, const Team& team, int cols, float eps, float& mean, float& rstd) {
    float sum = 0.f, squares = 0.f;
    row.each([&](int, int, const auto& x) {
#pragma unroll
        for (int k = 0; k < Row::WIDTH; k++) sum += x[k];
    });
    const float m = team.sum(sum) / cols;
    row.each([&](int, int, const auto& x) {
#pragma unroll
        for (int k = 0; k < Row::WIDTH; k++) squares += (x[k] - m) * (x[k] - m);
    });
    mean = m;
    rstd = 1.f / sqrtf(team.sum(squares) / cols + eps);
}

// Stores a gradient: sets it, or adds to what is there.
template <class T>
__device__ __forceinline__ void deliver(T* to, float value, int add) {
    *to = narrow<T>(add ? widen(*to) + value : value);
}

}  // namespace kx
