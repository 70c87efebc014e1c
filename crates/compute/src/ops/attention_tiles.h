// Attention in bf16 on tensor cores: what its forward and backward kernels are made of.
//
// A warp owns a strip of 16 queries (of 16 keys, for dk and dv) of one head; its block's warps share the tiles of the other side, which are
// copied asynchronously, one ahead. Products are accumulated in f32; probabilities and score gradients are rounded to bf16 where they become
// operands, as in FlashAttention. Scores are in units of log2, so that exp2 is all the softmax needs. Normalised queries and keys (cosine
// attention) stay as they are in memory: their inverse lengths go into the scores.
#pragma once
#include "kx.h"

// What every kernel of attention is told, behind its own operands: tokens and regions of the windows, or null; the heads' trained scales and
// one over the lengths of queries and keys [2, units, H, n], or null and a scale; sizes. A unit is a window of an image.
#define PROBLEM                                                                                                                \
    const unsigned *order, const unsigned char *regions, const float *logit_scale, const float *inverse, float scale, int causal, int units, \
        int windows, int tokens, int n, int heads, int d
#define GIVEN order, regions, logit_scale, inverse, scale, causal, units, windows, tokens, n, heads, d

namespace {

using kx::bf16;

constexpr int TILE = 64;  // rows of a shared tile
constexpr float LOG2E = 1.4426950408889634f, LN2 = 0.6931471805599453f;
constexpr float MASKED = -100.f * LOG2E;
constexpr float NO_DIRECTION = 1e12f;  // the inverse length of a vector that was too short to be normalised

// One window of one image: where its tokens lie.
struct Window {
    const unsigned* order;  // of all windows, or null
    unsigned at, image;
    int n;
    __device__ Window(const unsigned* order, int unit, int windows, int tokens, int n)
        : order(order), at(unit % windows * n), image(unit / windows * tokens), n(n) {}
    __device__ kx_u64 row(int place) const { return image + (order ? order[at + place] : (unsigned)place); }
};

__device__ __forceinline__ int lane_id() { return threadIdx.x & 31; }

// Two products of 16 x 8 with the two halves of a 16 x 16 right operand.
__device__ __forceinline__ void mma_both(float (&left)[4], float (&right)[4], const unsigned (&a)[4], const unsigned (&b)[4]) {
    const unsigned low[2] = {b[0], b[1]}, high[2] = {b[2], b[3]};
    kx::mma_bf16(left, a, low);
    kx::mma_bf16(right, a, high);
}

// A fragment of a result: element e of part j is row g + 8 (e / 2), column 8 j + q + e % 2, with g = lane / 4 and q = 2 (lane % 4).
template <int PARTS>
__device__ __forceinline__ void clear(float (&s)[PARTS][4]) {
#pragma unroll
    for (int j = 0; j < PARTS; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) s[j][e] = 0.f;
}

// Over the four lanes that share a row.
__device__ __forceinline__ float row_sum(float x) {
    x += __shfl_xor_sync(kx::ALL, x, 1);
    return x + __shfl_xor_sync(kx::ALL, x, 2);
}
__device__ __forceinline__ float row_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(kx::ALL, x, 1));
    return fmaxf(x, __shfl_xor_sync(kx::ALL, x, 2));
}

// What is added to the products of queries and keys, and what they are multiplied by. Pointers are the kernel's own, which take no
// registers; where the head, the window and the unit begin is kept beside them.
struct Score {
    const float* bias;             // or null
    const unsigned char* regions;  // or null
    const float* inverse;          // one over the lengths of queries and keys, or null
    unsigned bias_at, regions_at, queries_at, keys_at;
    float factor;
    int n, causal;

    __device__ Score(const float* bias, const unsigned char* regions, const float* logit_scale, const float* inverse, float scale, int causal,
                     int units, int unit, int windows, int n, int heads, int h)
        : bias(bias),
          regions(regions),
          inverse(inverse),
          bias_at(h * n * n),
          regions_at(unit % windows * n),
          queries_at((unit * heads + h) * n),
          keys_at(((units + unit) * heads + h) * n),
          factor(LOG2E * (logit_scale ? expf(fminf(logit_scale[h], 4.6051702f)) : scale)),
          n(n),
          causal(causal) {}

