// Tests of the runtime: schedules, collectives, and kernels that are wrong.
#include <math.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>

#include "selftest.h"

namespace {

const char* const SEEDS[] = {"0", "1", "42", "99"};

std::vector<float> sums(const char* kernel, const char* seed, int rows, int columns, const std::vector<float>& x) {
    setenv("FD_EMULATED_SCHEDULE", seed, 1);
    Buffer in(x), out((size_t)rows);
    OK(launch_status(find(kernel), (unsigned)rows, 256, 128, {&in.p, &out.p, &columns}));
    return out.read();
}

void row_sums() {
    open_device();
    const int rows = 50, columns = 1000;
    uint64_t s = 7;
    std::vector<float> x((size_t)rows * columns);
    for (float& v : x) v = noise(s);
    const auto first = sums("row_sum", "0", rows, columns, x);
    for (const char* seed : SEEDS) {
        const auto y = sums("row_sum", seed, rows, columns, x);
        CHECK(y == first);
        for (int r = 0; r < rows; r++) {
            double exact = 0;
            for (int i = 0; i < columns; i++) exact += x[(size_t)r * columns + i];
            CHECK(fabs(y[r] - exact) < 1e-3);
        }
    }
}

void missing_barrier() {
    open_device();
    int wrong = 0;
    for (const char* seed : SEEDS) wrong += sums("row_sum_without_barrier", seed, 4, 1000, std::vector<float>(4000, 1.f)) != std::vector<float>(4, 1000.f);
    CHECK(wrong >= 1);
}

// kernels.cu's row_sum has its barrier in kx.h's block_sum.
void barrier_left_out() {
    const std::string header = read_file(source_folder() + "/../../src/ops/kx.h");
    const size_t at = header.find("__syncthreads();", header.find("float block_sum("));
    CHECK(at != std::string::npos);
    const std::string barrier = "kx.h:" + std::to_string(1 + std::count(header.begin(), header.begin() + (ptrdiff_t)at, '\n'));
    const std::string reached = "/tmp/emulated-reached-" + std::to_string(getpid());
    setenv("FD_EMULATED_WITHOUT", barrier.c_str(), 1);
    setenv("FD_EMULATED_REACHED", reached.c_str(), 1);
    open_device();
    const auto y = sums("row_sum", "0", 4, 1000, std::vector<float>(4000, 1.f));
    CHECK(isnan(y[0]));
    const std::string lines = read_file(reached);
    unlink(reached.c_str());
    CHECK(lines.find('/' + barrier + '\n') == lines.size() - barrier.size() - 2);  // the only one
}

void barrier_not_left_out() {
    setenv("FD_EMULATED_WITHOUT", "kx.h:1", 1);
    row_sums();
}

// A bf16 whose value is a small integer: products are exact.
std::vector<uint16_t> integers(size_t count, uint64_t s) {
    std::vector<uint16_t> x(count);
    for (auto& v : x) {
        const float f = rintf(noise(s) * 8.f);
        uint32_t bits;
        memcpy(&bits, &f, 4);
        v = (uint16_t)(bits >> 16);
    }
    return x;
}
float value(uint16_t v) {
    const uint32_t bits = (uint32_t)v << 16;
    float f;
    memcpy(&f, &bits, 4);
    return f;
}

void tile_products() {
    open_device();
    const auto a = integers(256, 3), b = integers(128, 5);
    for (const char* seed : SEEDS)
        for (int at = 0; at < 2; at++)
            for (int bt = 0; bt < 2; bt++) {
                setenv("FD_EMULATED_SCHEDULE", seed, 1);
                Buffer da(128), db(64), dc(128);
                OK(cuMemcpyHtoD_v2(da.p, a.data(), 512));
                OK(cuMemcpyHtoD_v2(db.p, b.data(), 256));
                OK(launch_status(find("tile_product"), 1, 32, 768, {&da.p, &db.p, &dc.p, &at, &bt}));
                const auto c = dc.read();
                for (int i = 0; i < 16; i++)
                    for (int j = 0; j < 8; j++) {
                        float sum = 1;
                        for (int k = 0; k < 16; k++) sum += value(a[at ? k * 16 + i : i * 16 + k]) * value(b[bt ? j * 16 + k : k * 8 + j]);
                        CHECK(c[i * 8 + j] == sum);
                    }
            }
}

void half_warps() {
    open_device();
    for (const char* seed : SEEDS) {
        setenv("FD_EMULATED_SCHEDULE", seed, 1);
        Buffer y(32);
        OK(launch_status(find("half_warps"), 1, 32, 0, {&y.p}));
        const auto bits = y.read();
        for (int lane = 0; lane < 32; lane++) {
            int v;
            memcpy(&v, &bits[lane], 4);
            const int own = lane < 16 ? lane + (lane ^ 1) : lane, other = lane < 16 ? lane + 16 : lane;
            CHECK(v == own + (lane < 16 ? other : own) + (lane / 8 * 8 + 3));
        }
    }
}

void early_reads_see_nothing() {
    open_device();
    Buffer x(std::vector<float>(128, 3.f)), y(64);
    OK(launch_status(find("read_too_early"), 1, 32, 1024, {&x.p, &y.p}));
    const auto seen = y.read();
    for (int i = 0; i < 32; i++) CHECK(seen[i] == 3.f && isnan(seen[32 + i]));
}

void speed() {
    open_device();
    const auto now = [] { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); };
    int times = 2000, n = 1 << 22;
    float two = 2.f;
    Buffer y((size_t)n), x((size_t)n);
    double t = now();
    OK(launch_status(find("mma_often"), 64, 128, 0, {&y.p, &times}));
    OK(cuStreamSynchronize(stream));
    fprintf(stderr, "mma_bf16 %.1f GFLOP/s", 64 * 4 * times * 4096. / (now() - t) * 1e-9);
    t = now();
    OK(launch_status(find("axpy"), (unsigned)n / 256, 256, 0, {&two, &x.p, &y.p, &n}));
    OK(cuStreamSynchronize(stream));
    fprintf(stderr, ", an elementwise kernel %.1f ns a thread\n", (now() - t) / n * 1e9);
}

