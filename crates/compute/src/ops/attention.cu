// Attention in f32, forward and backward: the formulas of attention.rs, tile by tile, so that nothing of size B·H·n·n is in memory.
// A block owns a tile of queries (or of keys, for dk and dv) of one head and walks over the tiles of the other side. Threads form a
// square of SIDE x SIDE; each owns rows y, y + SIDE, y + 2 SIDE, y + 3 SIDE of every tile, and columns x, x + SIDE, ... likewise. The threads
// of a row lie in one warp. Here every matrix is multiplied by scalar operations; attention_bf16.cu has tensor cores.
//
// Sums have one order: dbias and the gradient of the scales are summed over a group of units (image, window) by one block, in order, and the
// groups by a kernel of their own.
#include "kx.h"

// What every kernel is told, behind its own operands: tokens and regions of the windows, or null; the heads' trained scales and the lengths of
// queries and keys [2, units, H, n], or null and a scale; sizes. A unit is a window of an image.
#define PROBLEM                                                                                                                \
    const unsigned *order, const unsigned char *regions, const float *logit_scale, const float *lengths, float scale, int causal, int units, \
        int windows, int tokens, int n, int heads, int d
#define GIVEN order, regions, logit_scale, lengths, scale, causal, units, windows, tokens, n, heads, d

namespace {

constexpr float MASKED = -100.f;
constexpr float SHORTEST = 1e-12f;
constexpr double LARGEST_LOGIT = 4.605170185988092;  // ln 100

__device__ __forceinline__ float no_score() { return kx::bits_to_float(0xff800000u); }

// One window of one image: where its tokens lie.
struct Window {
    const unsigned* order;
    kx_u64 image;
    int n;
    __device__ Window(const unsigned* all, int unit, int windows, int tokens, int n)
        : order(all ? all + (kx_u64)(unit % windows) * n : nullptr), image((kx_u64)(unit / windows) * tokens), n(n) {}
    __device__ kx_u64 row(int place) const { return image + (order ? order[place] : (unsigned)place); }
};

// What makes scores of the products of queries and keys.
struct Score {
    const float* bias;             // of the head, or null
    const unsigned char* regions;  // of the window, or null
    float factor;
    int n, causal;
    // `raw` gets the score without bias and mask.
    __device__ float of(float dot, int i, int j, float& raw) const {
        raw = dot * factor;
        if (i >= n || j >= n || (causal && j > i)) return no_score();
        float x = raw;
        if (regions) x += regions[i] == regions[j] ? 0.f : MASKED;
        if (bias) x += bias[(kx_u64)i * n + j];
        return x;
    }
};

__device__ __forceinline__ float factor_of(const float* logit_scale, int h, float scale) {
    return logit_scale ? (float)exp(fmin((double)logit_scale[h], LARGEST_LOGIT)) : scale;
}

template <int D, int SIDE>
struct Tiles {
    static constexpr int TILE = 4 * SIDE, LD = D + 4, WIDE = TILE + 4, COLUMNS = D / SIDE;

    // Places first.. of a head's columns `from` to rows of D, zeros beyond n and d; divided by their lengths unless there are none.
    static __device__ void load(float* to, const float* from, int stride, const Window& w, int first, int d, const float* lengths) {
        for (int c = threadIdx.x; c < TILE * (D / 4); c += SIDE * SIDE) {
            const int r = c / (D / 4), col = c % (D / 4) * 4, place = first + r;
            float x[4] = {0.f, 0.f, 0.f, 0.f};
            if (place < w.n && col < d) {
                const float* at = from + w.row(place) * stride + col;
                if (d % 4 == 0) {
                    kx::load_lanes(at, x);
                } else {
                    for (int e = 0; e < 4; e++) x[e] = col + e < d ? at[e] : 0.f;
                }
                if (lengths)
                    for (int e = 0; e < 4; e++) x[e] /= lengths[place];
            }
            kx::store_lanes(to + r * LD + col, x);
        }
    }

    // s = a bᵀ of two tiles.
    static __device__ void products(float (&s)[4][4], const float* a, const float* b) {
        a += threadIdx.x / SIDE * LD, b += threadIdx.x % SIDE * LD;
        for (int i = 0; i < 4; i++)
            for (int j = 0; j < 4; j++) s[i][j] = 0.f;
#pragma unroll 1
        for (int k = 0; k < D; k += 4) {
            float x[4][4], y[4][4];
#pragma unroll
            for (int i = 0; i < 4; i++) kx::load_lanes(a + i * SIDE * LD + k, x[i]), kx::load_lanes(b + i * SIDE * LD + k, y[i]);
#pragma unroll
            for (int e = 0; e < 4; e++)
#pragma unroll
                for (int i = 0; i < 4; i++)
#pragma unroll
                    for (int j = 0; j < 4; j++) s[i][j] = fmaf(x[i][e], y[j][e], s[i][j]);
        }
    }

