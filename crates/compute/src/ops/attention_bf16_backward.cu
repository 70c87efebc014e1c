// Attention in bf16 on tensor cores, backward: the formulas of attention.rs, tile by tile; P is computed again from q, k and lse.
//
// Sums have one order: a block adds dS of a group of units (image, window) up, in their order, in shared memory where that suffices;
// attention_sum_bias adds the groups.
#include "attention_tiles.h"

namespace {

// One strip of queries of the backward pass.
template <int D>
struct Queries {
    typename Tiles<D>::Rows q, dy;
    typename Tiles<D>::Sums o;
    float lse[2], delta[2];
    float turned = 0.f;  // sum of dS · S before bias and masks: the gradient of a trained scale

    // Adds 8 PARTS keys. dS goes to `sums` [strip, `wide`], the strip's part of the bias; in shared memory it is padded.
    template <int PARTS>
    __device__ __forceinline__ void step(const Score& score, const bf16* k, const bf16* v, int row, int column, float* sums, int wide,
                                         bool padded, bool first) {
        float s[PARTS][4], x[PARTS][4], ds[PARTS][4];
        score.template adjustments<false>(x, row, column);
        Tiles<D>::products(s, q, k);
        Tiles<D>::products(ds, dy, v);
        score.scale_both(s, score.queries_at, score.keys_at, row, column);
#pragma unroll
        for (int j = 0; j < PARTS; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                s[j][e] *= score.factor;
                x[j][e] = exp2f(s[j][e] + x[j][e] - lse[e / 2]);
                ds[j][e] = x[j][e] * (ds[j][e] - delta[e / 2]);
            }
        if (sums) collect(ds, sums + (lane_id() / 4) * wide + column, wide, padded, first, row, column, score.n);
        if (score.inverse) {
#pragma unroll
            for (int j = 0; j < PARTS; j++)
#pragma unroll
                for (int e = 0; e < 4; e++) turned = fmaf(ds[j][e], s[j][e], turned);
            score.scale_columns(ds, score.keys_at, column);
        }
        Tiles<D>::accumulate(o, ds, k);
    }

    template <int PARTS>
    static __device__ __forceinline__ void collect(const float (&ds)[PARTS][4], float* sums, int wide, bool padded, bool first, int row,
                                                   int column, int n) {
        if (padded) {
#pragma unroll
            for (int j = 0; j < PARTS; j++)
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    float2* at = reinterpret_cast<float2*>(sums + 8 * half * wide + 8 * j);
                    float2 sum = *at;
                    sum.x += ds[j][2 * half], sum.y += ds[j][2 * half + 1];
                    *at = sum;
                }
        } else {
#pragma unroll
            for (int j = 0; j < PARTS; j++)
#pragma unroll
                for (int e = 0; e < 4; e++)
                    if (row + 8 * (e / 2) < n && column + 8 * j + e % 2 < n)
                        kx::deliver(sums + 8 * (e / 2) * wide + 8 * j + e % 2, ds[j][e], !first);
        }
    }
};

// delta of a tile of queries from the probabilities that the gradients are made of, rowsum(P ∘ dP) / rowsum(P): dS then sums to zero in
// every row. Where scores are large (cosine attention), rowsum(dy ∘ y) would not do, for y has been rounded.
template <int D>
struct Means {
    typename Tiles<D>::Rows q, dy;
    float lse[2], sum[2] = {0.f, 0.f}, total[2] = {0.f, 0.f};

    // Adds 8 PARTS keys.
    template <int PARTS>
    __device__ __forceinline__ void step(const Score& score, const bf16* k, const bf16* v, int row, int column) {
        float s[PARTS][4], x[PARTS][4], dp[PARTS][4];
        score.template adjustments<false>(x, row, column);
        Tiles<D>::products(s, q, k);
        Tiles<D>::products(dp, dy, v);
        score.scale_both(s, score.queries_at, score.keys_at, row, column);
#pragma unroll
        for (int j = 0; j < PARTS; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const float p = exp2f(fmaf(s[j][e], score.factor, x[j][e]) - lse[e / 2]);
                sum[e / 2] = fmaf(p, dp[j][e], sum[e / 2]), total[e / 2] += p;
            }
    }
};

