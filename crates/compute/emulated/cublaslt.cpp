// cuBLASLt's functions: products of f32 or bf16 matrices with f32 sums. They refuse what the library refuses: shapes and leading
// dimensions that do not fit, mixed types, pointers less aligned than the algorithm was chosen for, too small a workspace.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <vector>

#include "gemm.h"

#define EMULATED_API extern "C" __attribute__((visibility("default")))

// libcuda.so.1
extern "C" int emulated_enqueue(void* stream, void (*run)(const void* arguments), const void* arguments, size_t bytes);
extern "C" int emulated_on_device(const void* p, size_t bytes);
extern "C" unsigned emulated_threads();

namespace {

enum Status { SUCCESS = 0, NOT_INITIALIZED = 1, INVALID_VALUE = 7, EXECUTION_FAILED = 13, NOT_SUPPORTED = 15 };
enum ComputeType { COMPUTE_32F = 68, COMPUTE_32F_PEDANTIC = 69, COMPUTE_32F_FAST_16BF = 75, COMPUTE_32F_FAST_TF32 = 77 };
enum Epilogue { DEFAULT = 1, BIAS = 4, BGRADA = 256, BGRADB = 512 };
enum PointerMode { HOST = 0, DEVICE = 1 };
constexpr size_t WORKSPACE = 64 << 10;  // what an algorithm asks for, if it may

struct Descriptor {
    int32_t compute, scale, pointer_mode = HOST, transpose[3] = {0, 0, 0}, bias_type = -1;
    uint32_t epilogue = DEFAULT;
    void* bias = nullptr;
    int64_t bias_stride = 0;
};
struct Layout {
    uint32_t type;
    int32_t order = 0, batches = 1;
    uint64_t rows, columns;
    int64_t leading, stride = 0;
};
struct Preference {
    uint64_t workspace = 0;
    uint32_t alignment[4] = {256, 256, 256, 256}, search_mode = 0, reduction = ~0u, epilogues = ~0u;
    float waves = 0;
};
// What the algorithm's 64 opaque bytes hold.
struct Algorithm {
    uint64_t magic, workspace;
    uint32_t alignment[4];
    uint64_t m, n, k;
    uint64_t unused;
};
constexpr uint64_t MAGIC = 0x656d756c61746564;
static_assert(sizeof(Algorithm) == 64, "as cublasLtMatmulAlgo_t");

struct HeuristicResult {
    Algorithm algorithm;
    size_t workspace;
    int32_t state;
    float waves;
    int32_t reserved[4];
};

Status set(void* to, size_t bytes, const void* from, size_t given) {
    if (!from || given != bytes) return INVALID_VALUE;
    memcpy(to, from, bytes);
    return SUCCESS;
}

bool known(uint32_t type) { return type == F32 || type == BF16; }

// What a product needs, found and checked without a look at the pointers.
struct Problem {
    Gemm gemm;
    int32_t batches;
    int64_t strides[4], bias_stride;
    bool scalars_on_device;
    const void *alpha, *beta;
    unsigned char* workspace;
    size_t workspace_bytes;
};

Status check_layout(const Layout& l) {
    if (!known(l.type) || l.order != 0) return NOT_SUPPORTED;
    if (!l.rows || !l.columns || l.leading < (int64_t)l.rows || l.batches < 1) return INVALID_VALUE;
    return SUCCESS;
}

Status check_types(const Descriptor& o, const Layout& a, const Layout& b, const Layout& c, const Layout& d) {
    if (o.scale != F32 || (o.pointer_mode != HOST && o.pointer_mode != DEVICE)) return NOT_SUPPORTED;
    if (a.type != b.type || c.type != d.type) return NOT_SUPPORTED;
    const bool halves = a.type == BF16;
    if (!halves && d.type != F32) return NOT_SUPPORTED;
    if (o.compute != COMPUTE_32F && o.compute != COMPUTE_32F_PEDANTIC && (halves || (o.compute != COMPUTE_32F_FAST_16BF && o.compute != COMPUTE_32F_FAST_TF32)))
        return NOT_SUPPORTED;
    if (o.epilogue != DEFAULT && o.epilogue != BIAS && o.epilogue != BGRADA && o.epilogue != BGRADB) return NOT_SUPPORTED;
    if (o.epilogue != DEFAULT && o.bias_type != -1 && o.bias_type != (int)d.type) return NOT_SUPPORTED;
    return SUCCESS;
}

Status describe(const Descriptor& o, const Layout& a, const Layout& b, const Layout& c, const Layout& d, Problem& p) {
    for (const Layout* l : {&a, &b, &c, &d})
        if (Status s = check_layout(*l)) return s;
    if (Status s = check_types(o, a, b, c, d)) return s;
    for (int32_t t : o.transpose)
        if (t < 0 || t > 2) return INVALID_VALUE;
    if (o.transpose[2]) return NOT_SUPPORTED;
    Gemm& g = p.gemm;
    g.m = (int64_t)(o.transpose[0] ? a.columns : a.rows), g.k = (int64_t)(o.transpose[0] ? a.rows : a.columns);
    g.n = (int64_t)(o.transpose[1] ? b.rows : b.columns);
    const int64_t k = (int64_t)(o.transpose[1] ? b.columns : b.rows);
    if (k != g.k || (int64_t)d.rows != g.m || (int64_t)d.columns != g.n || c.rows != d.rows || c.columns != d.columns) return INVALID_VALUE;
    if (a.batches != d.batches || b.batches != d.batches || c.batches != d.batches) return INVALID_VALUE;
    g.a = {nullptr, (Type)a.type, o.transpose[0] ? a.leading : 1, o.transpose[0] ? 1 : a.leading};
    g.b = {nullptr, (Type)b.type, o.transpose[1] ? b.leading : 1, o.transpose[1] ? 1 : b.leading};
    g.c = {nullptr, (Type)c.type, 1, c.leading};
    g.d_type = (Type)d.type, g.d_column = d.leading;
    g.bias = o.epilogue == BIAS ? Bias::ADD : o.epilogue == BGRADA ? Bias::GRADIENT_A : o.epilogue == BGRADB ? Bias::GRADIENT_B : Bias::NONE;
    g.bias_data = o.bias, g.bias_type = (Type)d.type;
    p.batches = d.batches, p.bias_stride = o.bias_stride;
    const int64_t strides[4] = {a.stride, b.stride, c.stride, d.stride};
    memcpy(p.strides, strides, sizeof strides);
    p.scalars_on_device = o.pointer_mode == DEVICE;
    return SUCCESS;
}

// On a device, reaching outside would be a memory fault, or wrong numbers.
void check_extent(const char* name, const void* p, const Layout& l) {
    const size_t size = size_of((Type)l.type);
    const size_t elements = (size_t)(l.batches - 1) * (size_t)l.stride + (l.columns - 1) * (size_t)l.leading + l.rows;
    if (emulated_on_device(p, elements * size)) return;
    fprintf(stderr, "emulated CUDA: cublasLtMatmul: %s at %p, %llu x %llu, leading dimension %lld, %d batches of stride %lld, does not lie in one allocation\n",
            name, p, (unsigned long long)l.rows, (unsigned long long)l.columns, (long long)l.leading, l.batches, (long long)l.stride);
    abort();
}
void check_bytes(const char* name, const void* p, size_t bytes) {
    if (emulated_on_device(p, bytes)) return;
    fprintf(stderr, "emulated CUDA: cublasLtMatmul: %s at %p, %zu bytes, does not lie in one allocation\n", name, p, bytes);
    abort();
}

const void* step(const void* p, Type type, int64_t elements) { return static_cast<const char*>(p) + elements * (int64_t)size_of(type); }

void run(const void* arguments) {
    Problem p = *static_cast<const Problem*>(arguments);
    Gemm g = p.gemm;
    if (p.scalars_on_device) g.alpha = *static_cast<const float*>(p.alpha), g.beta = *static_cast<const float*>(p.beta);
    if (p.workspace_bytes) memset(p.workspace, 0xa5, p.workspace_bytes);  // an algorithm writes to its workspace
    for (int32_t i = 0; i < p.batches; i++) {
        gemm(g, emulated_threads());
        g.a.data = step(g.a.data, g.a.type, p.strides[0]);
        g.b.data = step(g.b.data, g.b.type, p.strides[1]);
        g.c.data = step(g.c.data, g.c.type, p.strides[2]);
        g.d = const_cast<void*>(step(g.d, g.d_type, p.strides[3]));
        if (g.bias != Bias::NONE) g.bias_data = const_cast<void*>(step(g.bias_data, g.bias_type, p.bias_stride));
    }
}

template <class T, class... A>
Status create(T** to, A... values) {
    if (!to) return INVALID_VALUE;
    *to = new T{values...};
    return SUCCESS;
}

int handle;

}  // namespace