    // o += p b, p this thread's rows of a tile [TILE, TILE] that the same warp wrote, b [TILE, D].
    static __device__ void accumulate(float (&o)[4][COLUMNS], const float* p, const float* b) {
        p += threadIdx.x / SIDE * WIDE, b += threadIdx.x % SIDE;
#pragma unroll 1
        for (int k = 0; k < TILE; k += 4) {
            float x[4][4];
#pragma unroll
            for (int i = 0; i < 4; i++) kx::load_lanes(p + i * SIDE * WIDE + k, x[i]);
#pragma unroll
            for (int e = 0; e < 4; e++)
#pragma unroll
                for (int c = 0; c < COLUMNS; c++) {
                    const float y = b[(k + e) * LD + c * SIDE];
#pragma unroll
                    for (int i = 0; i < 4; i++) o[i][c] = fmaf(x[i][e], y, o[i][c]);
                }
        }
    }

    static __device__ void clear(float (&o)[4][COLUMNS]) {
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int c = 0; c < COLUMNS; c++) o[i][c] = 0.f;
    }

    // Hands a tile over to the threads of the same rows.
    static __device__ void share(float* p, const float (&s)[4][4]) {
        __syncwarp();
        for (int i = 0; i < 4; i++)
            for (int j = 0; j < 4; j++) p[(threadIdx.x / SIDE + i * SIDE) * WIDE + threadIdx.x % SIDE + j * SIDE] = s[i][j];
        __syncwarp();
    }

    static __device__ float row_sum(float x) {
#pragma unroll
        for (int o = SIDE / 2; o; o >>= 1) x += __shfl_xor_sync(kx::ALL, x, o);
        return x;
    }
    static __device__ float row_max(float x) {
#pragma unroll
        for (int o = SIDE / 2; o; o >>= 1) x = fmaxf(x, __shfl_xor_sync(kx::ALL, x, o));
        return x;
    }

    // dx = factor · o to the head's columns of the tile's rows; for rows that were normalised (`unit` has them, `lengths` what they were
    // divided by), dx = (dx - x̂ (x̂ · dx)) / |x|.
    static __device__ void deliver(float* to, int stride, const Window& w, int first, int d, float (&o)[4][COLUMNS], float factor,
                                   const float* unit, const float* lengths, int add) {
        const int x = threadIdx.x % SIDE;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int r = threadIdx.x / SIDE + i * SIDE, place = first + r;
            float along = 0.f;
#pragma unroll
            for (int c = 0; c < COLUMNS; c++) {
                o[i][c] *= factor;
                if (lengths) along = fmaf(unit[r * LD + x + c * SIDE], o[i][c], along);
            }
            if (lengths) along = row_sum(along);
            if (place >= w.n) continue;
            float* row = to + w.row(place) * stride;
#pragma unroll
            for (int c = 0; c < COLUMNS; c++) {
                const int col = x + c * SIDE;
                if (col >= d) continue;
                float g = o[i][c];
                if (lengths) g = (g - unit[r * LD + col] * (lengths[place] > SHORTEST ? along : 0.f)) / lengths[place];
                kx::deliver(row + col, g, add);
            }
        }
    }
};

