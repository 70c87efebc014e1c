// The CUDA driver's functions on devices, contexts, modules and launches, for an emulated H200. FD_EMULATED_DRIVER plays another driver:
// "no-device", "no-devices", "old", "broken" or "small" (256 MiB). FD_EMULATED_THREADS: OS threads that run blocks (default: all).
// FD_EMULATED_SCHEDULE: the order of warps, read at every launch: 0 in order, 1 reversed, any other number shuffled.
// FD_EMULATED_WITHOUT: FILE:LINE, a barrier that is left out. FD_EMULATED_REACHED: a file to which every barrier is appended that a
// kernel reaches, PATH:LINE.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <map>
#include <set>
#include <thread>

#include "driver.h"

namespace emulated {
namespace {

constexpr size_t SHARED_DEFAULT = 48 << 10, SHARED_OPT_IN = 227 << 10, SHARED_OF_SM = 228 << 10, SHARED_RESERVED = 1 << 10;
constexpr unsigned THREADS_OF_BLOCK = 1024, THREADS_OF_SM = 2048, BLOCKS_OF_SM = 32;
constexpr char CUBIN[] = "emulated CUDA kernels of ";  // nvrtc.cpp writes this, a file's name, and a semicolon

bool initialised = false;
unsigned retained = 0;
int context;  // its address is the primary context's handle
thread_local void* current_context = nullptr;

struct Function {
    const Kernel* kernel;
    size_t shared_limit = SHARED_DEFAULT;
    unsigned threads;  // at most in a block
};
struct Module {
    std::string file;
    std::map<std::string, std::unique_ptr<Function>> functions;
};
std::set<void*>& modules() {
    static auto& all = *new std::set<void*>;
    return all;
}
std::set<void*>& functions() {
    static auto& all = *new std::set<void*>;
    return all;
}
Function* find_function(void* handle) { return functions().count(handle) ? static_cast<Function*>(handle) : nullptr; }

uint64_t number(const char* variable, uint64_t otherwise) {
    const char* text = getenv(variable);
    return text && *text ? strtoull(text, nullptr, 10) : otherwise;
}

// A launch with its own copy of the parameters.
struct Launch {
    const Kernel* kernel;
    unsigned grid[3], block[3];
    size_t shared_bytes;
    std::vector<Copied> parameters;

    void run() const {
        std::vector<void*> arguments;
        for (const auto& p : parameters) arguments.push_back(const_cast<max_align_t*>(p.data()));
        launch(*kernel, grid, block, shared_bytes, arguments.data(), emulated_threads(), number("FD_EMULATED_SCHEDULE", 0));
    }
};

// A pointer to the host's memory would work here and not on a device.
void check_pointer(const Kernel& kernel, unsigned i, const void* p) {
    if (p && !on_device(p, 0) && !pinned(p, 0))
        die("parameter %u of kernel %s, %p, does not point to memory of the device", i, kernel.name, p);
}

}  // namespace

bool plays(const char* driver) {
    const char* played = getenv("FD_EMULATED_DRIVER");
    return played && !strcmp(played, driver);
}

Status ready() {
    if (!initialised) return NOT_INITIALIZED;
    return current_context && retained ? SUCCESS : INVALID_CONTEXT;
}

}  // namespace emulated

using namespace emulated;

EMULATED_API unsigned emulated_threads() {
    const uint64_t all = std::max(1u, std::thread::hardware_concurrency());
    return (unsigned)std::min<uint64_t>(std::max<uint64_t>(number("FD_EMULATED_THREADS", all), 1), 256);
}

// ---- The device ------------------------------------------------------------------------------------------------------------------
EMULATED_API int cuInit(unsigned) {
    Locked lock(driver_lock);
    if (plays("no-device")) return NO_DEVICE;
    initialised = true;
    catch_faults();
    return SUCCESS;
}

EMULATED_API int cuDriverGetVersion(int* version) {
    *version = plays("old") ? 11080 : 13000;
    return SUCCESS;
}

EMULATED_API int cuDeviceGetCount(int* count) {
    if (!initialised) return NOT_INITIALIZED;
    *count = plays("no-devices") ? 0 : 1;
    return SUCCESS;
}

EMULATED_API int cuDeviceGet(int* device, int ordinal) {
    if (!initialised) return NOT_INITIALIZED;
    if (ordinal != 0 || plays("no-devices")) return INVALID_DEVICE;
    *device = 0;
    return SUCCESS;
}

EMULATED_API int cuDeviceGetName(char* name, int length, int device) {
    if (device) return INVALID_DEVICE;
    snprintf(name, (size_t)std::max(length, 0), "NVIDIA H200 (emulated)");
    return SUCCESS;
}

EMULATED_API int cuDeviceGetUuid_v2(char* uuid, int device) {
    if (device) return INVALID_DEVICE;
    memcpy(uuid, "emulated-device0", 16);
    return SUCCESS;
}
EMULATED_API int cuDeviceGetUuid(char* uuid, int device) { return cuDeviceGetUuid_v2(uuid, device); }

