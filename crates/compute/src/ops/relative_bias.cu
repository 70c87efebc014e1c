// A position bias for every pair of tokens from a table of relative positions, and the table's gradient. All f32.
#include "kx.h"

// y [heads = gridDim.y, pairs] from table [rows, heads] by index [pairs].
extern "C" __global__ void __launch_bounds__(256)
    relative_bias_forward(const float* table, const unsigned* index, float* y, int pairs, int heads) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < pairs) y[(size_t)blockIdx.y * pairs + i] = table[(size_t)index[i] * heads + blockIdx.y];
}
KX_EXPORT(relative_bias_forward)

// dtable [rows, heads]: the sum of dy [heads, pairs] over `places` starts[r]..starts[r + 1] of row r. A warp takes a row and a head; each
// lane adds up every 32nd place.
extern "C" __global__ void __launch_bounds__(256) relative_bias_backward(const float* dy, const unsigned* starts, const unsigned* places,
                                                                         float* dtable, int rows, int pairs, int heads, int add) {
    const int at = blockIdx.x * 8 + (threadIdx.x >> 5), lane = threadIdx.x & 31;
    if (at >= rows * heads) return;
    const int row = at / heads, head = at % heads;
    const unsigned end = starts[row + 1];
    float sum = 0.f;
    for (unsigned i = starts[row] + lane; i < end; i += 32) sum += dy[(size_t)head * pairs + places[i]];
    sum = kx::warp_sum(sum);
    if (lane == 0) kx::deliver(dtable + at, sum, add);
}
KX_EXPORT(relative_bias_backward)
