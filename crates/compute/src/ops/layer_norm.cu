// LayerNorm. A team of threads has a row: x is read once, y written once; backwards x and dy are read once for dx, dw and db together.
#include "kx.h"

template <class Row, class T>
static __device__ __forceinline__ void forward(const T* x, const float* w, const float* b, T* y, float* mean, float* rstd, int rows,
                                               int cols, int lanes, float eps) {
    constexpr int W = Row::WIDTH;
    KX_SHARED(float, part);
    const kx::Team team(lanes, part);
    const int row = blockIdx.x * team.count() + team.index();
    const size_t at = (size_t)row * cols;
    const Row xs(x + at, team, row < rows ? cols : 0);
    float m, r;
    kx::moments(xs, team, cols, eps, m, r);
    xs.each([&](int, int c, const auto& v) {
        float scale[W], shift[W], out[W];
        if (w) kx::load<W>(w + c, scale), kx::load<W>(b + c, shift);
#pragma unroll
        for (int k = 0; k < W; k++) {
            out[k] = (v[k] - m) * r;
            if (w) out[k] = fmaf(out[k], scale[k], shift[k]);
        }
        kx::store<W>(y + at + c, out);
    });
    if (row < rows && team.lane == 0) mean[row] = m, rstd[row] = r;
}

// Adds up, over the teams of a block, the column sums that each thread has for its share of a row: to [cols]. `part` is cols floats a
// warp, where a block has several teams.
template <class Row>
static __device__ __forceinline__ void column_sums(const float (&sums)[Row::VECTORS][Row::WIDTH], const kx::Team& team, int cols, float* part,
                                                   float* to) {
    constexpr int W = Row::WIDTH;
    const int warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < Row::VECTORS; i++) {
        const int c = (team.lane + i * team.lanes) * W;
        float x[W];
#pragma unroll
        for (int k = 0; k < W; k++) {
            x[k] = sums[i][k];
            for (int o = team.lanes; o < 32; o <<= 1) x[k] += __shfl_xor_sync(kx::ALL, x[k], o);
        }
        if (c >= cols) continue;
        if (team.lanes > 32)
            kx::store<W>(to + c, x);
        else if ((threadIdx.x & 31) < team.lanes)
            kx::store<W>(part + (size_t)warp * cols + c, x);
    }
    if (team.lanes > 32) return;
    __syncthreads();
    for (int c = threadIdx.x; c < cols; c += blockDim.x) {
        float sum = part[c];
        for (int i = 1; i < warps; i++) sum += part[(size_t)i * cols + c];
        to[c] = sum;
    }
}

// A block has `chunk` rows: dx (how 0: not wanted, 1: set, 2: added), and partial [gridDim.x, 2 cols] = the sums of dy x^ and of dy (null: not wanted).
template <class Row, class T>
static __device__ __forceinline__ void backward(const T* x, const T* dy, const float* w, const float* mean, const float* rstd, T* dx,
                                                int how, float* partial, int rows, int cols, int lanes, int chunk) {
    constexpr int W = Row::WIDTH, V = Row::VECTORS;
    constexpr bool kept = W > 1;  // column sums stay in registers
    KX_SHARED(float, part);
    const kx::Team team(lanes, part);
    const int first = blockIdx.x * chunk, end = min(rows, first + chunk);
    float dw[V][W] = {}, db[V][W] = {};
    float* own = partial ? partial + (size_t)blockIdx.x * 2 * cols : nullptr;
    for (int base = first; base < end; base += team.count()) {
        const int row = base + team.index();
        const bool there = row < end;
        const size_t at = (size_t)row * cols;
        const Row xs(x + at, team, there ? cols : 0), ds(dy + at, team, there ? cols : 0);
        const float m = there ? mean[row] : 0.f, r = there ? rstd[row] : 0.f;
        float sums[2] = {0.f, 0.f};
        xs.each([&](int i, int c, const auto& v) {
            float d[W], scale[W];
            ds.get(i, c, d);
            if (w) kx::load<W>(w + c, scale);
#pragma unroll
            for (int k = 0; k < W; k++) {
                const float hat = (v[k] - m) * r, g = w ? d[k] * scale[k] : d[k];
                sums[0] += g;
                sums[1] += g * hat;
                if (kept) dw[i][k] += d[k] * hat, db[i][k] += d[k];
                if (!kept && own) {
                    own[c] = base > first ? own[c] + d[k] * hat : d[k] * hat;
                    own[cols + c] = base > first ? own[cols + c] + d[k] : d[k];
                }
            }
        });
        if (!how) continue;
        team.sum(sums);
        const float mean_g = sums[0] / cols, mean_gx = sums[1] / cols;
        xs.each([&](int i, int c, const auto& v) {
            float d[W], scale[W];
            ds.get(i, c, d);
            if (w) kx::load<W>(w + c, scale);
#pragma unroll
            for (int k = 0; k < W; k++) d[k] = r * ((w ? d[k] * scale[k] : d[k]) - mean_g - (v[k] - m) * r * mean_gx);
            kx::deliver_all<W>(dx + at + c, d, how == 2);
        });
    }
    if (kept && own) {
        column_sums<Row>(dw, team, cols, part, own);
        column_sums<Row>(db, team, cols, part, own + cols);
    }
}

#define LAYER_NORM_FORWARD(name, T, Row)                                                                                          \
    extern "C" __global__ void __launch_bounds__(256)                                                                             \
        layer_norm_forward_##name(const T* x, const float* w, const float* b, T* y, float* mean, float* rstd, int rows, int cols, int lanes, float eps) { \
        forward<Row>(x, w, b, y, mean, rstd, rows, cols, lanes, eps);                                                             \
    }                                                                                                                             \
    KX_EXPORT(layer_norm_forward_##name)
#define LAYER_NORM_BACKWARD(name, T, Row, blocks)                                                                                  \
    extern "C" __global__ void __launch_bounds__(256, blocks)                                                                      \
        layer_norm_backward_##name(const T* x, const T* dy, const float* w, const float* mean, const float* rstd, T* dx, int how, float* partial, int rows, \
             int cols, int lanes, int chunk) {                                                                                     \
        backward<Row>(x, dy, w, mean, rstd, dx, how, partial, rows, cols, lanes, chunk);                                           \
    }                                                                                                                              \
    KX_EXPORT(layer_norm_backward_##name)
// So that macros take them.
template <class T>
using Two = kx::RegisterRow<T, 2>;
template <class T>
using Three = kx::RegisterRow<T, 3>;
template <class T>
using Four = kx::RegisterRow<T, 4>;

LAYER_NORM_FORWARD(f32, float, Four<float>)
LAYER_NORM_FORWARD(bf16, kx::bf16, Four<kx::bf16>)
LAYER_NORM_FORWARD(any_f32, float, kx::MemoryRow<float>)
LAYER_NORM_FORWARD(any_bf16, kx::bf16, kx::MemoryRow<kx::bf16>)
LAYER_NORM_BACKWARD(2_f32, float, Two<float>, 1)
LAYER_NORM_BACKWARD(2_bf16, kx::bf16, Two<kx::bf16>, 2)
LAYER_NORM_BACKWARD(3_f32, float, Three<float>, 1)
LAYER_NORM_BACKWARD(3_bf16, kx::bf16, Three<kx::bf16>, 2)
LAYER_NORM_BACKWARD(any_f32, float, kx::MemoryRow<float>, 1)
LAYER_NORM_BACKWARD(any_bf16, kx::bf16, kx::MemoryRow<kx::bf16>, 1)