EMULATED_API size_t cublasLtGetVersion() { return 130000; }
EMULATED_API size_t cublasLtGetCudartVersion() { return 13000; }

EMULATED_API int cublasLtCreate(void** to) {
    *to = &handle;
    return SUCCESS;
}
EMULATED_API int cublasLtDestroy(void* h) { return h == &handle ? SUCCESS : NOT_INITIALIZED; }

// ---- Descriptions ----------------------------------------------------------------------------------------------------------------
EMULATED_API int cublasLtMatmulDescCreate(Descriptor** to, int compute, int scale) {
    if (!to) return INVALID_VALUE;
    *to = new Descriptor;
    (*to)->compute = compute, (*to)->scale = scale;
    return SUCCESS;
}
EMULATED_API int cublasLtMatmulDescDestroy(Descriptor* d) {
    delete d;
    return SUCCESS;
}
EMULATED_API int cublasLtMatmulDescSetAttribute(Descriptor* d, int attribute, const void* value, size_t bytes) {
    if (!d) return INVALID_VALUE;
    switch (attribute) {
        case 0: return set(&d->compute, 4, value, bytes);
        case 1: return set(&d->scale, 4, value, bytes);
        case 2: return set(&d->pointer_mode, 4, value, bytes);
        case 3: return set(&d->transpose[0], 4, value, bytes);
        case 4: return set(&d->transpose[1], 4, value, bytes);
        case 5: return set(&d->transpose[2], 4, value, bytes);
        case 7: return set(&d->epilogue, 4, value, bytes);
        case 8: return set(&d->bias, 8, value, bytes);
        case 10: return set(&d->bias_stride, 8, value, bytes);
        case 26: return set(&d->bias_type, 4, value, bytes);
        default: return NOT_SUPPORTED;
    }
}

