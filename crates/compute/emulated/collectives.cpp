// What warp collectives and asynchronous copies do. A collective is done once for all its lanes, by the lane that arrives last.
#include "emulated.h"

namespace emulated {

void perform_sync(Warp&, unsigned) {}

void perform_shuffle(Warp& w, unsigned mask) {
    for (unsigned left = mask; left; left &= left - 1) {
        Shuffle& s = *static_cast<Shuffle*>(w.argument[__builtin_ctz(left)]);
        if (!(mask >> (s.source & 31) & 1)) die("a shuffle reads lane %u, which is not in the mask %08x", s.source & 31, mask);
        s.result = static_cast<const Shuffle*>(w.argument[s.source & 31])->value;
    }
}

void perform_ballot(Warp& w, unsigned mask) {
    unsigned all = 0;
    for (unsigned left = mask; left; left &= left - 1)
        all |= (unsigned)static_cast<Shuffle*>(w.argument[__builtin_ctz(left)])->value << __builtin_ctz(left);
    for (unsigned left = mask; left; left &= left - 1) static_cast<Shuffle*>(w.argument[__builtin_ctz(left)])->result = all;
}

namespace {
void check_shared16(const void* p, const char* what) {
    const Block& b = *current->block;
    const auto at = (uintptr_t)p, start = (uintptr_t)b.shared;
    if (at % 16) die("%s: shared address is not a multiple of 16", what);
    if (at < start || at + 16 > start + b.shared_bytes) die("%s: address outside of %zu bytes of shared memory", what, b.shared_bytes);
}
}  // namespace

void read_row(LoadMatrix& load, const void* row) {
    check_shared16(row, "load_matrix");
    memcpy(load.row, row, 16);
}

template <int COUNT, bool TRANSPOSED>
void perform_load_matrix(Warp& w, unsigned) {
    const unsigned short* rows[COUNT * 8];
    for (int i = 0; i < COUNT * 8; i++) rows[i] = static_cast<LoadMatrix*>(w.argument[i])->row;
    for (int lane = 0; lane < 32; lane++) {
        unsigned* to = static_cast<LoadMatrix*>(w.argument[lane])->to;
        const int g = lane / 4, q = lane % 4 * 2;
        for (int i = 0; i < COUNT; i++) {
            const unsigned short* const* m = rows + 8 * i;
            if (TRANSPOSED)
                to[i] = m[q][g] | (unsigned)m[q + 1][g] << 16;
            else
                memcpy(&to[i], m[g] + q, 4);
        }
    }
}
template void perform_load_matrix<4, false>(Warp&, unsigned);
template void perform_load_matrix<2, false>(Warp&, unsigned);
template void perform_load_matrix<4, true>(Warp&, unsigned);
template void perform_load_matrix<2, true>(Warp&, unsigned);

namespace {
typedef float Row __attribute__((vector_size(32)));  // the 8 columns of d

// Each column sums its 16 products in order: the same bits with any vector length, as products and sums are rounded apart.
#if defined(__x86_64__)
__attribute__((target_clones("avx2", "default")))
#endif
void multiply(const float (*a)[16], const Row* b, Row* d) {
    for (int i = 0; i < 16; i++) {
        Row sum = a[i][0] * b[0];
        for (int k = 1; k < 16; k++) sum += a[i][k] * b[k];
        d[i] = sum;
    }
}
}  // namespace

void perform_mma(Warp& w, unsigned) {
    float a[16][16];
    Row b[16], d[16];
    for (int lane = 0; lane < 32; lane++) {
        const Mma& m = *static_cast<Mma*>(w.argument[lane]);
        const int g = lane / 4, q = lane % 4 * 2;
        for (int r = 0; r < 4; r++) {
            float* to = &a[g + 8 * (r & 1)][q + 8 * (r >> 1)];
            to[0] = __uint_as_float(m.a[r] << 16);
            to[1] = __uint_as_float(m.a[r] & 0xffff0000u);
        }
        for (int r = 0; r < 2; r++) {
            b[q + 8 * r][g] = __uint_as_float(m.b[r] << 16);
            b[q + 8 * r + 1][g] = __uint_as_float(m.b[r] & 0xffff0000u);
        }
    }
    multiply(a, b, d);
    for (int lane = 0; lane < 32; lane++) {
        float* to = static_cast<Mma*>(w.argument[lane])->d;
        const int g = lane / 4, q = lane % 4 * 2;
        to[0] += d[g][q], to[1] += d[g][q + 1], to[2] += d[g + 8][q], to[3] += d[g + 8][q + 1];
    }
}

void copy_async16(void* shared, const void* global) {
    check_shared16(shared, "copy_async16");
    if ((uintptr_t)global % 16) die("copy_async16: global address is not a multiple of 16");
    current->copies.push_back({shared, global});
}

void copy_async_wait(size_t left) {
    Thread& t = *current;
    if (t.groups.size() <= left) return;
    const size_t done = t.groups.size() - left, end = t.groups[done - 1];
    for (size_t i = 0; i < end; i++) memcpy(t.copies[i].to, t.copies[i].from, 16);
    t.copies.erase(t.copies.begin(), t.copies.begin() + (ptrdiff_t)end);
    t.groups.erase(t.groups.begin(), t.groups.begin() + (ptrdiff_t)done);
    for (size_t& g : t.groups) g -= end;
}

}  // namespace emulated