template <int D>
__device__ __forceinline__ void means(const bf16* qkv, const float* bias, const float* lse, const bf16* dy, float* delta, PROBLEM) {
    using T = Tiles<D>;
    KX_SHARED(bf16, q);
    const int rows = blockDim.x / 2, warp = threadIdx.x / 32, channels = heads * d, tiles = (n + rows - 1) / rows;
    bf16 *g = q + rows * T::LD, *k = g + rows * T::LD, *v = k + 2 * TILE * T::LD;
    const Place at(tiles, units, bias != nullptr);
    const int top = at.tile * rows + 16 * warp, row = top + lane_id() / 4, column = 2 * (lane_id() & 3), strip = 16 * warp * T::LD;
    const Window w(order, at.unit, windows, tokens, n);
    const Score score(bias, regions, logit_scale, inverse, scale, causal, units, at.unit, windows, n, heads, at.h);
    const bf16* head = qkv + at.h * d;
    const auto load = [&](int first) {
        const int buffer = first / TILE % 2 * TILE * T::LD;
        T::load(k + buffer, head + channels, 3 * channels, w, first, TILE, d);
        T::load(v + buffer, head + 2 * channels, 3 * channels, w, first, TILE, d);
        kx::copy_async_commit();
    };
    lse += ((kx_u64)at.unit * heads + at.h) * n, delta += ((kx_u64)at.unit * heads + at.h) * n;
    Means<D> f;
    f.lse[0] = lse[min(row, n - 1)] * LOG2E, f.lse[1] = lse[min(row + 8, n - 1)] * LOG2E;
    T::load(q, head, 3 * channels, w, at.tile * rows, rows, d);
    T::load(g, dy + at.h * d, channels, w, at.tile * rows, rows, d);
    load(0);
    for (int first = 0; first < n; first += TILE) {
        kx::copy_async_wait<0>();
        __syncthreads();
        if (first + TILE < n) load(first + TILE);
        if (first == 0) T::hold(f.q, q + strip), T::hold(f.dy, g + strip);
        const int buffer = first / TILE % 2 * TILE;
        for (int c = 0; top < n && c < min(TILE, n - first); c += 32)
            f.template step<4>(score, k + (buffer + c) * T::LD, v + (buffer + c) * T::LD, row, first + c + column);
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const float sum = row_sum(f.sum[half]), total = row_sum(f.total[half]);
        if (column == 0 && row + 8 * half < n) delta[row + 8 * half] = sum / total;
    }
}

