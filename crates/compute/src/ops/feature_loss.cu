// Distances between features: a team of threads has a row of both operands, reads each once, and whitens the target as it goes.
#include "kx.h"

// Distances, as feature_loss/cuda.rs numbers them; 0 is smooth L1.
constexpr int L1 = 1, MSE = 2, COSINE = 3;
// |x| of cosine similarity is at least this.
constexpr float COSINE_FLOOR = 1e-8f;

// Value and slope of one element's distance.
static __device__ __forceinline__ void element(int distance, float beta, float d, float& value, float& slope) {
    const float a = fabsf(d), sign = d > 0.f ? 1.f : d < 0.f ? -1.f : 0.f;
    if (distance == MSE) {
        value = d * d, slope = d + d;
    } else if (distance == L1) {
        value = a, slope = sign;
    } else {
        const bool near = a <= beta;
        value = near ? 0.5f * d * d / beta : a - 0.5f * beta;
        slope = near ? d / beta : sign;
    }
}

struct Cosine {
    float cos, p_norm, t_norm;
};
template <class P, class T>
static __device__ __forceinline__ Cosine cosine(const P& p, const T& t, const kx::Team& team, float m, float r) {
    constexpr int W = T::WIDTH;
    float sums[3] = {0.f, 0.f, 0.f};  // p t, t t, p p
    t.each([&](int i, int c, const auto& v) {
        float q[W];
        p.get(i, c, q);
#pragma unroll
        for (int k = 0; k < W; k++) {
            const float u = (v[k] - m) * r;
            sums[0] = fmaf(q[k], u, sums[0]);
            sums[1] = fmaf(u, u, sums[1]);
            sums[2] = fmaf(q[k], q[k], sums[2]);
        }
    });
    team.sum(sums);
    const float p_norm = fmaxf(sqrtf(sums[2]), COSINE_FLOOR), t_norm = fmaxf(sqrtf(sums[1]), COSINE_FLOOR);
    return Cosine{sums[0] / (p_norm * t_norm), p_norm, t_norm};
}

// partial [gridDim.x] = the sums of the distances of `chunk` rows each; eps < 0: the target is not whitened.
template <class PRow, class TRow, class P, class T>
static __device__ __forceinline__ void forward(const P* pred, const T* target, float* partial, int rows, int cols, int lanes, int chunk,
                                               int distance, float beta, float eps) {
    constexpr int W = TRow::WIDTH;
    KX_SHARED(float, part);
    const kx::Team team(lanes, part);
    const int first = blockIdx.x * chunk, end = min(rows, first + chunk);
    float sum = 0.f;
    for (int base = first; base < end; base += team.count()) {
        const int row = base + team.index(), wide = row < end ? cols : 0;
        const TRow t(target + (size_t)row * cols, team, wide);
        const PRow p(pred + (size_t)row * cols, team, wide);
        float m = 0.f, r = 1.f;
        if (eps >= 0.f) kx::moments(t, team, cols, eps, m, r);
        if (distance == COSINE) {
            const Cosine of = cosine(p, t, team, m, r);
            if (wide && team.lane == 0) sum += 1.f - of.cos;
            continue;
        }
        t.each([&](int i, int c, const auto& v) {
            float q[W], value, slope;
            p.get(i, c, q);
#pragma unroll
            for (int k = 0; k < W; k++) {
                element(distance, beta, q[k] - (v[k] - m) * r, value, slope);
                sum += value;
            }
        });
    }
    __syncthreads();
    sum = kx::block_sum(sum, part);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// The prediction's gradient: seed / count times the slopes; set or added.
template <class PRow, class TRow, class P, class T>
static __device__ __forceinline__ void backward(const P* pred, const T* target, const float* seed, double count, P* dpred, int add, int rows,
                                                int cols, int lanes, int distance, float beta, float eps) {
    constexpr int W = TRow::WIDTH;
    KX_SHARED(float, part);
    const kx::Team team(lanes, part);
    const int row = blockIdx.x * team.count() + team.index(), wide = row < rows ? cols : 0;
    const size_t at = (size_t)row * cols;
    const TRow t(target + at, team, wide);
    const PRow p(pred + at, team, wide);
    const float g = (float)((double)*seed / count);
    float m = 0.f, r = 1.f;
    if (eps >= 0.f) kx::moments(t, team, cols, eps, m, r);
    float radial = 0.f, across = 0.f;
    if (distance == COSINE) {
        const Cosine of = cosine(p, t, team, m, r);
        // Below the floor |p| is a constant.
        radial = of.p_norm > COSINE_FLOOR ? of.cos / (of.p_norm * of.p_norm) : 0.f;
        across = 1.f / (of.p_norm * of.t_norm);
    }
    t.each([&](int i, int c, const auto& v) {
        float q[W], value, slope;
        p.get(i, c, q);
#pragma unroll
        for (int k = 0; k < W; k++) {
            const float u = (v[k] - m) * r;
            if (distance == COSINE)
                slope = q[k] * radial - u * across;
            else
                element(distance, beta, q[k] - u, value, slope);
            q[k] = g * slope;
        }
        kx::deliver_all<W>(dpred + at + c, q, add);
    });
}

template <class T>
using Four = kx::RegisterRow<T, 4>;

#define FEATURE_LOSS(name, P, T, Row)                                                                                                   \
    extern "C" __global__ void __launch_bounds__(256)                                                                                   \
        feature_loss_forward_##name(const P* pred, const T* target, float* partial, int rows, int cols, int lanes, int chunk, int distance, \
                                    float beta, float eps) {                                                                            \
        forward<Row<P>, Row<T>>(pred, target, partial, rows, cols, lanes, chunk, distance, beta, eps);                                  \
    }                                                                                                                                   \
    KX_EXPORT(feature_loss_forward_##name)                                                                                              \
    extern "C" __global__ void __launch_bounds__(256)                                                                                   \
        feature_loss_backward_##name(const P* pred, const T* target, const float* seed, double count, P* dpred, int add, int rows, int cols, \
                                     int lanes, int distance, float beta, float eps) {                                                  \
        backward<Row<P>, Row<T>>(pred, target, seed, count, dpred, add, rows, cols, lanes, distance, beta, eps);                        \
    }                                                                                                                                   \
    KX_EXPORT(feature_loss_backward_##name)
// By the types of prediction and target.
FEATURE_LOSS(f32, float, float, Four)
FEATURE_LOSS(bf16, kx::bf16, kx::bf16, Four)
FEATURE_LOSS(to_f32_bf16, kx::bf16, float, Four)
FEATURE_LOSS(to_bf16_f32, float, kx::bf16, Four)
FEATURE_LOSS(any_f32, float, float, kx::MemoryRow)
FEATURE_LOSS(any_bf16, kx::bf16, kx::bf16, kx::MemoryRow)
FEATURE_LOSS(any_to_f32_bf16, kx::bf16, float, kx::MemoryRow)
FEATURE_LOSS(any_to_bf16_f32, float, kx::bf16, kx::MemoryRow)
