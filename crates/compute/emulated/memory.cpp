// Device memory. Every allocation ends where a page begins that cannot be touched; what lies between its end and that page, at most 255
// bytes, and in front of its start is filled with a pattern, checked when it is freed. It starts as NaN.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <map>

#include "driver.h"

namespace emulated {
namespace {

constexpr size_t PAGE = 4096, ALIGNMENT = 256;
constexpr unsigned char FRESH = 0xff, FENCE = 0xa5;

struct Allocation {
    size_t bytes;
    unsigned char* mapping;
    size_t mapping_bytes;
    bool host;
};

// Never destroyed: worker threads and the fault handler may look at it until the end.
std::map<uintptr_t, Allocation>& allocations() {
    static auto& all = *new std::map<uintptr_t, Allocation>;
    return all;
}
size_t used = 0;

size_t total_memory() { return plays("small") ? size_t(256) << 20 : size_t(150121480192); }

const std::pair<const uintptr_t, Allocation>* find(const void* p) {
    auto it = allocations().upper_bound((uintptr_t)p);
    if (it == allocations().begin()) return nullptr;
    --it;
    return &*it;
}

bool inside(const void* p, size_t bytes, bool host) {
    const auto* found = find(p);
    return found && found->second.host == host && (uintptr_t)p - found->first <= found->second.bytes &&
           bytes <= found->second.bytes - ((uintptr_t)p - found->first);
}

const char* describe(const void* p) {
    static char text[160];
    const auto* found = find(p);
    if (!found) return "which lies in no allocation (freed, or never allocated)";
    const size_t at = (uintptr_t)p - found->first;
    if (at < found->second.bytes) return nullptr;
    if (at > found->second.bytes + (1 << 20)) return "which lies in no allocation (freed, or never allocated)";
    snprintf(text, sizeof text, "%zu bytes behind the end of an allocation of %zu bytes", at - found->second.bytes, found->second.bytes);
    return text;
}

Status allocate(void** to, size_t bytes, bool host) {
    if (!to || !bytes) return INVALID_VALUE;
    if (!host && bytes > total_memory() - used) return OUT_OF_MEMORY;
    const size_t available = (size_t)sysconf(_SC_PHYS_PAGES) * (size_t)sysconf(_SC_PAGESIZE);
    if (bytes > available) return OUT_OF_MEMORY;
    const size_t body = (bytes + ALIGNMENT + PAGE - 1) / PAGE * PAGE, all = body + 2 * PAGE;
    void* p = mmap(nullptr, all, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) return OUT_OF_MEMORY;
    auto* mapping = static_cast<unsigned char*>(p);
    unsigned char* end = mapping + PAGE + body;
    auto* start = reinterpret_cast<unsigned char*>((uintptr_t)(end - bytes) & ~(uintptr_t)(ALIGNMENT - 1));
    mprotect(mapping, PAGE, PROT_NONE);
    mprotect(end, PAGE, PROT_NONE);
    memset(mapping + PAGE, FENCE, (size_t)(start - mapping) - PAGE);
    memset(start, FRESH, bytes);
    memset(start + bytes, FENCE, (size_t)(end - start) - bytes);
    allocations()[(uintptr_t)start] = {bytes, mapping, all, host};
    if (!host) used += bytes;
    describe_address = describe;
    *to = start;
    return SUCCESS;
}

Status release(void* start, bool host) {
    finish_commands();
    auto it = allocations().find((uintptr_t)start);
    if (it == allocations().end() || it->second.host != host) return INVALID_VALUE;
    const Allocation a = it->second;
    const auto* p = static_cast<const unsigned char*>(start);
    for (const unsigned char* q = a.mapping + PAGE; q < p; q++)
        if (*q != FENCE) die("a write %zu bytes before the start of an allocation of %zu bytes, seen when it was freed", (size_t)(p - q), a.bytes);
    for (const unsigned char* q = p + a.bytes; q < a.mapping + a.mapping_bytes - PAGE; q++)
        if (*q != FENCE) die("a write %zu bytes behind the end of an allocation of %zu bytes, seen when it was freed", (size_t)(q - p) - a.bytes, a.bytes);
    munmap(a.mapping, a.mapping_bytes);
    if (!host) used -= a.bytes;
    allocations().erase(it);
    return SUCCESS;
}

// A copy whose host side is ordinary memory is done before the call returns, as with CUDA; one of pinned memory takes its turn.
Status copy_async(void* to, const void* from, size_t bytes, const void* host, void* handle) {
    if (Status s = ready()) return s;
    Stream* stream = find_stream(handle);
    if (!stream) return INVALID_HANDLE;
    if (!bytes) return SUCCESS;
    if ((to != host && !on_device(to, bytes)) || (from != host && !on_device(from, bytes)) || !to || !from) return INVALID_VALUE;
    if (Status s = enqueue(stream, [=] { memmove(to, from, bytes); })) return s;
    if (host && !stream->capture && !pinned(host, bytes)) finish_commands();
    return SUCCESS;
}

Status copy(void* to, const void* from, size_t bytes, const void* host) {
    if (Status s = ready()) return s;
    if (Status s = forbid_capture()) return s;
    if (Status s = copy_async(to, from, bytes, host, nullptr)) return s;
    finish_commands();
    return SUCCESS;
}

Status fill_async(void* to, const void* value, size_t width, size_t count, void* handle) {
    if (Status s = ready()) return s;
    Stream* stream = find_stream(handle);
    if (!stream) return INVALID_HANDLE;
    if (!count) return SUCCESS;
    if (!on_device(to, width * count) || (uintptr_t)to % width) return INVALID_VALUE;
    unsigned word = 0;
    memcpy(&word, value, width);
    return enqueue(stream, [=] {
        if (width == 1)
            memset(to, (int)word, count);
        else
            for (size_t i = 0; i < count; i++) static_cast<unsigned*>(to)[i] = word;
    });
}

}  // namespace

bool on_device(const void* p, size_t bytes) { return inside(p, bytes, false); }
bool pinned(const void* p, size_t bytes) { return inside(p, bytes, true); }

}  // namespace emulated