EMULATED_API int cuDeviceGetAttribute(int* value, int attribute, int device) {
    static const std::map<int, int> attributes = {
        {1, THREADS_OF_BLOCK}, {2, 1024}, {3, 1024}, {4, 64},              // block
        {5, 2147483647}, {6, 65535}, {7, 65535},                           // grid
        {8, SHARED_DEFAULT}, {9, 65536}, {10, 32}, {12, 65536},            // shared, constant, warp, registers of a block
        {13, 1980000}, {16, 132}, {19, 1}, {31, 1}, {36, 3201000},         // clock, SMs, mapped memory, concurrency, memory clock
        {37, 6144}, {38, 62914560}, {39, THREADS_OF_SM}, {40, 3}, {41, 1}, // bus, L2 cache, threads of an SM, copies, unified addresses
        {75, 9}, {76, 0}, {81, SHARED_OF_SM}, {82, 65536},                 // compute capability, an SM's shared memory and registers
        {97, SHARED_OPT_IN}, {106, BLOCKS_OF_SM}, {111, SHARED_RESERVED},
    };
    if (device) return INVALID_DEVICE;
    if (attribute <= 0) return INVALID_VALUE;
    const auto found = attributes.find(attribute);
    *value = found == attributes.end() ? 0 : found->second;
    return SUCCESS;
}

EMULATED_API int cuDevicePrimaryCtxRetain(void** to, int device) {
    Locked lock(driver_lock);
    if (!initialised) return NOT_INITIALIZED;
    if (device) return INVALID_DEVICE;
    if (plays("broken")) return UNKNOWN;
    retained++;
    *to = &context;
    return SUCCESS;
}

EMULATED_API int cuDevicePrimaryCtxRelease_v2(int device) {
    Locked lock(driver_lock);
    if (device) return INVALID_DEVICE;
    if (!retained) return INVALID_CONTEXT;
    if (--retained == 0) finish_commands();
    return SUCCESS;
}

EMULATED_API int cuCtxSetCurrent(void* handle) {
    Locked lock(driver_lock);
    if (!initialised) return NOT_INITIALIZED;
    if (handle && (handle != &context || !retained)) return INVALID_CONTEXT;
    current_context = handle;
    return SUCCESS;
}

EMULATED_API int cuCtxGetCurrent(void** to) {
    if (!initialised) return NOT_INITIALIZED;
    *to = current_context;
    return SUCCESS;
}

EMULATED_API int cuCtxGetDevice(int* device) {
    if (Status s = ready()) return s;
    *device = 0;
    return SUCCESS;
}

// ---- Modules and functions -------------------------------------------------------------------------------------------------------
EMULATED_API int cuModuleLoadData(void** to, const void* image) {
    Locked lock(driver_lock);
    if (Status s = ready()) return s;
    const char* text = static_cast<const char*>(image);
    const char* end = strncmp(text, CUBIN, sizeof CUBIN - 1) ? nullptr : strchr(text, ';');
    if (!end) return INVALID_IMAGE;
    auto* module = new Module;
    module->file.assign(text + sizeof CUBIN - 1, end);
    modules().insert(module);
    *to = module;
    return SUCCESS;
}
EMULATED_API int cuModuleLoadDataEx(void** to, const void* image, unsigned, int*, void**) { return cuModuleLoadData(to, image); }

EMULATED_API int cuModuleUnload(void* handle) {
    Locked lock(driver_lock);
    if (Status s = ready()) return s;
    if (!modules().erase(handle)) return INVALID_HANDLE;
    auto* module = static_cast<Module*>(handle);
    for (auto& f : module->functions) functions().erase(f.second.get());
    delete module;
    return SUCCESS;
}

EMULATED_API int cuModuleGetFunction(void** to, void* handle, const char* name) {
    Locked lock(driver_lock);
    if (Status s = ready()) return s;
    if (!modules().count(handle)) return INVALID_HANDLE;
    auto* module = static_cast<Module*>(handle);
    const Kernel* kernel = find_kernel(name, module->file.c_str());
    if (!kernel) return NOT_FOUND;
    auto& function = module->functions[name];
    if (!function) {
        function.reset(new Function);
        function->kernel = kernel;
        function->threads = launch_bounds(*kernel);
        functions().insert(function.get());
    }
    *to = function.get();
    return SUCCESS;
}

enum FunctionAttribute { MAX_THREADS = 0, STATIC_SHARED = 1, REGISTERS = 4, PTX_VERSION = 5, BINARY_VERSION = 6, MAX_SHARED = 8, CARVEOUT = 9 };