EMULATED_API int cublasLtMatrixLayoutCreate(Layout** to, uint32_t type, uint64_t rows, uint64_t columns, int64_t leading) {
    if (!to) return INVALID_VALUE;
    *to = new Layout;
    (*to)->type = type, (*to)->rows = rows, (*to)->columns = columns, (*to)->leading = leading;
    return SUCCESS;
}
EMULATED_API int cublasLtMatrixLayoutDestroy(Layout* l) {
    delete l;
    return SUCCESS;
}
EMULATED_API int cublasLtMatrixLayoutSetAttribute(Layout* l, int attribute, const void* value, size_t bytes) {
    if (!l) return INVALID_VALUE;
    switch (attribute) {
        case 0: return set(&l->type, 4, value, bytes);
        case 1: return set(&l->order, 4, value, bytes);
        case 2: return set(&l->rows, 8, value, bytes);
        case 3: return set(&l->columns, 8, value, bytes);
        case 4: return set(&l->leading, 8, value, bytes);
        case 5: return set(&l->batches, 4, value, bytes);
        case 6: return set(&l->stride, 8, value, bytes);
        default: return NOT_SUPPORTED;
    }
}

EMULATED_API int cublasLtMatmulPreferenceCreate(Preference** to) { return create(to); }
EMULATED_API int cublasLtMatmulPreferenceDestroy(Preference* p) {
    delete p;
    return SUCCESS;
}
EMULATED_API int cublasLtMatmulPreferenceSetAttribute(Preference* p, int attribute, const void* value, size_t bytes) {
    if (!p) return INVALID_VALUE;
    switch (attribute) {
        case 0: return set(&p->search_mode, 4, value, bytes);
        case 1: return set(&p->workspace, 8, value, bytes);
        case 3: return set(&p->reduction, 4, value, bytes);
        case 5: case 6: case 7: case 8: return set(&p->alignment[attribute - 5], 4, value, bytes);
        case 9: return set(&p->waves, 4, value, bytes);
        case 11: return set(&p->epilogues, 4, value, bytes);
        default: return NOT_SUPPORTED;
    }
}