    // Bias and masks of a fragment whose first row and column this lane has; rows are keys if KEYS_DOWN.
    template <bool KEYS_DOWN, int PARTS>
    __device__ __forceinline__ void adjustments(float (&x)[PARTS][4], int row, int column) const {
        clear(x);
        const int rows[2] = {min(row, n - 1), min(row + 8, n - 1)};
        if (bias) {
#pragma unroll
            for (int j = 0; j < PARTS; j++)
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    const int c = min(column + 8 * j + e % 2, n - 1);
                    x[j][e] = bias[bias_at + (KEYS_DOWN ? c * n + rows[e / 2] : rows[e / 2] * n + c)] * LOG2E;
                }
        }
        if (regions) {
            const int own[2] = {regions[regions_at + rows[0]], regions[regions_at + rows[1]]};
#pragma unroll
            for (int j = 0; j < PARTS; j++)
#pragma unroll
                for (int e = 0; e < 4; e++)
                    if (own[e / 2] != regions[regions_at + min(column + 8 * j + e % 2, n - 1)]) x[j][e] += MASKED;
        }
        if (causal || column + 8 * PARTS > n) {
#pragma unroll
            for (int j = 0; j < PARTS; j++)
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    const int r = row + 8 * (e / 2), c = column + 8 * j + e % 2;
                    if (c >= n || (causal && (KEYS_DOWN ? r > c : c > r))) x[j][e] = kx::bits_to_float(0xff800000u);
                }
        }
    }

    // Multiplies a fragment's columns by one over the lengths of their queries or keys.
    template <int PARTS>
    __device__ __forceinline__ void scale_columns(float (&s)[PARTS][4], unsigned lengths_at, int column) const {
#pragma unroll
        for (int j = 0; j < PARTS; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) s[j][e] *= inverse[lengths_at + min(column + 8 * j + e % 2, n - 1)];
    }

    // The same for rows and columns, where queries and keys are normalised.
    template <int PARTS>
    __device__ __forceinline__ void scale_both(float (&s)[PARTS][4], unsigned rows_at, unsigned columns_at, int row, int column) const {
        if (!inverse) return;
        const float own[2] = {inverse[rows_at + min(row, n - 1)], inverse[rows_at + min(row + 8, n - 1)]};
        scale_columns(s, columns_at, column);
#pragma unroll
        for (int j = 0; j < PARTS; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) s[j][e] *= own[e / 2];
    }
};

template <int D>
struct Tiles {
    static constexpr int LD = D + 8;  // a row's length in shared memory: eight rows of 16 bytes lie in different banks
    typedef float Sums[D / 8][4];
    typedef unsigned Rows[D / 16][4];

    // `rows` places from `first` on of a head's columns `from`, zeros beyond n and d. There after the copies' wait and a barrier.
    static __device__ __forceinline__ void load(bf16* to, const bf16* from, int stride, const Window& w, int first, int rows, int d) {
        for (int c = threadIdx.x; c < rows * (D / 8); c += blockDim.x) {
            const int r = c / (D / 8), col = c % (D / 8) * 8, place = first + r;
            bf16* at = to + r * LD + col;
            if (place >= w.n || col >= d) {
                *reinterpret_cast<uint4*>(at) = uint4{0, 0, 0, 0};
                continue;
            }
            const bf16* x = from + w.row(place) * stride + col;
            if (d % 8 == 0) {
                kx::copy_async16(at, x);
            } else {
                for (int e = 0; e < 8; e++) at[e] = col + e < d ? x[e] : bf16{0};
            }
        }
    }

    // A strip of 16 rows as left operands.
    static __device__ __forceinline__ void hold(Rows& a, const bf16* strip) {
        strip += (lane_id() & 15) * LD + lane_id() / 16 * 8;
#pragma unroll
        for (int k = 0; k < D / 16; k++) kx::load_matrix4(a[k], strip + 16 * k);
    }

    // s = a bᵀ with 8 PARTS rows of a shared tile.
    template <int PARTS>
    static __device__ __forceinline__ void products(float (&s)[PARTS][4], const Rows& a, const bf16* b) {
        clear(s);
        b += (lane_id() / 16 * 8 + (lane_id() & 7)) * LD + (lane_id() >> 3 & 1) * 8;
#pragma unroll
        for (int k = 0; k < D / 16; k++)
#pragma unroll
            for (int j = 0; j < PARTS; j += 2) {
                unsigned r[4];
                kx::load_matrix4(r, b + 8 * j * LD + 16 * k);
                mma_both(s[j], s[j + 1], a[k], r);
            }
    }

