// Tests of the driver: memory, streams, captures, limits of launches, and the drivers that FD_EMULATED_DRIVER plays; and of NVRTC.
#include <math.h>

#include "selftest.h"

namespace {

const int INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_CONTEXT = 201, NOT_FOUND = 500, NOT_READY = 600, UNSUPPORTED = 900, INVALIDATED = 901,
          UNJOINED = 904, ISOLATION = 905;

void memory() {
    open_device();
    Buffer x(100);
    for (float v : x.read()) CHECK(isnan(v));
    CHECK(x.p % 256 == 0);
    std::vector<float> host(101, 1.f);
    CHECK(cuMemcpyHtoD_v2(x.p, host.data(), 404) == INVALID_VALUE);
    CHECK(cuMemcpyHtoD_v2(x.p + 4, host.data(), 400) == INVALID_VALUE);
    CHECK(cuMemsetD32Async(x.p, 0, 101, stream) == INVALID_VALUE);
    OK(cuMemsetD32Async(x.p + 200, 0x3f800000, 50, stream));
    OK(cuMemsetD8Async(x.p, 0, 200, stream));
    const auto seen = x.read();
    for (int i = 0; i < 100; i++) CHECK(seen[i] == (i < 50 ? 0.f : 1.f));
    size_t before, after, total;
    OK(cuMemGetInfo_v2(&before, &total));
    OK(cuMemFree_v2(x.p));
    OK(cuMemGetInfo_v2(&after, &total));
    CHECK(after == before + 400);
    CHECK(cuMemFree_v2(x.p) == INVALID_VALUE);
    CHECK(cuMemcpyDtoH_v2(host.data(), x.p, 4) == INVALID_VALUE);
}

// Pinned memory is read and written when the command's turn comes, not when it is given.
void pinned_memory() {
    open_device();
    float* pinned;
    OK(cuMemHostAlloc(reinterpret_cast<void**>(&pinned), 8, 0));
    Buffer x(1);
    pinned[0] = 1.f, pinned[1] = -1.f;
    OK(cuMemcpyHtoDAsync_v2(x.p, pinned, 4, stream));
    pinned[0] = 2.f;  // too early
    OK(cuMemcpyDtoHAsync_v2(pinned + 1, x.p, 4, stream));
    CHECK(pinned[1] == -1.f);
    CHECK(cuStreamQuery(stream) == NOT_READY);
    CHECK(cuStreamQuery(stream) == 0);
    CHECK(pinned[1] == 2.f);
    OK(cuMemFreeHost(pinned));
}

void events() {
    open_device();
    void *begin, *end;
    OK(cuEventCreate(&begin, 0));
    OK(cuEventCreate(&end, 0));
    int n = 1000;
    float a = 1.f, ms = -1.f;
    Buffer x(std::vector<float>(1000, 1.f)), y(std::vector<float>(1000, 1.f));
    OK(cuEventRecord(begin, stream));
    OK(launch_status(find("axpy"), 4, 256, 0, {&a, &x.p, &y.p, &n}));
    OK(cuEventRecord(end, stream));
    CHECK(cuEventElapsedTime(&ms, begin, end) == NOT_READY);
    CHECK(cuEventQuery(end) == NOT_READY);
    OK(cuEventSynchronize(end));
    OK(cuEventElapsedTime(&ms, begin, end));
    CHECK(ms > 0.f && ms < 1e4f);
}

void launch_limits() {
    open_device();
    void *sum = find("row_sum"), *axpy = find("axpy");
    Buffer x(std::vector<float>(1024, 1.f)), y(1);
    int n = 1, columns = 1024, value;
    float a = 1.f;
    const std::vector<void*> good = {&x.p, &y.p, &columns};
    CHECK(launch_status(sum, 1, 512, 128, good) == INVALID_VALUE);  // __launch_bounds__(256)
    CHECK(launch_status(sum, 1, 256, 48 * 1024 + 1, good) == INVALID_VALUE);
    OK(cuFuncSetAttribute(sum, 8, 227 * 1024));
    OK(launch_status(sum, 1, 256, 227 * 1024, good));
    CHECK(y.read()[0] == 1024.f);
    CHECK(cuFuncSetAttribute(sum, 8, 227 * 1024 + 1) == INVALID_VALUE);
    CHECK(launch_status(axpy, 1, 1025, 0, {&a, &x.p, &y.p, &n}) == INVALID_VALUE);
    CHECK(launch_status(axpy, 0, 32, 0, {&a, &x.p, &y.p, &n}) == INVALID_VALUE);
    std::vector<void*> arguments = {&a, &x.p, &y.p, &n};
    CHECK(cuLaunchKernel(axpy, 1, 65536, 1, 32, 1, 1, 0, stream, arguments.data(), nullptr) == INVALID_VALUE);
    OK(cuLaunchKernel(axpy, 1, 65535, 1, 1, 1, 1, 0, stream, arguments.data(), nullptr));
    OK(cuFuncGetAttribute(&value, 0, sum));
    CHECK(value == 256);
}

void two_files() {
    open_device();
    Buffer y(32);
    OK(launch_status(find("axpy", "other.cu"), 1, 32, 0, {&y.p}));
    CHECK(y.read() == std::vector<float>(32, 2.f));
    void* function;
    CHECK(cuModuleGetFunction(&function, load_module("other.cu"), "row_sum") == NOT_FOUND);
}

void capture() {
    open_device();
    const int count = 64;
    Buffer x(std::vector<float>(count, 1.f)), y(std::vector<float>(count, 5.f)), z((size_t)count);
    void *graph, *executable, *axpy = find("axpy");
    int state, n = count;
    OK(cuStreamBeginCapture_v2(stream, 0));
    OK(cuStreamIsCapturing(stream, &state));
    CHECK(state == 1);
    OK(cuMemsetD32Async(z.p, 0, count, stream));
    for (float a = 1.f; a < 4.f; a += 1.f) OK(launch_status(axpy, 1, 64, 0, {&a, &x.p, &y.p, &n}));
    OK(cuMemcpyDtoDAsync_v2(z.p, y.p, count * 2, stream));
    n = 0;
    OK(cuStreamEndCapture(stream, &graph));
    CHECK(y.read() == std::vector<float>(count, 5.f));
    OK(cuGraphInstantiateWithFlags(&executable, graph, 0));
    OK(cuGraphDestroy(graph));
    for (int i = 1; i <= 3; i++) {
        OK(cuGraphLaunch(executable, stream));
        CHECK(y.read() == std::vector<float>(count, 5.f + 6.f * i));
        const auto seen = z.read();
        CHECK(seen[0] == 5.f + 6.f * i && seen[count / 2 - 1] == seen[0] && seen[count / 2] == 0.f);
    }
    OK(cuGraphExecDestroy(executable));
}

// What invalidates a capture: status of the call, with the capture's mode.
template <class Call>
void breaks(Call call, int status, int mode = 0) {
    void* graph;
    int state;
    OK(cuStreamBeginCapture_v2(stream, mode));
    CHECK(call() == status);
    OK(cuStreamIsCapturing(stream, &state));
    CHECK(state == (status ? 2 : 1));
    CHECK(cuStreamEndCapture(stream, &graph) == (status ? INVALIDATED : 0));
}

void broken_captures() {
    open_device();
    Buffer x(4);
    float host[4];
    Pointer p;
    void* event;
    OK(cuEventCreate(&event, 0));
    breaks([&] { return cuMemAlloc_v2(&p, 4); }, UNSUPPORTED);
    breaks([&] { return cuMemAlloc_v2(&p, 4); }, 0, 2);
    breaks([&] { return cuMemcpyDtoH_v2(host, x.p, 16); }, UNSUPPORTED, 1);
    breaks([&] { return cuStreamSynchronize(stream); }, UNSUPPORTED, 2);
    breaks([&] { return cuStreamQuery(stream); }, UNSUPPORTED);
    breaks([&] { return cuCtxSynchronize(); }, UNSUPPORTED, 2);
    OK(cuEventRecord(event, stream));
    breaks([&] { return cuStreamWaitEvent(stream, event, 0); }, ISOLATION);
}

void forked_capture() {
    open_device();
    void *other, *fork, *join, *graph;
    OK(cuStreamCreate(&other, 1));
    OK(cuEventCreate(&fork, 2));
    OK(cuEventCreate(&join, 2));
    Buffer x(1);
    for (int joined = 0; joined < 2; joined++) {
        OK(cuStreamBeginCapture_v2(stream, 0));
        OK(cuEventRecord(fork, stream));
        OK(cuStreamWaitEvent(other, fork, 0));
        OK(cuMemsetD32Async(x.p, 0, 1, other));
        OK(cuEventRecord(join, other));
        if (joined) OK(cuStreamWaitEvent(stream, join, 0));
        CHECK(cuStreamEndCapture(stream, &graph) == (joined ? 0 : UNJOINED));
    }
    CHECK(isnan(x.read()[0]));
}

void played_drivers() {
    int value;
    void* context;
    size_t free, total;
    Pointer p;
    setenv("FD_EMULATED_DRIVER", "no-device", 1);
    CHECK(cuInit(0) == 100);
    setenv("FD_EMULATED_DRIVER", "no-devices", 1);
    OK(cuInit(0));
    OK(cuDeviceGetCount(&value));
    CHECK(value == 0);
    setenv("FD_EMULATED_DRIVER", "old", 1);
    OK(cuDriverGetVersion(&value));
    CHECK(value == 11080);
    setenv("FD_EMULATED_DRIVER", "broken", 1);
    CHECK(cuDevicePrimaryCtxRetain(&context, 0) == 999);
    setenv("FD_EMULATED_DRIVER", "small", 1);
    CHECK(cuMemAlloc_v2(&p, 4) == INVALID_CONTEXT);
    open_device();
    OK(cuMemGetInfo_v2(&free, &total));
    CHECK(total == size_t(256) << 20);
    CHECK(cuMemAlloc_v2(&p, total + 1) == OUT_OF_MEMORY);
    OK(cuDeviceGetAttribute(&value, 75, 0));
    CHECK(value == 9);
}

// The log after "compiling" this text.
std::string compile(const std::string& text, const char* header, std::vector<const char*> options, int status) {
    const char* names[] = {"kx.h"};
    void* program;
    OK(nvrtcCreateProgram(&program, text.c_str(), "kernels.cu", header ? 1 : 0, &header, names));
    CHECK(nvrtcCompileProgram(program, (int)options.size(), options.data()) == status);
    size_t bytes;
    OK(nvrtcGetProgramLogSize(program, &bytes));
    std::string log(bytes, ' ');
    OK(nvrtcGetProgramLog(program, &log[0]));
    if (status) CHECK(nvrtcGetCUBINSize(program, &bytes) != 0);
    OK(nvrtcDestroyProgram(&program));
    return log;
}

void programs() {
    const std::string text = read_file(source_folder() + "/kernels.cu"), header = read_file(source_folder() + "/../../src/ops/kx.h");
    const auto says = [](const std::string& log, const char* what) { return log.find(what) != std::string::npos; };
    compile(text, header.c_str(), {"--gpu-architecture=sm_100a", "--fmad=false"}, 0);
    CHECK(says(compile(text + " ", header.c_str(), {}, 6), "were built from another text"));
    CHECK(says(compile(text, (header + " ").c_str(), {}, 6), "were built with another kx.h"));
    CHECK(says(compile(text, nullptr, {}, 6), "could not open source file \"kx.h\""));
    CHECK(says(compile(text, header.c_str(), {"--gpu-architecture=sm_70"}, 5), "sm_70"));
    CHECK(says(compile(text, header.c_str(), {"-DN=3"}, 5), "-DN=3"));
}

}  // namespace

const Test DRIVER_TESTS[] = {
    {"memory", memory, nullptr},
    {"pinned memory takes its turn", pinned_memory, nullptr},
    {"events", events, nullptr},
    {"limits of a launch", launch_limits, nullptr},
    {"two files with the same names", two_files, nullptr},
    {"capture and replay", capture, nullptr},
    {"what breaks a capture", broken_captures, nullptr},
    {"a capture of two streams", forked_capture, nullptr},
    {"played drivers", played_drivers, nullptr},
    {"programs", programs, nullptr},
    {nullptr, nullptr, nullptr},
};