EMULATED_API int cuFuncSetAttribute(void* handle, int attribute, int value) {
    Locked lock(driver_lock);
    if (Status s = ready()) return s;
    Function* function = find_function(handle);
    if (!function) return INVALID_HANDLE;
    if (attribute == CARVEOUT) return value >= -1 && value <= 100 ? SUCCESS : INVALID_VALUE;
    if (attribute != MAX_SHARED || value < 0 || (size_t)value > SHARED_OPT_IN) return INVALID_VALUE;
    function->shared_limit = std::max((size_t)value, SHARED_DEFAULT);
    return SUCCESS;
}

EMULATED_API int cuFuncGetAttribute(int* value, int attribute, void* handle) {
    Locked lock(driver_lock);
    if (Status s = ready()) return s;
    Function* function = find_function(handle);
    if (!function) return INVALID_HANDLE;
    switch (attribute) {
        case MAX_THREADS: *value = (int)function->threads; break;
        case REGISTERS: *value = 32; break;
        case PTX_VERSION: case BINARY_VERSION: *value = 90; break;
        case MAX_SHARED: *value = (int)function->shared_limit; break;
        default: *value = 0;
    }
    return SUCCESS;
}

EMULATED_API int cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, void* handle, int threads, size_t shared_bytes) {
    Locked lock(driver_lock);
    if (Status s = ready()) return s;
    Function* function = find_function(handle);
    if (!function) return INVALID_HANDLE;
    if (threads <= 0) return INVALID_VALUE;
    const bool fits = (unsigned)threads <= function->threads && shared_bytes <= function->shared_limit;
    const size_t by_shared = SHARED_OF_SM / (shared_bytes + SHARED_RESERVED);
    *blocks = fits ? (int)std::min<size_t>({BLOCKS_OF_SM, THREADS_OF_SM / (unsigned)threads, by_shared}) : 0;
    return SUCCESS;
}

EMULATED_API int cuLaunchKernel(void* handle, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared_bytes,
                                void* stream_handle, void** parameters, void** extra) {
    Locked lock(driver_lock);
    if (Status s = ready()) return s;
    Function* function = find_function(handle);
    Stream* stream = find_stream(stream_handle);
    if (!function || !stream) return INVALID_HANDLE;
    const Kernel& kernel = *function->kernel;
    const uint64_t threads = (uint64_t)bx * by * bz;
    if (extra || !gx || !gy || !gz || gx > 2147483647u || gy > 65535 || gz > 65535) return INVALID_VALUE;
    if (!threads || bx > 1024 || by > 1024 || bz > 64 || threads > function->threads) return INVALID_VALUE;
    if (shared_bytes > function->shared_limit || (kernel.parameters && !parameters)) return INVALID_VALUE;
    Launch launch{&kernel, {gx, gy, gz}, {bx, by, bz}, shared_bytes, {}};
    for (unsigned i = 0; i < kernel.parameters; i++) {
        if (kernel.is_pointer[i]) check_pointer(kernel, i, *static_cast<void**>(parameters[i]));
        launch.parameters.push_back(copied(parameters[i], kernel.sizes[i]));
    }
    return enqueue(stream, [launch] { launch.run(); });
}

// ---- Errors ----------------------------------------------------------------------------------------------------------------------
struct ErrorText {
    int status;
    const char *name, *text;
};
static const ErrorText ERRORS[] = {
    {SUCCESS, "CUDA_SUCCESS", "no error"},
    {INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {NO_DEVICE, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {INVALID_IMAGE, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"},
    {INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {NOT_FOUND, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {NOT_READY, "CUDA_ERROR_NOT_READY", "device not ready"},
    {NOT_SUPPORTED, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    {CAPTURE_UNSUPPORTED, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing"},
    {CAPTURE_INVALIDATED, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", "operation failed due to a previous error during capture"},
    {CAPTURE_UNMATCHED, "CUDA_ERROR_STREAM_CAPTURE_UNMATCHED", "capture was not ended in the same stream as it began"},
    {CAPTURE_UNJOINED, "CUDA_ERROR_STREAM_CAPTURE_UNJOINED", "capturing stream has unjoined work"},
    {CAPTURE_ISOLATION, "CUDA_ERROR_STREAM_CAPTURE_ISOLATION", "dependency created on uncaptured work in another stream"},
    {CAPTURE_IMPLICIT, "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT", "operation would make the legacy stream depend on a capturing blocking stream"},
    {CAPTURED_EVENT, "CUDA_ERROR_CAPTURED_EVENT", "operation not permitted on an event last recorded in a capturing stream"},
    {UNKNOWN, "CUDA_ERROR_UNKNOWN", "unknown error"},
};

EMULATED_API int cuGetErrorName(int status, const char** name) {
    for (const ErrorText& e : ERRORS)
        if (e.status == status) return *name = e.name, SUCCESS;
    return *name = nullptr, INVALID_VALUE;
}
EMULATED_API int cuGetErrorString(int status, const char** text) {
    for (const ErrorText& e : ERRORS)
        if (e.status == status) return *text = e.text, SUCCESS;
    return *text = nullptr, INVALID_VALUE;
}