// ---- Products --------------------------------------------------------------------------------------------------------------------
EMULATED_API int cublasLtMatmulAlgoGetHeuristic(void* h, Descriptor* o, Layout* a, Layout* b, Layout* c, Layout* d, Preference* preference,
                                                int wanted, HeuristicResult* results, int* count) {
    if (h != &handle) return NOT_INITIALIZED;
    if (!o || !a || !b || !c || !d || !preference || wanted < 1 || !results || !count) return INVALID_VALUE;
    *count = 0;
    Problem p{};
    if (Status s = describe(*o, *a, *b, *c, *d, p)) return s;
    HeuristicResult& r = results[0];
    memset(&r, 0, sizeof r);
    r.workspace = std::min<size_t>(WORKSPACE, preference->workspace);
    r.algorithm = {MAGIC, r.workspace, {}, (uint64_t)p.gemm.m, (uint64_t)p.gemm.n, (uint64_t)p.gemm.k, 0};
    memcpy(r.algorithm.alignment, preference->alignment, sizeof r.algorithm.alignment);
    r.state = SUCCESS, r.waves = 1;
    *count = 1;
    return SUCCESS;
}

static Status check_algorithm(const Algorithm* algorithm, const Problem& p, const void* const (&pointers)[4], const void* workspace, size_t bytes) {
    if (!algorithm) return SUCCESS;
    if (algorithm->magic != MAGIC) return INVALID_VALUE;
    if (algorithm->m != (uint64_t)p.gemm.m || algorithm->n != (uint64_t)p.gemm.n || algorithm->k != (uint64_t)p.gemm.k) return INVALID_VALUE;
    if (bytes < algorithm->workspace || (algorithm->workspace && (!workspace || (uintptr_t)workspace % 16))) return INVALID_VALUE;
    for (int i = 0; i < 4; i++)
        if (algorithm->alignment[i] && (uintptr_t)pointers[i] % algorithm->alignment[i]) return INVALID_VALUE;
    return SUCCESS;
}

EMULATED_API int cublasLtMatmul(void* h, Descriptor* o, const void* alpha, const void* A, Layout* a, const void* B, Layout* b, const void* beta,
                                const void* C, Layout* c, void* D, Layout* d, const Algorithm* algorithm, void* workspace, size_t workspace_bytes,
                                void* stream) {
    if (h != &handle) return NOT_INITIALIZED;
    if (!o || !a || !b || !c || !d || !alpha || !beta || !A || !B || !D) return INVALID_VALUE;
    Problem p{};
    if (Status s = describe(*o, *a, *b, *c, *d, p)) return s;
    const void* const pointers[4] = {A, B, C, D};
    if (Status s = check_algorithm(algorithm, p, pointers, workspace, workspace_bytes)) return s;
    Gemm& g = p.gemm;
    if (g.bias != Bias::NONE && (!o->bias || (uintptr_t)o->bias % 16)) return INVALID_VALUE;
    p.alpha = alpha, p.beta = beta;
    if (!p.scalars_on_device) g.alpha = *static_cast<const float*>(alpha), g.beta = *static_cast<const float*>(beta);
    if (!C && (p.scalars_on_device || g.beta != 0)) return INVALID_VALUE;
    if (C == D && (c->leading != d->leading || c->stride != d->stride)) return INVALID_VALUE;
    for (int i = 0; i < 4; i++)
        if ((uintptr_t)pointers[i] % size_of((Type)(i < 2 ? a->type : d->type))) return INVALID_VALUE;
    check_extent("A", A, *a), check_extent("B", B, *b), check_extent("D", D, *d);
    if (C) check_extent("C", C, *c);
    const int64_t length = g.bias == Bias::GRADIENT_B ? g.n : g.m;
    if (g.bias != Bias::NONE) check_bytes("the bias", o->bias, (size_t)(length + (p.batches - 1) * p.bias_stride) * size_of(g.bias_type));
    if (algorithm && algorithm->workspace) check_bytes("the workspace", workspace, algorithm->workspace);
    g.a.data = A, g.b.data = B, g.c.data = C, g.d = D;
    p.workspace = static_cast<unsigned char*>(workspace), p.workspace_bytes = algorithm ? algorithm->workspace : 0;
    return emulated_enqueue(stream, run, &p, sizeof p) ? EXECUTION_FAILED : SUCCESS;
}