template <int D, int SIDE>
__device__ void forward(const float* qkv, const float* bias, float* y, float* lse, PROBLEM) {
    using T = Tiles<D, SIDE>;
    KX_SHARED(float, q);
    float *k = q + T::TILE * T::LD, *v = k + T::TILE * T::LD, *p = v + T::TILE * T::LD;
    const int tiles = (n + T::TILE - 1) / T::TILE;
    const int unit = blockIdx.x % units, tile = blockIdx.x / units % tiles, h = blockIdx.x / units / tiles;
    const int top = tile * T::TILE, channels = heads * d, row = threadIdx.x / SIDE, column = threadIdx.x % SIDE;
    const Window w(order, unit, windows, tokens, n);
    const kx_u64 places = ((kx_u64)unit * heads + h) * n;
    const float *q_lengths = lengths ? lengths + places : nullptr, *k_lengths = lengths ? q_lengths + (kx_u64)units * heads * n : nullptr;
    const Score score{bias ? bias + (kx_u64)h * n * n : nullptr, regions ? regions + (kx_u64)(unit % windows) * n : nullptr,
                      factor_of(logit_scale, h, scale), n, causal};
    T::load(q, qkv + h * d, 3 * channels, w, top, d, q_lengths);
    float best[4], total[4], o[4][T::COLUMNS];
    for (int i = 0; i < 4; i++) best[i] = -1e30f, total[i] = 0.f;
    T::clear(o);
    const int end = causal ? min(n, top + T::TILE) : n;
    for (int first = 0; first < end; first += T::TILE) {
        __syncthreads();
        T::load(k, qkv + channels + h * d, 3 * channels, w, first, d, k_lengths);
        T::load(v, qkv + 2 * channels + h * d, 3 * channels, w, first, d, nullptr);
        __syncthreads();
        float s[4][4];
        T::products(s, q, k);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float now = best[i], raw;
            for (int j = 0; j < 4; j++) {
                s[i][j] = score.of(s[i][j], top + row + i * SIDE, first + column + j * SIDE, raw);
                now = fmaxf(now, s[i][j]);
            }
            now = T::row_max(now);
            const float shrink = expf(best[i] - now);
            float sum = 0.f;
            for (int j = 0; j < 4; j++) sum += s[i][j] = expf(s[i][j] - now);
            total[i] = total[i] * shrink + T::row_sum(sum);
#pragma unroll
            for (int c = 0; c < T::COLUMNS; c++) o[i][c] *= shrink;
            best[i] = now;
        }
        T::share(p, s);
        T::accumulate(o, p, v);
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int place = top + row + i * SIDE;
        if (place >= n) continue;
        float* to = y + w.row(place) * channels + h * d;
#pragma unroll
        for (int c = 0; c < T::COLUMNS; c++)
            if (column + c * SIDE < d) to[column + c * SIDE] = o[i][c] / total[i];
        if (column == 0) lse[places + place] = best[i] + logf(total[i]);
    }
}

// delta of a tile of queries from the probabilities that the gradients are made of, rowsum(P ∘ dP) / rowsum(P): dS then sums to zero in
// every row, which rowsum(dy ∘ y) would not reach where scores are large: rounding the saved lse moves a whole row of P.
template <int D, int SIDE>
__device__ void means(const float* qkv, const float* bias, const float* lse, const float* dy, float* delta, PROBLEM) {
    using T = Tiles<D, SIDE>;
    KX_SHARED(float, q);
    float *g = q + T::TILE * T::LD, *k = g + T::TILE * T::LD, *v = k + T::TILE * T::LD;
    const int tiles = (n + T::TILE - 1) / T::TILE;
    const int unit = blockIdx.x % units, tile = blockIdx.x / units % tiles, h = blockIdx.x / units / tiles;
    const int top = tile * T::TILE, channels = heads * d, row = threadIdx.x / SIDE, column = threadIdx.x % SIDE;
    const Window w(order, unit, windows, tokens, n);
    const kx_u64 places = ((kx_u64)unit * heads + h) * n;
    const float *q_lengths = lengths ? lengths + places : nullptr, *k_lengths = lengths ? q_lengths + (kx_u64)units * heads * n : nullptr;
    const Score score{bias ? bias + (kx_u64)h * n * n : nullptr, regions ? regions + (kx_u64)(unit % windows) * n : nullptr,
                      factor_of(logit_scale, h, scale), n, causal};
    T::load(q, qkv + h * d, 3 * channels, w, top, d, q_lengths);
    T::load(g, dy + h * d, channels, w, top, d, nullptr);
    float sum[4] = {0.f, 0.f, 0.f, 0.f}, total[4] = {0.f, 0.f, 0.f, 0.f};
    for (int first = 0; first < n; first += T::TILE) {
        __syncthreads();
        T::load(k, qkv + channels + h * d, 3 * channels, w, first, d, k_lengths);
        T::load(v, qkv + 2 * channels + h * d, 3 * channels, w, first, d, nullptr);
        __syncthreads();
        float s[4][4], ds[4][4];
        T::products(s, q, k);
        T::products(ds, g, v);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int a = top + row + i * SIDE;
            const float row_lse = lse[places + min(a, n - 1)];
#pragma unroll
            for (int j = 0; j < 4; j++) {
                float raw;
                const float p = expf(score.of(s[i][j], a, first + column + j * SIDE, raw) - row_lse);
                sum[i] = fmaf(p, ds[i][j], sum[i]), total[i] += p;
            }
        }
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const float mean = T::row_sum(sum[i]) / T::row_sum(total[i]);
        if (column == 0 && top + row + i * SIDE < n) delta[places + top + row + i * SIDE] = mean;
    }
}

