// selftest.h: what the tests of the emulation share. Every test runs in a process of its own.
#pragma once
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <string>
#include <vector>

#include "cuda_api.h"

#define CHECK(condition)                                                             \
    do {                                                                             \
        if (!(condition)) {                                                          \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);  \
            exit(2);                                                                 \
        }                                                                            \
    } while (0)
#define OK(call) CHECK((call) == 0)

struct Test {
    const char* name;
    void (*run)();
    const char* message;  // what it must die of; null: it must pass
};
extern const Test RUNTIME_TESTS[], DRIVER_TESTS[], MATMUL_TESTS[];

// The context, a stream, and the kernels of one of the files.
void open_device();
extern void* stream;
std::string read_file(const std::string& path);
std::string source_folder();
void* load_module(const char* file);
void* find(const char* kernel, const char* file = "kernels.cu");
int launch_status(void* function, unsigned grid, unsigned block, unsigned shared, std::vector<void*> arguments);

struct Buffer {
    Pointer p = 0;
    size_t count;
    explicit Buffer(size_t count) : count(count) { OK(cuMemAlloc_v2(&p, count * 4)); }
    explicit Buffer(const std::vector<float>& x) : Buffer(x.size()) { OK(cuMemcpyHtoD_v2(p, x.data(), x.size() * 4)); }
    std::vector<float> read() const {
        std::vector<float> x(count);
        OK(cuMemcpyDtoH_v2(x.data(), p, count * 4));
        return x;
    }
};
inline float noise(uint64_t& s) {
    s ^= s << 13, s ^= s >> 7, s ^= s << 17;
    return (float)(s >> 40) / 8388608.f - 1.f;
}
