// Attention in bf16 on tensor cores, forward: the formulas of attention.rs, tile by tile, so that nothing of size B·H·n·n is in memory.
#include "attention_tiles.h"

namespace {

template <int D>
struct Forward {
    typename Tiles<D>::Rows q;
    typename Tiles<D>::Sums o;
    float best[2] = {-1e30f, -1e30f}, total[2] = {0.f, 0.f};

    // Adds 8 PARTS keys.
    template <int PARTS>
    __device__ __forceinline__ void step(const Score& score, const bf16* k, const bf16* v, int row, int column) {
        float s[PARTS][4], x[PARTS][4];
        score.template adjustments<false>(x, row, column);
        Tiles<D>::products(s, q, k);
        score.scale_both(s, score.queries_at, score.keys_at, row, column);
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float now = best[half];
#pragma unroll
            for (int j = 0; j < PARTS; j++)
#pragma unroll
                for (int e = 2 * half; e < 2 * half + 2; e++) now = fmaxf(now, s[j][e] = fmaf(s[j][e], score.factor, x[j][e]));
            now = row_max(now);
            const float shrink = exp2f(best[half] - now);
            best[half] = now;
            total[half] *= shrink;
#pragma unroll
            for (int j = 0; j < PARTS; j++)
#pragma unroll
                for (int e = 2 * half; e < 2 * half + 2; e++) total[half] += s[j][e] = exp2f(s[j][e] - now);
#pragma unroll
            for (int j = 0; j < D / 8; j++) o[j][2 * half] *= shrink, o[j][2 * half + 1] *= shrink;
        }
        Tiles<D>::accumulate(o, s, v);
    }
};

template <int D>
__device__ __forceinline__ void forward(const bf16* qkv, const float* bias, bf16* y, float* lse, PROBLEM) {
    using T = Tiles<D>;
    KX_SHARED(bf16, q);
    const int rows = blockDim.x / 2, warp = threadIdx.x / 32, channels = heads * d, tiles = (n + rows - 1) / rows;
    bf16 *k = q + rows * T::LD, *v = k + 2 * TILE * T::LD, *strip = q + 16 * warp * T::LD;
    const Place at(tiles, units, bias != nullptr);
    const int top = at.tile * rows + 16 * warp, row = top + lane_id() / 4, column = 2 * (lane_id() & 3);
    const Window w(order, at.unit, windows, tokens, n);
    const Score score(bias, regions, logit_scale, inverse, scale, causal, units, at.unit, windows, n, heads, at.h);
    const bf16* head = qkv + at.h * d;
    const auto load = [&](int first) {
        const int buffer = first / TILE % 2 * TILE * T::LD;
        T::load(k + buffer, head + channels, 3 * channels, w, first, TILE, d);
        T::load(v + buffer, head + 2 * channels, 3 * channels, w, first, TILE, d);
        kx::copy_async_commit();
    };
    Forward<D> f;
    clear(f.o);
    const int end = causal ? min(n, at.tile * rows + rows) : n;
    T::load(q, head, 3 * channels, w, at.tile * rows, rows, d);
    load(0);
    for (int first = 0; first < end; first += TILE) {
        kx::copy_async_wait<0>();
        __syncthreads();
        if (first + TILE < end) load(first + TILE);
        if (first == 0) T::hold(f.q, strip);
        if (top >= n) continue;
        const int buffer = first / TILE % 2 * TILE, left = min(TILE, end - first);
        for (int c = 0; c < left;) {
            const bf16 *tk = k + (buffer + c) * T::LD, *tv = v + (buffer + c) * T::LD;
            if (left - c > 16) {
                f.template step<4>(score, tk, tv, row, first + c + column), c += 32;
            } else {
                f.template step<2>(score, tk, tv, row, first + c + column), c += 16;
            }
        }
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        f.total[half] = row_sum(f.total[half]);
        const float inverse_total = 1.f / f.total[half];
#pragma unroll
        for (int j = 0; j < D / 8; j++) f.o[j][2 * half] *= inverse_total, f.o[j][2 * half + 1] *= inverse_total;
        if (column == 0 && row + 8 * half < n)
            lse[((kx_u64)at.unit * heads + at.h) * n + row + 8 * half] = (f.best[half] + log2f(f.total[half])) * LN2;
    }
    T::store(y + at.h * d, channels, w, top, d, f.o, strip, 0);
}

}  // namespace

// Blocks: tiles of 16 places a warp x heads x units; one to seven warps (four for wide heads); shared memory: 16 rows of D + 8 bf16 a warp,
// and 256 such rows. d <= D.
#define KERNELS(D)                                                                                                             \
    extern "C" __global__ void __launch_bounds__(D <= 64 ? 224 : 128, D <= 64 ? 2 : 1)                                         \
        attention_forward_##D##_bf16(const bf16* qkv, const float* bias, bf16* y, float* lse, PROBLEM) {                       \
        forward<D>(qkv, bias, y, lse, GIVEN);                                                                                  \
    }                                                                                                                          \
    KX_EXPORT(attention_forward_##D##_bf16)

KERNELS(32)
KERNELS(64)
KERNELS(80)
KERNELS(128)