// dq of a tile of queries for each unit of a group, dS summed over the group to partial [groups, H, n, n], and the group's gradient of the
// head's scale to scale_partial [groups · tiles, H].
template <int D, int SIDE>
__device__ void backward_queries(const float* qkv, const float* bias, const float* lse, const float* delta, const float* dy, float* dqkv,
                                 float* partial, double* scale_partial, PROBLEM, int groups, int add) {
    using T = Tiles<D, SIDE>;
    KX_SHARED(float, q);
    float *g = q + T::TILE * T::LD, *k = g + T::TILE * T::LD, *v = k + T::TILE * T::LD, *p = v + T::TILE * T::LD;
    const int tiles = (n + T::TILE - 1) / T::TILE;
    const int group = blockIdx.x % groups, tile = blockIdx.x / groups % tiles, h = blockIdx.x / groups / tiles;
    const int top = tile * T::TILE, channels = heads * d, row = threadIdx.x / SIDE, column = threadIdx.x % SIDE;
    const int begin = (kx_u64)group * units / groups, stop = ((kx_u64)group + 1) * units / groups;
    const float factor = factor_of(logit_scale, h, scale);
    if (partial) partial += ((kx_u64)group * heads + h) * n * n;
    double all = 0.;
    for (int unit = begin; unit < stop; unit++) {
        const Window w(order, unit, windows, tokens, n);
        const kx_u64 places = ((kx_u64)unit * heads + h) * n;
        const float *q_lengths = lengths ? lengths + places : nullptr, *k_lengths = lengths ? q_lengths + (kx_u64)units * heads * n : nullptr;
        const Score score{bias ? bias + (kx_u64)h * n * n : nullptr, regions ? regions + (kx_u64)(unit % windows) * n : nullptr, factor, n, causal};
        __syncthreads();
        T::load(q, qkv + h * d, 3 * channels, w, top, d, q_lengths);
        T::load(g, dy + h * d, channels, w, top, d, nullptr);
        float row_lse[4], mean[4], o[4][T::COLUMNS];
        float turned = 0.f;
        for (int i = 0; i < 4; i++) {
            const int place = min(top + row + i * SIDE, n - 1);
            row_lse[i] = lse[places + place], mean[i] = delta[places + place];
        }
        T::clear(o);
        for (int first = 0; first < n; first += T::TILE) {
            if (first) __syncthreads();
            T::load(k, qkv + channels + h * d, 3 * channels, w, first, d, k_lengths);
            T::load(v, qkv + 2 * channels + h * d, 3 * channels, w, first, d, nullptr);
            __syncthreads();
            float s[4][4], ds[4][4];
            T::products(s, q, k);
            T::products(ds, g, v);
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    const int a = top + row + i * SIDE, b = first + column + j * SIDE;
                    float raw;
                    const float prob = expf(score.of(s[i][j], a, b, raw) - row_lse[i]);
                    const float x = prob * (ds[i][j] - mean[i]);
                    ds[i][j] = x;
                    if (partial && a < n && b < n) kx::deliver(partial + (kx_u64)a * n + b, x, unit > begin);
                    turned = fmaf(x, raw, turned);
                }
            T::share(p, ds);
            T::accumulate(o, p, k);
        }
        all += (double)turned;
        T::deliver(dqkv + h * d, 3 * channels, w, top, d, o, factor, q, q_lengths, add);
    }
    if (!scale_partial) return;
    __syncthreads();
    double* parts = reinterpret_cast<double*>(q);
    parts[threadIdx.x] = all;
    __syncthreads();
    if (threadIdx.x) return;
    for (int i = 1; i < SIDE * SIDE; i++) all += parts[i];
    scale_partial[((kx_u64)group * tiles + tile) * heads + h] = all;
}

