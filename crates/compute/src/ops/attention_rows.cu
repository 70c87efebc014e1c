// What attention needs beside its tiles: lengths of queries and keys, dy · y of every row, sums over groups, and the probabilities themselves.
#include "kx.h"

namespace {

constexpr float MASKED = -100.f;
constexpr float SHORTEST = 1e-12f;
constexpr double LARGEST_LOGIT = 4.605170185988092;  // ln 100

// The row of x [B, N, ..] of a place of a unit (image, window).
__device__ __forceinline__ kx_u64 row_of(const unsigned* order, int unit, int place, int windows, int tokens, int n) {
    return (kx_u64)(unit / windows) * tokens + (order ? order[(kx_u64)(unit % windows) * n + place] : (unsigned)place);
}

// Which (unit, head, place) this warp has; false beyond the last.
struct Place {
    int unit, h, place;
    kx_u64 index;
    bool inside;
    __device__ Place(int units, int heads, int n) {
        index = (kx_u64)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
        inside = index < (kx_u64)units * heads * n;
        place = index % n, h = index / n % heads, unit = index / n / heads;
    }
};

// lengths [2, units, H, n]: max(|x|, 1e-12) of queries, then of keys; or one over it. A warp each.
template <class T>
__device__ void lengths(const T* qkv, float* out, const unsigned* order, int inverse, int units, int windows, int tokens, int n, int heads, int d) {
    const Place at(units, heads, n);
    const int lane = threadIdx.x & 31;
    if (!at.inside) return;
    for (int part = 0; part < 2; part++) {
        const T* x = qkv + row_of(order, at.unit, at.place, windows, tokens, n) * 3 * heads * d + (part * heads + at.h) * d;
        float sum = 0.f;
        for (int i = lane; i < d; i += 32) sum = fmaf(kx::widen(x[i]), kx::widen(x[i]), sum);
        const float length = fmaxf(sqrtf(kx::warp_sum(sum)), SHORTEST);
        if (lane == 0) out[(kx_u64)part * units * heads * n + at.index] = inverse ? 1.f / length : length;
    }
}

// delta [units, H, n] = Σ over the head of dy · y. A warp each.
__device__ void delta(const kx::bf16* y, const kx::bf16* dy, float* out, const unsigned* order, int units, int windows, int tokens, int n,
                      int heads, int d) {
    const Place at(units, heads, n);
    const int lane = threadIdx.x & 31;
    if (!at.inside) return;
    const kx_u64 row = (row_of(order, at.unit, at.place, windows, tokens, n) * heads + at.h) * d;
    float sum = 0.f;
    for (int i = lane; i < d; i += 32) sum = fmaf(kx::widen(y[row + i]), kx::widen(dy[row + i]), sum);
    sum = kx::warp_sum(sum);
    if (lane == 0) out[at.index] = sum;
}

// map [units, H, n, n]: the probabilities of one row a block. Shared memory: n + d + 32 floats.
template <class T>
__device__ void map(const T* qkv, const float* bias, T* map, float* lse, const unsigned* order, const unsigned char* regions,
                    const float* logit_scale, float scale, int causal, int units, int windows, int tokens, int n, int heads, int d) {
    KX_SHARED(float, part);
    float *q = part + 32, *s = q + d;
    const int place = blockIdx.x % n, h = blockIdx.x / n % heads, unit = blockIdx.x / n / heads;
    const T* own = qkv + row_of(order, unit, place, windows, tokens, n) * 3 * heads * d + h * d;
    float sum = 0.f;
    for (int i = threadIdx.x; i < d; i += blockDim.x) q[i] = kx::widen(own[i]), sum = fmaf(q[i], q[i], sum);
    const float q_length = fmaxf(sqrtf(kx::block_sum(sum, part)), SHORTEST);
    if (logit_scale) scale = (float)exp(fmin((double)logit_scale[h], LARGEST_LOGIT));
    if (regions) regions += (kx_u64)(unit % windows) * n;
    __syncthreads();
    float best = -1e30f;
    for (int j = threadIdx.x; j < n; j += blockDim.x) {
        const T* k = qkv + row_of(order, unit, j, windows, tokens, n) * 3 * heads * d + (heads + h) * d;
        float dot = 0.f, square = 0.f;
        for (int i = 0; i < d; i++) dot = fmaf(q[i], kx::widen(k[i]), dot), square = fmaf(kx::widen(k[i]), kx::widen(k[i]), square);
        if (logit_scale) dot = dot / q_length / fmaxf(sqrtf(square), SHORTEST);
        float x = dot * scale;
        if (regions && regions[place] != regions[j]) x += MASKED;
        if (bias) x += bias[((kx_u64)h * n + place) * n + j];
        s[j] = causal && j > place ? kx::bits_to_float(0xff800000u) : x;
        best = fmaxf(best, s[j]);
    }
    best = kx::warp_max(best);
    if ((threadIdx.x & 31) == 0) part[threadIdx.x >> 5] = best;
    __syncthreads();
    best = kx::warp_max((threadIdx.x & 31) < blockDim.x / 32 ? part[threadIdx.x & 31] : -1e30f);
    __syncthreads();
    float total = 0.f;
    for (int j = threadIdx.x; j < n; j += blockDim.x) total += s[j] = expf(s[j] - best);
    total = kx::block_sum(total, part);
    for (int j = threadIdx.x; j < n; j += blockDim.x) map[(kx_u64)blockIdx.x * n + j] = kx::narrow<T>(s[j] / total);
    if (threadIdx.x == 0) lse[blockIdx.x] = best + logf(total);
}

}  // namespace

