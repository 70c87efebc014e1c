// Rows of unit length: a team of threads has a row, and reads it once.
#include "kx.h"

constexpr float FLOOR = 1e-12f;

template <class Row, class T>
static __device__ __forceinline__ void forward(const T* x, T* y, int rows, int cols, int lanes) {
    constexpr int W = Row::WIDTH;
    KX_SHARED(float, part);
    const kx::Team team(lanes, part);
    const int row = blockIdx.x * team.count() + team.index();
    const size_t at = (size_t)row * cols;
    const Row xs(x + at, team, row < rows ? cols : 0);
    float squares = 0.f;
    xs.each([&](int, int, const auto& v) {
#pragma unroll
        for (int k = 0; k < W; k++) squares = fmaf(v[k], v[k], squares);
    });
    const float inverse = 1.f / fmaxf(sqrtf(team.sum(squares)), FLOOR);
    xs.each([&](int, int c, const auto& v) {
        float out[W];
#pragma unroll
        for (int k = 0; k < W; k++) out[k] = v[k] * inverse;
        kx::store<W>(y + at + c, out);
    });
}

template <class Row, class T>
static __device__ __forceinline__ void backward(const T* x, const T* dy, T* dx, int add, int rows, int cols, int lanes) {
    constexpr int W = Row::WIDTH;
    KX_SHARED(float, part);
    const kx::Team team(lanes, part);
    const int row = blockIdx.x * team.count() + team.index(), there = row < rows ? cols : 0;
    const size_t at = (size_t)row * cols;
    const Row xs(x + at, team, there), ds(dy + at, team, there);
    float sums[2] = {0.f, 0.f};
    xs.each([&](int i, int c, const auto& v) {
        float d[W];
        ds.get(i, c, d);
#pragma unroll
        for (int k = 0; k < W; k++) sums[0] = fmaf(v[k], v[k], sums[0]), sums[1] = fmaf(v[k], d[k], sums[1]);
    });
    team.sum(sums);
    const float inverse = 1.f / fmaxf(sqrtf(sums[0]), FLOOR), along = sums[1] * inverse * inverse;
    xs.each([&](int i, int c, const auto& v) {
        float d[W];
        ds.get(i, c, d);
#pragma unroll
        for (int k = 0; k < W; k++) d[k] = (d[k] - v[k] * along) * inverse;
        kx::deliver_all<W>(dx + at + c, d, add);
    });
}

template <class T>
using Four = kx::RegisterRow<T, 4>;

#define L2_NORMALISE(name, T, Row)                                                                             \
    extern "C" __global__ void __launch_bounds__(256)                                                          \
        l2_normalise_forward_##name(const T* x, T* y, int rows, int cols, int lanes) {                         \
        forward<Row<T>>(x, y, rows, cols, lanes);                                                              \
    }                                                                                                          \
    KX_EXPORT(l2_normalise_forward_##name)                                                                     \
    extern "C" __global__ void __launch_bounds__(256)                                                          \
        l2_normalise_backward_##name(const T* x, const T* dy, T* dx, int add, int rows, int cols, int lanes) { \
        backward<Row<T>>(x, dy, dx, add, rows, cols, lanes);                                                   \
    }                                                                                                          \
    KX_EXPORT(l2_normalise_backward_##name)
L2_NORMALISE(f32, float, Four)
L2_NORMALISE(bf16, kx::bf16, Four)
L2_NORMALISE(any_f32, float, kx::MemoryRow)
L2_NORMALISE(any_bf16, kx::bf16, kx::MemoryRow)
