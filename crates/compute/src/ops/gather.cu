// Rows by index, and the sums of their gradients.
#include "kx.h"

// Does an index name row r? One that is negative, too large or no number names none.
static __device__ __forceinline__ bool names(float index, int r) { return index >= (float)r && index < (float)(r + 1); }

// y [picks, cols]: pick i of sample i / picked is x's row index[i] of that sample, or of all (`shared`). A warp takes a pick.
template <int L, class X, class Y>
static __device__ __forceinline__ void pick(const X* x, const float* index, Y* y, int picks, int picked, int rows, int cols, int shared) {
    const int i = blockIdx.x * 8 + (threadIdx.x >> 5);
    if (i >= picks) return;
    const float at = index[i];
    const bool there = at >= 0.f && at < (float)rows;
    const size_t row = there ? (shared ? 0 : (size_t)(i / picked) * rows) + (int)at : 0;
    for (int c = (threadIdx.x & 31) * L; c < cols; c += 32 * L) {
        float values[L];
        if (there) {
            kx::load<L>(x + row * cols + c, values);
        } else {
#pragma unroll
            for (int j = 0; j < L; j++) values[j] = kx::bits_to_float(0x7fc00000u);
        }
        kx::store<L>(y + (size_t)i * cols + c, values);
    }
}

template <class X, class Y>
static __device__ __forceinline__ void gather(const X* x, const float* index, Y* y, int picks, int picked, int rows, int cols, int shared) {
    if (cols % 8 == 0)
        pick<8>(x, index, y, picks, picked, rows, cols, shared);
    else
        pick<1>(x, index, y, picks, picked, rows, cols, shared);
}

// sum += dy's columns from c on over the picks that name row r, in their order: of 32 picks from `first`, 32 `step` further and so on,
// until there were more than `most`. Returns how many.
template <int L, class Y>
static __device__ __forceinline__ int add_picks(const float* index, const Y* dy, int picks, int r, int first, int step, int most, int c,
                                                int cols, float (&sum)[L]) {
    int count = 0;
    for (; first < picks && count <= most; first += step) {
        const int i = first + (threadIdx.x & 31);
        unsigned hits = __ballot_sync(kx::ALL, i < picks && names(index[i], r));
        count += __popc(hits);
        if (c >= cols) continue;
        for (; hits; hits &= hits - 1) {
            float values[L];
            kx::load<L>(dy + (size_t)(first + __ffs((int)hits) - 1) * cols + c, values);
#pragma unroll
            for (int j = 0; j < L; j++) sum[j] += values[j];
        }
    }
    return count;
}

// dx [lists, rows, cols]: each row the sum of dy over the picks of its list (a sample's, or all) that name it. A warp takes a row. A row
// that more than FEW picks name (a mask token, padding) is left to all warps of the block, each of which takes every eighth 32 picks;
// their sums are added in order.
constexpr int FEW = 16;
template <int L, class X, class Y>
static __device__ __forceinline__ void add_up(const float* index, const Y* dy, X* dx, int lists, int picks, int rows, int cols, int add) {
    KX_SHARED(float, part);  // [8, 32 L], and 8 integers
    int* many = reinterpret_cast<int*>(part + 8 * 32 * L);
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, first_row = blockIdx.x * 8;
    for (int tile = blockIdx.y * 32 * L; tile < cols; tile += gridDim.y * 32 * L) {
        const int c = tile + lane * L;
        int row = first_row + warp, count = 0;
        if (row < lists * rows) {
            const size_t list = row / rows;
            float sum[L] = {};
            count = add_picks(index + list * picks, dy + list * picks * cols, picks, row % rows, 0, 32, FEW, c, cols, sum);
            if (count <= FEW && c < cols) kx::deliver_all<L>(dx + (size_t)row * cols + c, sum, add);
        }
        if (lane == 0) many[warp] = count > FEW;  // the same in every tile
        __syncthreads();
        for (int w = 0; w < 8; w++) {
            if (!many[w]) continue;
            row = first_row + w;
            const size_t list = row / rows;
            float sum[L] = {};
            add_picks(index + list * picks, dy + list * picks * cols, picks, row % rows, 32 * warp, 8 * 32, picks, c, cols, sum);
#pragma unroll
            for (int j = 0; j < L; j++) part[(warp * 32 + lane) * L + j] = sum[j];
            __syncthreads();
            if (warp == w && c < cols) {
                for (int from = 0; from < 8; from++)
#pragma unroll
                    for (int j = 0; j < L; j++) sum[j] = (from ? sum[j] : 0.f) + part[(from * 32 + lane) * L + j];
                kx::deliver_all<L>(dx + (size_t)row * cols + c, sum, add);
            }
            __syncthreads();
        }
    }
}

template <class X, class Y>
static __device__ __forceinline__ void spread(const float* index, const Y* dy, X* dx, int lists, int picks, int rows, int cols, int add) {
    if (cols % 8 == 0)
        add_up<8>(index, dy, dx, lists, picks, rows, cols, add);
    else
        add_up<1>(index, dy, dx, lists, picks, rows, cols, add);
}

#define INSTANCES(X, Y, kinds)                                                                                                              \
    extern "C" __global__ void __launch_bounds__(256) gather_forward_##kinds(const X* x, const float* index, Y* y, int picks, int picked,   \
                                                                             int rows, int cols, int shared) {                              \
        gather(x, index, y, picks, picked, rows, cols, shared);                                                                             \
    }                                                                                                                                       \
    KX_EXPORT(gather_forward_##kinds)                                                                                                       \
    extern "C" __global__ void __launch_bounds__(256) gather_backward_##kinds(const float* index, const Y* dy, X* dx, int lists, int picks, \
                                                                              int rows, int cols, int add) {                                \
        spread(index, dy, dx, lists, picks, rows, cols, add);                                                                               \
    }                                                                                                                                       \
    KX_EXPORT(gather_backward_##kinds)
INSTANCES(float, float, f32)
INSTANCES(kx::bf16, kx::bf16, bf16)
// A table that is no activation and stays f32 (a vocabulary).
INSTANCES(float, kx::bf16, f32_to_bf16)