#define KERNELS(T, name)                                                                                                                       \
    extern "C" __global__ void __launch_bounds__(256)                                                                                          \
        attention_lengths_##name(const T* qkv, float* out, const unsigned* order, int inverse, int units, int windows, int tokens, int n,      \
                                 int heads, int d) {                                                                                           \
        lengths(qkv, out, order, inverse, units, windows, tokens, n, heads, d);                                                                \
    }                                                                                                                                          \
    KX_EXPORT(attention_lengths_##name)                                                                                                        \
    extern "C" __global__ void __launch_bounds__(256) attention_map_##name(                                                                    \
        const T* qkv, const float* bias, T* p, float* lse, const unsigned* order, const unsigned char* regions, const float* logit_scale,      \
        float scale, int causal, int units, int windows, int tokens, int n, int heads, int d) {                                                \
        map(qkv, bias, p, lse, order, regions, logit_scale, scale, causal, units, windows, tokens, n, heads, d);                               \
    }                                                                                                                                          \
    KX_EXPORT(attention_map_##name)

KERNELS(float, f32)
KERNELS(kx::bf16, bf16)

extern "C" __global__ void __launch_bounds__(256) attention_delta_bf16(const kx::bf16* y, const kx::bf16* dy, float* out, const unsigned* order,
                                                                       int units, int windows, int tokens, int n, int heads, int d) {
    delta(y, dy, out, order, units, windows, tokens, n, heads, d);
}
KX_EXPORT(attention_delta_bf16)

// dbias [count] of partial [groups, count], added up in the groups' order.
extern "C" __global__ void __launch_bounds__(256) attention_sum_bias(const float* partial, float* dbias, int groups, int count, int add) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    float sum = 0.f;
    for (int g = 0; g < groups; g++) sum += partial[(kx_u64)g * count + i];
    kx::deliver(dbias + i, sum, add);
}
KX_EXPORT(attention_sum_bias)

// The gradient of every head's scale of partial [parts, H], zero where the clamp holds. A block of 256 threads a head; shared memory: 256 doubles.
extern "C" __global__ void __launch_bounds__(256)
    attention_sum_scale(const double* partial, const float* logit_scale, float* dscale, int parts, int heads, int add) {
    KX_SHARED(double, sums);
    const int h = blockIdx.x, t = threadIdx.x;
    double sum = 0.;
    for (int i = t; i < parts; i += 256) sum += partial[(kx_u64)i * heads + h];
    sums[t] = sum;
    for (int half = 128; half; half >>= 1) {
        __syncthreads();
        if (t < half) sums[t] += sums[t + half];
    }
    if (t == 0) kx::deliver(dscale + h, (double)logit_scale[h] > LARGEST_LOGIT ? 0.f : (float)sums[0], add);
}
KX_EXPORT(attention_sum_scale)