// dq of a tile of queries for each unit of a group, dS summed over the group to partial [groups, H, n, n], and the group's gradient of the
// head's scale to scale_partial [groups · tiles, H]. `wide`: row length of the sums of dS in shared memory, or 0: summed in `partial`.
template <int D>
__device__ __forceinline__ void backward_queries(const bf16* qkv, const float* bias, const float* lse, const float* delta, const bf16* dy,
                                                 bf16* dqkv, float* partial, double* scale_partial, PROBLEM, int groups, int wide,
                                                 int add) {
    using T = Tiles<D>;
    KX_SHARED(bf16, q);
    const int rows = blockDim.x / 2, warp = threadIdx.x / 32, channels = heads * d, tiles = (n + rows - 1) / rows;
    bf16 *g = q + rows * T::LD, *k = g + rows * T::LD, *v = k + 2 * TILE * T::LD;
    const Place at(tiles, groups, bias != nullptr);
    const int group = at.unit, h = at.h, top = at.tile * rows + 16 * warp, row = top + lane_id() / 4, column = 2 * (lane_id() & 3);
    const int begin = (kx_u64)group * units / groups, stop = ((kx_u64)group + 1) * units / groups;
    const int strip = 16 * warp * T::LD, end = causal ? min(n, at.tile * rows + rows) : n;
    float* sums = nullptr;
    if (partial) {
        partial += (((kx_u64)group * heads + h) * n + top) * n;
        sums = wide ? reinterpret_cast<float*>(v + 2 * TILE * T::LD) + 16 * warp * wide : partial;
        if (wide)
            for (int i = lane_id(); i < 16 * wide; i += 32) sums[i] = 0.f;
    }
    double all = 0.;
    for (int unit = begin; unit < stop; unit++) {
        const Window w(order, unit, windows, tokens, n);
        const Score score(bias, regions, logit_scale, inverse, scale, causal, units, unit, windows, n, heads, h);
        const kx_u64 places = ((kx_u64)unit * heads + h) * n;
        const bf16* head = qkv + h * d;
        const auto load = [&](int first) {
            const int buffer = first / TILE % 2 * TILE * T::LD;
            T::load(k + buffer, head + channels, 3 * channels, w, first, TILE, d);
            T::load(v + buffer, head + 2 * channels, 3 * channels, w, first, TILE, d);
            kx::copy_async_commit();
        };
        __syncthreads();
        T::load(q, head, 3 * channels, w, at.tile * rows, rows, d);
        T::load(g, dy + h * d, channels, w, at.tile * rows, rows, d);
        load(0);
        Queries<D> f;
        clear(f.o);
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const kx_u64 place = places + min(row + 8 * half, n - 1);
            f.lse[half] = lse[place] * LOG2E, f.delta[half] = delta[place];
        }
        for (int first = 0; first < end; first += TILE) {
            kx::copy_async_wait<0>();
            __syncthreads();
            if (first + TILE < end) load(first + TILE);
            if (first == 0) T::hold(f.q, q + strip), T::hold(f.dy, g + strip);
            if (top >= n) continue;
            const int buffer = first / TILE % 2 * TILE, left = min(TILE, end - first);
            for (int c = 0; c < left;) {
                const bf16 *tk = k + (buffer + c) * T::LD, *tv = v + (buffer + c) * T::LD;
                if (left - c > 16) {
                    f.template step<4>(score, tk, tv, row, first + c + column, sums, wide ? wide : n, wide, unit == begin), c += 32;
                } else {
                    f.template step<2>(score, tk, tv, row, first + c + column, sums, wide ? wide : n, wide, unit == begin), c += 16;
                }
            }
        }
        if (top >= n) continue;
        all += (double)f.turned * LN2;
        T::differentiate(f.o, score.factor * LN2, q + strip, inverse, score.queries_at, top, n);
        T::store(dqkv + h * d, 3 * channels, w, top, d, f.o, q + strip, add);
    }
    if (partial && wide) {
        // The strip's lanes have met since they added to their sums: where its rows were stored.
        for (int r = 0; r < 16 && top + r < n; r++)
            for (int c = lane_id(); c < n; c += 32) partial[r * n + c] = sums[r * wide + c];
    }
    if (!scale_partial) return;
    __syncthreads();
    double* parts = reinterpret_cast<double*>(q);
    parts[threadIdx.x] = all;
    __syncthreads();
    if (threadIdx.x) return;
    for (int i = 1; i < (int)blockDim.x; i++) all += parts[i];
    scale_partial[((kx_u64)group * tiles + at.tile) * heads + h] = all;
}

// One strip of keys of the backward pass.
template <int D>
struct Keys {
    typename Tiles<D>::Sums dk, dv;

    // Adds 8 PARTS queries, whose lse and delta begin at this lane's column.
    template <int PARTS>
    __device__ __forceinline__ void step(const Score& score, const bf16* k, const bf16* v, const bf16* q, const bf16* dy, int row, int column,
                                         const float* lse, const float* delta) {
        float s[PARTS][4], x[PARTS][4], ds[PARTS][4];
        score.template adjustments<true>(x, row, column);
        {
            typename Tiles<D>::Rows a;
            Tiles<D>::hold(a, k);
            Tiles<D>::products(s, a, q);
            Tiles<D>::hold(a, v);
            Tiles<D>::products(ds, a, dy);
        }
        score.scale_both(s, score.keys_at, score.queries_at, row, column);
#pragma unroll
        for (int j = 0; j < PARTS; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const int i = min(column + 8 * j + e % 2, score.n - 1);
                x[j][e] = exp2f(fmaf(s[j][e], score.factor, x[j][e]) - lse[i] * LOG2E);
                ds[j][e] = x[j][e] * (ds[j][e] - delta[i]);
            }
        Tiles<D>::accumulate(dv, x, dy);
        if (score.inverse) score.scale_columns(ds, score.queries_at, column);
        Tiles<D>::accumulate(dk, ds, q);
    }
};