using namespace emulated;
typedef unsigned long long Pointer;
static void* address(Pointer p) { return reinterpret_cast<void*>(p); }

EMULATED_API int emulated_on_device(const void* p, size_t bytes) {
    Locked lock(driver_lock);
    return on_device(p, bytes);
}

EMULATED_API int cuDeviceTotalMem_v2(size_t* bytes, int device) {
    if (device) return INVALID_DEVICE;
    *bytes = total_memory();
    return SUCCESS;
}

EMULATED_API int cuMemGetInfo_v2(size_t* free, size_t* total) {
    Locked lock(driver_lock);
    if (Status s = ready()) return s;
    *total = total_memory(), *free = *total - used;
    return SUCCESS;
}

EMULATED_API int cuMemAlloc_v2(Pointer* to, size_t bytes) {
    Locked lock(driver_lock);
    if (Status s = ready()) return s;
    if (Status s = forbid_capture()) return s;
    void* p = nullptr;
    const Status s = allocate(&p, bytes, false);
    *to = (Pointer)p;
    return s;
}

EMULATED_API int cuMemFree_v2(Pointer p) {
    Locked lock(driver_lock);
    if (Status s = ready()) return s;
    if (!p) return SUCCESS;
    if (Status s = forbid_capture()) return s;
    return release(address(p), false);
}

EMULATED_API int cuMemHostAlloc(void** to, size_t bytes, unsigned) {
    Locked lock(driver_lock);
    if (Status s = ready()) return s;
    if (Status s = forbid_capture()) return s;
    return allocate(to, bytes, true);
}
EMULATED_API int cuMemAllocHost_v2(void** to, size_t bytes) { return cuMemHostAlloc(to, bytes, 0); }

EMULATED_API int cuMemFreeHost(void* p) {
    Locked lock(driver_lock);
    if (Status s = ready()) return s;
    if (Status s = forbid_capture()) return s;
    return release(p, true);
}

EMULATED_API int cuMemcpyHtoD_v2(Pointer to, const void* from, size_t bytes) {
    Locked lock(driver_lock);
    return copy(address(to), from, bytes, from);
}
EMULATED_API int cuMemcpyDtoH_v2(void* to, Pointer from, size_t bytes) {
    Locked lock(driver_lock);
    return copy(to, address(from), bytes, to);
}
EMULATED_API int cuMemcpyDtoD_v2(Pointer to, Pointer from, size_t bytes) {
    Locked lock(driver_lock);
    return copy(address(to), address(from), bytes, nullptr);
}
EMULATED_API int cuMemcpyHtoDAsync_v2(Pointer to, const void* from, size_t bytes, void* stream) {
    Locked lock(driver_lock);
    return copy_async(address(to), from, bytes, from, stream);
}
EMULATED_API int cuMemcpyDtoHAsync_v2(void* to, Pointer from, size_t bytes, void* stream) {
    Locked lock(driver_lock);
    return copy_async(to, address(from), bytes, to, stream);
}
EMULATED_API int cuMemcpyDtoDAsync_v2(Pointer to, Pointer from, size_t bytes, void* stream) {
    Locked lock(driver_lock);
    return copy_async(address(to), address(from), bytes, nullptr, stream);
}

EMULATED_API int cuMemsetD8Async(Pointer to, unsigned char value, size_t count, void* stream) {
    Locked lock(driver_lock);
    return fill_async(address(to), &value, 1, count, stream);
}
EMULATED_API int cuMemsetD32Async(Pointer to, unsigned value, size_t count, void* stream) {
    Locked lock(driver_lock);
    return fill_async(address(to), &value, 4, count, stream);
}
EMULATED_API int cuMemsetD8_v2(Pointer to, unsigned char value, size_t count) {
    Locked lock(driver_lock);
    if (Status s = forbid_capture()) return s;
    return fill_async(address(to), &value, 1, count, nullptr);
}
EMULATED_API int cuMemsetD32_v2(Pointer to, unsigned value, size_t count) {
    Locked lock(driver_lock);
    if (Status s = forbid_capture()) return s;
    return fill_async(address(to), &value, 4, count, nullptr);
}