    // o += p b with 8 PARTS rows of a shared tile, p rounded.
    template <int PARTS>
    static __device__ __forceinline__ void accumulate(Sums& o, const float (&p)[PARTS][4], const bf16* b) {
        b += (lane_id() & 15) * LD + lane_id() / 16 * 8;
#pragma unroll
        for (int j = 0; j < PARTS; j += 2) {
            const unsigned a[4] = {kx::pack_bf16(p[j][0], p[j][1]), kx::pack_bf16(p[j][2], p[j][3]), kx::pack_bf16(p[j + 1][0], p[j + 1][1]),
                                   kx::pack_bf16(p[j + 1][2], p[j + 1][3])};
#pragma unroll
            for (int k = 0; k < D / 16; k++) {
                unsigned r[4];
                kx::load_matrix4_transposed(r, b + 8 * j * LD + 16 * k);
                mma_both(o[2 * k], o[2 * k + 1], a, r);
            }
        }
    }

    // A strip of results to the head's columns of its places, by way of the strip's rows in shared memory.
    static __device__ __forceinline__ void store(bf16* to, int stride, const Window& w, int first, int d, const Sums& o, bf16* strip, int add) {
        // Each lane overwrites what it alone has read since the strip was loaded.
#pragma unroll
        for (int j = 0; j < D / 8; j++)
#pragma unroll
            for (int half = 0; half < 2; half++)
                *reinterpret_cast<unsigned*>(strip + (lane_id() / 4 + 8 * half) * LD + 8 * j + 2 * (lane_id() & 3)) =
                    kx::pack_bf16(o[j][2 * half], o[j][2 * half + 1]);
        __syncwarp();
        for (int c = lane_id(); c < 16 * (D / 8); c += 32) {
            const int r = c / (D / 8), col = c % (D / 8) * 8, place = first + r;
            if (place >= w.n || col >= d) continue;
            bf16* x = to + w.row(place) * stride + col;
            if (d % 8 == 0 && !add) {
                *reinterpret_cast<uint4*>(x) = *reinterpret_cast<const uint4*>(strip + r * LD + col);
            } else {
                for (int e = 0; e < 8 && col + e < d; e++) kx::deliver(x + e, kx::widen(strip[r * LD + col + e]), add);
            }
        }
    }

    // dx from the sums o: factor · o; for rows that were normalised, with x̂ = inverse · x: (dx̂ - x̂ (x̂ · dx̂)) · inverse.
    static __device__ __forceinline__ void differentiate(Sums& o, float factor, const bf16* strip, const float* inverse, unsigned lengths_at,
                                                     int first, int n) {
#pragma unroll
        for (int j = 0; j < D / 8; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) o[j][e] *= factor;
        if (!inverse) return;
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int r = lane_id() / 4 + 8 * half;
            const unsigned* x = reinterpret_cast<const unsigned*>(strip + r * LD + 2 * (lane_id() & 3));
            const float own = inverse[lengths_at + min(first + r, n - 1)];
            float along = 0.f;
#pragma unroll
            for (int j = 0; j < D / 8; j++)
                along = fmaf(kx::low_of(x[4 * j]), o[j][2 * half], fmaf(kx::high_of(x[4 * j]), o[j][2 * half + 1], along));
            along = row_sum(along) * (own < NO_DIRECTION ? own * own : 0.f);
#pragma unroll
            for (int j = 0; j < D / 8; j++) {
                o[j][2 * half] = (o[j][2 * half] - kx::low_of(x[4 * j]) * along) * own;
                o[j][2 * half + 1] = (o[j][2 * half + 1] - kx::high_of(x[4 * j]) * along) * own;
            }
        }
    }
};

// (tile, head, unit) of a block; see the top for their order.
struct Place {
    int tile, h, unit;
    __device__ Place(int tiles, int units, bool units_first) {
        const int x = blockIdx.x;
        tile = units_first ? x / units % tiles : x % tiles;
        unit = units_first ? x % units : x / tiles % units;
        h = x / units / tiles;
    }
};

}  // namespace