template <int WHAT>
void wrong() {
    open_device();
    Buffer x(std::vector<float>(256, 0.f));
    int what = WHAT, n = WHAT == 3 ? 1024 : 256;
    OK(launch_status(find("wrong"), 1, 64, 1024, {&what, &x.p, &n}));
    OK(cuStreamSynchronize(stream));
    OK(cuMemFree_v2(x.p));
}

void large_frame() {
    open_device();
    Buffer x(32);
    OK(launch_status(find("large_frame"), 1, 32, 0, {&x.p}));
    OK(cuStreamSynchronize(stream));
}

// A few bytes behind an end that no page boundary guards.
void slack() {
    open_device();
    Buffer x(std::vector<float>(65, 0.f));
    int what = 3, n = 65;
    OK(launch_status(find("wrong"), 1, 8, 0, {&what, &x.p, &n}));
    OK(cuMemFree_v2(x.p));
}

void host_pointer() {
    open_device();
    std::vector<float> x(256);
    float* p = x.data();
    int what = 3, n = 0;
    launch_status(find("wrong"), 1, 32, 0, {&what, &p, &n});
}

void freed() {
    open_device();
    Buffer x(256);
    int what = 3, n = 0;
    OK(cuMemFree_v2(x.p));
    launch_status(find("wrong"), 1, 32, 0, {&what, &x.p, &n});
}

}  // namespace

const Test RUNTIME_TESTS[] = {
    {"row sums agree under every schedule", row_sums, nullptr},
    {"a missing barrier gives wrong sums", missing_barrier, nullptr},
    {"a barrier that is left out by its name", barrier_left_out, nullptr},
    {"a name of another barrier", barrier_not_left_out, nullptr},
    {"tile products from all four forms of load_matrix", tile_products, nullptr},
    {"shuffles of half a warp", half_warps, nullptr},
    {"a copy that was not waited for is not there", early_reads_see_nothing, nullptr},
    {"speed", speed, nullptr},
    {"a copy left when the thread ends", wrong<0>, "ended with copy_async16 not waited for (kernel wrong, block 0,0,0, thread 0)"},
    {"a barrier in two branches", wrong<1>, "divergent barrier: threads wait at __syncthreads of line"},
    {"a barrier that half of each warp misses", wrong<2>, "divergent barrier: no thread can go on; 32 wait at __syncthreads"},
    {"a write behind an allocation", wrong<3>, "bytes behind the end of an allocation of 1024 bytes (kernel wrong"},
    {"a write behind shared memory", wrong<4>, "behind the end of 1024 bytes of shared memory"},
    {"a misaligned shared address", wrong<5>, "copy_async16: shared address is not a multiple of 16"},
    {"a misaligned global address", wrong<6>, "copy_async16: global address is not a multiple of 16"},
    {"a copy outside of shared memory", wrong<7>, "copy_async16: address outside of 1024 bytes of shared memory"},
    {"a misaligned row of a matrix", wrong<8>, "load_matrix: shared address is not a multiple of 16"},
    {"a collective without a lane that has left", wrong<9>, "divergent barrier: no thread can go on"},
    {"masks that differ", wrong<10>, "mask"},
    {"a stack that is too large", large_frame, "stack overflow"},
    {"a lane outside of its own mask", wrong<11>, "without being in its mask 0000ffff"},
    {"a write just behind an allocation, seen when it is freed", slack, "a write 0 bytes behind the end of an allocation of 260 bytes"},
    {"a pointer to the host's memory", host_pointer, "parameter 1 of kernel wrong"},
    {"a pointer to memory that was freed", freed, "parameter 1 of kernel wrong"},
    {nullptr, nullptr, nullptr},
};
