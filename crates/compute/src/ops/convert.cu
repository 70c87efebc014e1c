// Between f32 and bf16, and filling. Sixteen bytes at a time where all addresses are multiples of 16; any grid of blocks of 256.
#include "kx.h"

namespace {

constexpr int EIGHT = 8;

__device__ __forceinline__ void load_eight(const float* p, float (&x)[EIGHT]) {
    float low[4], high[4];
    kx::load_lanes(p, low);
    kx::load_lanes(p + 4, high);
#pragma unroll
    for (int i = 0; i < 4; i++) x[i] = low[i], x[4 + i] = high[i];
}
__device__ __forceinline__ void load_eight(const kx::bf16* p, float (&x)[EIGHT]) { kx::load_lanes(p, x); }

__device__ __forceinline__ void store_eight(float* p, const float (&x)[EIGHT]) {
    const float low[4] = {x[0], x[1], x[2], x[3]}, high[4] = {x[4], x[5], x[6], x[7]};
    kx::store_lanes(p, low);
    kx::store_lanes(p + 4, high);
}
__device__ __forceinline__ void store_eight(kx::bf16* p, const float (&x)[EIGHT]) { kx::store_lanes(p, x); }

// This thread's place among all of the grid, and how many there are.
__device__ __forceinline__ kx_u64 place() { return (kx_u64)blockIdx.x * blockDim.x + threadIdx.x; }
__device__ __forceinline__ kx_u64 threads() { return (kx_u64)gridDim.x * blockDim.x; }

template <class From, class To>
__device__ __forceinline__ void convert(const From* from, To* to, kx_u64 n) {
    const bool aligned = (((kx_u64)from | (kx_u64)to) & 15) == 0;
    const kx_u64 vectors = aligned ? n / EIGHT : 0;
    for (kx_u64 i = place(); i < vectors; i += threads()) {
        float x[EIGHT];
        load_eight(from + i * EIGHT, x);
        store_eight(to + i * EIGHT, x);
    }
    for (kx_u64 i = vectors * EIGHT + place(); i < n; i += threads()) to[i] = kx::narrow<To>(kx::widen(from[i]));
}

}  // namespace

extern "C" __global__ void __launch_bounds__(256) convert_to_bf16(const float* from, kx::bf16* to, kx_u64 n) {
    convert(from, to, n);
}
KX_EXPORT(convert_to_bf16)

extern "C" __global__ void __launch_bounds__(256) convert_to_f32(const kx::bf16* from, float* to, kx_u64 n) {
    convert(from, to, n);
}
KX_EXPORT(convert_to_f32)

extern "C" __global__ void __launch_bounds__(256) fill_f32(float* to, float value, kx_u64 n) {
    const kx_u64 vectors = ((kx_u64)to & 15) == 0 ? n / 4 : 0;
    const float four[4] = {value, value, value, value};
    for (kx_u64 i = place(); i < vectors; i += threads()) kx::store_lanes(to + i * 4, four);
    for (kx_u64 i = vectors * 4 + place(); i < n; i += threads()) to[i] = value;
}
KX_EXPORT(fill_f32)