// dk and dv of a tile of keys.
template <int D>
__device__ __forceinline__ void backward_keys(const bf16* qkv, const float* bias, const float* lse, const float* delta, const bf16* dy,
                                              bf16* dqkv, PROBLEM, int add) {
    using T = Tiles<D>;
    KX_SHARED(bf16, k);
    const int rows = blockDim.x / 2, warp = threadIdx.x / 32, channels = heads * d, tiles = (n + rows - 1) / rows;
    bf16 *v = k + rows * T::LD, *q = v + rows * T::LD, *g = q + 2 * TILE * T::LD;
    const Place at(tiles, units, bias != nullptr);
    const int h = at.h, top = at.tile * rows + 16 * warp, row = top + lane_id() / 4, column = 2 * (lane_id() & 3);
    const int strip = 16 * warp * T::LD;
    const Window w(order, at.unit, windows, tokens, n);
    const Score score(bias, regions, logit_scale, inverse, scale, causal, units, at.unit, windows, n, heads, h);
    const kx_u64 places = ((kx_u64)at.unit * heads + h) * n;
    const bf16* head = qkv + h * d;
    const auto load = [&](int first) {
        const int buffer = first / TILE % 2 * TILE * T::LD;
        T::load(q + buffer, head, 3 * channels, w, first, TILE, d);
        T::load(g + buffer, dy + h * d, channels, w, first, TILE, d);
        kx::copy_async_commit();
    };
    T::load(k, head + channels, 3 * channels, w, at.tile * rows, rows, d);
    T::load(v, head + 2 * channels, 3 * channels, w, at.tile * rows, rows, d);
    const int begin = causal ? at.tile * rows / TILE * TILE : 0;
    load(begin);
    Keys<D> f;
    clear(f.dk), clear(f.dv);
    for (int first = begin; first < n; first += TILE) {
        kx::copy_async_wait<0>();
        __syncthreads();
        if (first + TILE < n) load(first + TILE);
        if (top >= n) continue;
        const int buffer = first / TILE % 2 * TILE, left = min(TILE, n - first);
        for (int c = 0; c < left;) {
            const bf16 *tq = q + (buffer + c) * T::LD, *tg = g + (buffer + c) * T::LD;
            if (left - c > 16) {
                f.template step<4>(score, k + strip, v + strip, tq, tg, row, first + c + column, lse + places, delta + places), c += 32;
            } else {
                f.template step<2>(score, k + strip, v + strip, tq, tg, row, first + c + column, lse + places, delta + places), c += 16;
            }
        }
    }
    if (top >= n) return;
    T::differentiate(f.dk, score.factor * LN2, k + strip, inverse, score.keys_at, top, n);
    T::store(dqkv + channels + h * d, 3 * channels, w, top, d, f.dk, k + strip, add);
    T::store(dqkv + 2 * channels + h * d, 3 * channels, w, top, d, f.dv, v + strip, add);
}

}  // namespace

// Blocks: tiles of 16 places a warp x heads x units (groups for the queries); one to four warps. Shared memory: 32 rows of D + 8 bf16 a warp,
// 256 such rows, and 16 rows of `wide` floats a warp. d <= D.
#define KERNELS(D)                                                                                                             \
    extern "C" __global__ void __launch_bounds__(128) attention_means_##D##_bf16(                                              \
        const bf16* qkv, const float* bias, const float* lse, const bf16* dy, float* delta, PROBLEM) {                         \
        means<D>(qkv, bias, lse, dy, delta, GIVEN);                                                                            \
    }                                                                                                                          \
    KX_EXPORT(attention_means_##D##_bf16)                                                                                      \
    extern "C" __global__ void __launch_bounds__(128) attention_backward_queries_##D##_bf16(                                   \
        const bf16* qkv, const float* bias, const float* lse, const float* delta, const bf16* dy, bf16* dqkv, float* partial,  \
        double* scale_partial, PROBLEM, int groups, int wide, int add) {                                                       \
        backward_queries<D>(qkv, bias, lse, delta, dy, dqkv, partial, scale_partial, GIVEN, groups, wide, add);                \
    }                                                                                                                          \
    KX_EXPORT(attention_backward_queries_##D##_bf16)                                                                           \
    extern "C" __global__ void __launch_bounds__(128) attention_backward_keys_##D##_bf16(                                      \
        const bf16* qkv, const float* bias, const float* lse, const float* delta, const bf16* dy, bf16* dqkv, PROBLEM, int add) { \
        backward_keys<D>(qkv, bias, lse, delta, dy, dqkv, GIVEN, add);                                                         \
    }                                                                                                                          \
    KX_EXPORT(attention_backward_keys_##D##_bf16)

KERNELS(32)
KERNELS(64)
KERNELS(80)
KERNELS(128)
