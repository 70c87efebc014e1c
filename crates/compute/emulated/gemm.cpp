// The product of two matrices: both are packed into panels of f32, then tiles of 32 x 6 are summed in registers.
#include "gemm.h"

#include <string.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

namespace {

constexpr int64_t ROWS = 32, COLUMNS = 6, DEPTH = 256;         // a tile, and the part of k that is summed at a time
constexpr int64_t BLOCK_ROWS = 4, BLOCK_COLUMNS = 16;          // tiles of a block, a thread's piece of work
constexpr double WORTH_A_THREAD = 4e6;                         // products
typedef float Vector __attribute__((vector_size(64), aligned(64)));

float load(const void* p, Type type, int64_t i) {
    if (type == F32) return static_cast<const float*>(p)[i];
    const uint32_t bits = (uint32_t) static_cast<const uint16_t*>(p)[i] << 16;
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

void store(void* p, Type type, int64_t i, float x) {
    if (type == F32) {
        static_cast<float*>(p)[i] = x;
        return;
    }
    uint32_t bits;
    memcpy(&bits, &x, 4);
    static_cast<uint16_t*>(p)[i] = x != x ? 0x7fff : (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

void in_parallel(int64_t count, unsigned threads, const std::function<void(int64_t)>& work) {
    std::atomic<int64_t> next{0};
    const auto loop = [&] {
        for (int64_t i; (i = next++) < count;) work(i);
    };
    std::vector<std::thread> others;
    for (unsigned t = 1; t < threads && t < count; t++) others.emplace_back(loop);
    loop();
    for (auto& t : others) t.join();
}

struct Aligned {
    void* raw;
    float* data;
    explicit Aligned(size_t count) : raw(operator new(count * 4 + 64)), data(reinterpret_cast<float*>(((uintptr_t)raw + 63) & ~uintptr_t(63))) {}
    ~Aligned() { operator delete(raw); }
    Aligned(const Aligned&) = delete;
};

// One panel: `width` rows of x (from `first` on, zeros past `rows`), for each of the k columns beside each other.
template <class T>
void pack(const T* x, Type type, int64_t row, int64_t column, int64_t first, int64_t width, int64_t rows, int64_t k, float* to) {
    const int64_t live = std::min(width, rows - first);
    if (live < width) memset(to, 0, (size_t)(width * k) * 4);
    const T* from = x + first * row;
    if (row == 1)
        for (int64_t j = 0; j < k; j++)
            for (int64_t i = 0; i < live; i++) to[j * width + i] = load(from + j * column, type, i);
    else
        for (int64_t i = 0; i < live; i++)
            for (int64_t j = 0; j < k; j++) to[j * width + i] = load(from + i * row, type, j * column);
}

void pack_panel(const Operand& x, bool transposed, int64_t panel, int64_t width, int64_t rows, int64_t k, float* to) {
    const int64_t row = transposed ? x.column : x.row, column = transposed ? x.row : x.column;
    if (x.type == F32)
        pack(static_cast<const float*>(x.data), F32, row, column, panel * width, width, rows, k, to);
    else
        pack(static_cast<const uint16_t*>(x.data), BF16, row, column, panel * width, width, rows, k, to);
}

// sums[j][.] += a[.][k] b[k][j] for k in order; products and sums are rounded apart, so that every instruction set gives the same bits.
#if defined(__x86_64__)
__attribute__((target_clones("avx512f", "avx2", "default")))
#endif
void multiply_tile(const float* a, const float* b, int64_t k, float* sums) {
    auto* s = reinterpret_cast<Vector*>(sums);
    Vector low[COLUMNS], high[COLUMNS];
    for (int j = 0; j < COLUMNS; j++) low[j] = s[2 * j], high[j] = s[2 * j + 1];
    for (int64_t i = 0; i < k; i++) {
        const Vector x = reinterpret_cast<const Vector*>(a)[2 * i], y = reinterpret_cast<const Vector*>(a)[2 * i + 1];
#pragma GCC unroll 6
        for (int j = 0; j < COLUMNS; j++) {
            const float w = b[i * COLUMNS + j];
            low[j] += x * w, high[j] += y * w;
        }
    }
    for (int j = 0; j < COLUMNS; j++) s[2 * j] = low[j], s[2 * j + 1] = high[j];
}

void finish_tile(const Gemm& g, int64_t row, int64_t column, const float* sums) {
    const int64_t rows = std::min(ROWS, g.m - row), columns = std::min(COLUMNS, g.n - column);
    for (int64_t j = 0; j < columns; j++)
        for (int64_t i = 0; i < rows; i++) {
            float x = g.alpha * sums[j * ROWS + i];
            if (g.beta != 0) x += g.beta * load(g.c.data, g.c.type, (row + i) * g.c.row + (column + j) * g.c.column);
            if (g.bias == Bias::ADD) x += load(g.bias_data, g.bias_type, row + i);
            store(g.d, g.d_type, row + i + (column + j) * g.d_column, x);
        }
}

}  // namespace

void gemm(const Gemm& g, unsigned threads) {
    if ((double)g.m * (double)g.n * (double)g.k < WORTH_A_THREAD) threads = 1;
    const int64_t row_panels = (g.m + ROWS - 1) / ROWS, column_panels = (g.n + COLUMNS - 1) / COLUMNS;
    Aligned a((size_t)(row_panels * ROWS * g.k)), b((size_t)(column_panels * COLUMNS * g.k));
    in_parallel(row_panels + column_panels, threads, [&](int64_t i) {
        if (i < row_panels)
            pack_panel(g.a, false, i, ROWS, g.m, g.k, a.data + i * ROWS * g.k);
        else
            pack_panel(g.b, true, i - row_panels, COLUMNS, g.n, g.k, b.data + (i - row_panels) * COLUMNS * g.k);
    });
    const int64_t across = (row_panels + BLOCK_ROWS - 1) / BLOCK_ROWS, along = (column_panels + BLOCK_COLUMNS - 1) / BLOCK_COLUMNS;
    in_parallel(across * along, threads, [&](int64_t block) {
        Aligned sums(BLOCK_ROWS * BLOCK_COLUMNS * ROWS * COLUMNS);
        memset(sums.data, 0, BLOCK_ROWS * BLOCK_COLUMNS * ROWS * COLUMNS * 4);
        const int64_t r0 = block % across * BLOCK_ROWS, r1 = std::min(r0 + BLOCK_ROWS, row_panels);
        const int64_t c0 = block / across * BLOCK_COLUMNS, c1 = std::min(c0 + BLOCK_COLUMNS, column_panels);
        const auto tile = [&](int64_t r, int64_t c) { return sums.data + ((r - r0) * BLOCK_COLUMNS + c - c0) * ROWS * COLUMNS; };
        for (int64_t k = 0; k < g.k; k += DEPTH)
            for (int64_t r = r0; r < r1; r++)
                for (int64_t c = c0; c < c1; c++)
                    multiply_tile(a.data + (r * g.k + k) * ROWS, b.data + (c * g.k + k) * COLUMNS, std::min(DEPTH, g.k - k), tile(r, c));
        for (int64_t r = r0; r < r1; r++)
            for (int64_t c = c0; c < c1; c++) finish_tile(g, r * ROWS, c * COLUMNS, tile(r, c));
    });
    if (g.bias != Bias::GRADIENT_A && g.bias != Bias::GRADIENT_B) return;
    const bool of_a = g.bias == Bias::GRADIENT_A;
    const int64_t width = of_a ? ROWS : COLUMNS, count = of_a ? g.m : g.n;
    in_parallel(of_a ? row_panels : column_panels, threads, [&](int64_t panel) {
        const float* x = (of_a ? a.data : b.data) + panel * width * g.k;
        for (int64_t i = 0; i < std::min(width, count - panel * width); i++) {
            float sum = 0;
            for (int64_t k = 0; k < g.k; k++) sum += x[k * width + i];
            store(g.bias_data, g.bias_type, panel * width + i, sum);
        }
    });
}