// dk and dv of a tile of keys.
template <int D, int SIDE>
__device__ void backward_keys(const float* qkv, const float* bias, const float* lse, const float* delta, const float* dy, float* dqkv,
                              PROBLEM, int add) {
    using T = Tiles<D, SIDE>;
    KX_SHARED(float, k);
    float *v = k + T::TILE * T::LD, *q = v + T::TILE * T::LD, *g = q + T::TILE * T::LD, *p = g + T::TILE * T::LD;
    const int tiles = (n + T::TILE - 1) / T::TILE;
    const int unit = blockIdx.x % units, tile = blockIdx.x / units % tiles, h = blockIdx.x / units / tiles;
    const int top = tile * T::TILE, channels = heads * d, row = threadIdx.x / SIDE, column = threadIdx.x % SIDE;
    const Window w(order, unit, windows, tokens, n);
    const kx_u64 places = ((kx_u64)unit * heads + h) * n;
    const float *q_lengths = lengths ? lengths + places : nullptr, *k_lengths = lengths ? q_lengths + (kx_u64)units * heads * n : nullptr;
    const float factor = factor_of(logit_scale, h, scale);
    const Score score{bias ? bias + (kx_u64)h * n * n : nullptr, regions ? regions + (kx_u64)(unit % windows) * n : nullptr, factor, n, causal};
    T::load(k, qkv + channels + h * d, 3 * channels, w, top, d, k_lengths);
    T::load(v, qkv + 2 * channels + h * d, 3 * channels, w, top, d, nullptr);
    float dk[4][T::COLUMNS], dv[4][T::COLUMNS];
    T::clear(dk), T::clear(dv);
    for (int first = 0; first < n; first += T::TILE) {
        if (causal && first + T::TILE <= top) continue;
        __syncthreads();
        T::load(q, qkv + h * d, 3 * channels, w, first, d, q_lengths);
        T::load(g, dy + h * d, channels, w, first, d, nullptr);
        __syncthreads();
        float s[4][4], ds[4][4];
        T::products(s, k, q);
        T::products(ds, v, g);
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const int a = first + column + j * SIDE, place = min(a, n - 1);
            const float row_lse = lse[places + place], mean = delta[places + place];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                float raw;
                s[i][j] = expf(score.of(s[i][j], a, top + row + i * SIDE, raw) - row_lse);
                ds[i][j] = s[i][j] * (ds[i][j] - mean);
            }
        }
        T::share(p, s);
        T::accumulate(dv, p, g);
        T::share(p, ds);
        T::accumulate(dk, p, q);
    }
    T::deliver(dqkv + channels + h * d, 3 * channels, w, top, d, dk, factor, k, k_lengths, add);
    T::deliver(dqkv + 2 * channels + h * d, 3 * channels, w, top, d, dv, 1.f, nullptr, nullptr, add);
}

}  // namespace

// Blocks: tiles of 4 SIDE places x heads x units (groups for the queries of the backward pass); threads SIDE²; shared memory: three tiles
// [4 SIDE, D + 4] forward, four backward, and one [4 SIDE, 4 SIDE + 4] but for the means. d <= D.
#define KERNELS(D, SIDE)                                                                                                       \
    extern "C" __global__ void __launch_bounds__(SIDE* SIDE)                                                                   \
        attention_forward_##D##_f32(const float* qkv, const float* bias, float* y, float* lse, PROBLEM) {                      \
        forward<D, SIDE>(qkv, bias, y, lse, GIVEN);                                                                            \
    }                                                                                                                          \
    KX_EXPORT(attention_forward_##D##_f32)                                                                                     \
    extern "C" __global__ void __launch_bounds__(SIDE* SIDE) attention_means_##D##_f32(                                        \
        const float* qkv, const float* bias, const float* lse, const float* dy, float* delta, PROBLEM) {                       \
        means<D, SIDE>(qkv, bias, lse, dy, delta, GIVEN);                                                                      \
    }                                                                                                                          \
    KX_EXPORT(attention_means_##D##_f32)                                                                                       \
    extern "C" __global__ void __launch_bounds__(SIDE* SIDE) attention_backward_queries_##D##_f32(                             \
        const float* qkv, const float* bias, const float* lse, const float* delta, const float* dy, float* dqkv, float* partial, \
        double* scale_partial, PROBLEM, int groups, int add) {                                                                 \
        backward_queries<D, SIDE>(qkv, bias, lse, delta, dy, dqkv, partial, scale_partial, GIVEN, groups, add);                \
    }                                                                                                                          \
    KX_EXPORT(attention_backward_queries_##D##_f32)                                                                            \
    extern "C" __global__ void __launch_bounds__(SIDE* SIDE) attention_backward_keys_##D##_f32(                                \
        const float* qkv, const float* bias, const float* lse, const float* delta, const float* dy, float* dqkv, PROBLEM, int add) { \
        backward_keys<D, SIDE>(qkv, bias, lse, delta, dy, dqkv, GIVEN, add);                                                   \
    }                                                                                                                          \
    KX_EXPORT(attention_backward_keys_##D##_f32)

KERNELS(32, 16)
KERNELS(64, 16)
KERNELS(80, 8)
KERNELS(128, 8)
