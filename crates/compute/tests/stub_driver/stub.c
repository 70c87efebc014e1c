// Stand-ins for NVIDIA's libraries that answer the questions asked before a device is used, and nothing else. Which library this is, is
// a macro; what it answers, environment variables.
#include <stdlib.h>
#include <string.h>

static int number(const char* name, int otherwise) {
    const char* text = getenv(name);
    return text ? atoi(text) : otherwise;
}

// A function that must be there and is not called.
#define HAS(name) \
    int name(void) { abort(); }

#ifdef DRIVER
int cuInit(unsigned flags) { return flags ? 1 : number("STUB_INIT", 0); }
int cuDriverGetVersion(int* version) { return *version = number("STUB_VERSION", 12080), 0; }
int cuDeviceGetCount(int* count) { return *count = number("STUB_COUNT", 1), 0; }
int cuDeviceGet(int* device, int ordinal) { return *device = 40 + ordinal, 0; }
int cuDeviceGetName(char* name, int bytes, int device) {
    if (device < 40) return 101;
    return strncpy(name, "Stub", bytes), 0;
}
int cuDeviceGetAttribute(int* value, int attribute, int device) {
    int capability = number("STUB_CAPABILITY", 90);
    if (device < 40) return 101;
    return *value = attribute == 75 ? capability / 10 : attribute == 76 ? capability % 10 : -1, 0;
}
int cuGetErrorName(int error, const char** name) { return error == 999 ? (*name = "CUDA_ERROR_UNKNOWN", 0) : 1; }
#ifdef WHOLE
IN_DRIVER
#endif
#endif

#ifdef COMPILER
int nvrtcVersion(int* major, int* minor) { return *major = number("STUB_NVRTC", 12), *minor = 8, 0; }
int nvrtcGetNumSupportedArchs(int* count) { return *count = 2, 0; }
int nvrtcGetSupportedArchs(int* archs) { return archs[0] = 80, archs[1] = 90, 0; }
HAS(nvrtcCreateProgram) HAS(nvrtcDestroyProgram) HAS(nvrtcCompileProgram) HAS(nvrtcGetProgramLogSize) HAS(nvrtcGetProgramLog)
HAS(nvrtcGetCUBINSize) HAS(nvrtcGetCUBIN) HAS(nvrtcGetPTXSize) HAS(nvrtcGetPTX)
#endif

#ifdef PRODUCTS
size_t cublasLtGetVersion(void) { return (size_t)number("STUB_CUBLAS", 120805); }
IN_PRODUCTS
#endif

#ifdef NOTHING
int nothing(void) { return 0; }
#endif
