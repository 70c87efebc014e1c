// Tests of the matrix products: every combination against a plain sum, what is refused, captures, and speed.
#include <math.h>

#include <chrono>

#include "selftest.h"

namespace {

const int F32 = 0, BF16 = 14, DEFAULT = 1, BIAS = 4, BGRADA = 256, BGRADB = 512;
const int INVALID_VALUE = 7, NOT_SUPPORTED = 15;

uint16_t to_bf16(float f) {
    uint32_t bits;
    memcpy(&bits, &f, 4);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
float of_bf16(uint16_t v) {
    const uint32_t bits = (uint32_t)v << 16;
    float f;
    memcpy(&f, &bits, 4);
    return f;
}

// A matrix of some type on the device, with the values that it holds.
struct Matrix {
    std::vector<float> x;
    int type;
    Pointer p = 0;
    Matrix(size_t count, int type, uint64_t seed) : x(count), type(type) {
        for (float& v : x) v = type == F32 ? noise(seed) : of_bf16(to_bf16(noise(seed)));
        OK(cuMemAlloc_v2(&p, count * size()));
        if (type == F32) {
            OK(cuMemcpyHtoD_v2(p, x.data(), count * 4));
        } else {
            std::vector<uint16_t> bits;
            for (float v : x) bits.push_back(to_bf16(v));
            OK(cuMemcpyHtoD_v2(p, bits.data(), count * 2));
        }
    }
    size_t size() const { return type == F32 ? 4 : 2; }
    std::vector<float> read() const {
        std::vector<float> y(x.size());
        if (type == F32) {
            OK(cuMemcpyDtoH_v2(y.data(), p, y.size() * 4));
        } else {
            std::vector<uint16_t> bits(x.size());
            OK(cuMemcpyDtoH_v2(bits.data(), p, bits.size() * 2));
            for (size_t i = 0; i < y.size(); i++) y[i] = of_bf16(bits[i]);
        }
        return y;
    }
};

struct Product {
    int64_t m, n, k;
    int batches = 1, in = BF16, out = BF16, epilogue = DEFAULT;
    int ta = 0, tb = 0;
    float alpha = 1.f, beta = 0.f;
    int64_t pad = 0;  // added to leading dimensions
    int compute = 68;
    uint64_t workspace = 1 << 20;
    int64_t shift = 0;  // elements that A's pointer is moved by
    int64_t a_columns() const { return ta ? m : k; }
    int64_t a_rows() const { return ta ? k : m; }
    int64_t b_columns() const { return tb ? k : n; }
    int64_t b_rows() const { return tb ? n : k; }
};

void* layout(int type, int64_t rows, int64_t columns, int64_t leading, int batches) {
    void* l;
    const int64_t stride = leading * columns;
    OK(cublasLtMatrixLayoutCreate(&l, (uint32_t)type, (uint64_t)rows, (uint64_t)columns, leading));
    OK(cublasLtMatrixLayoutSetAttribute(l, 5, &batches, 4));
    OK(cublasLtMatrixLayoutSetAttribute(l, 6, &stride, 8));
    return l;
}

int multiply(const Product& p, Pointer a, Pointer b, Pointer d, Pointer bias, Pointer workspace) {
    void *handle, *o, *preference;
    OK(cublasLtCreate(&handle));
    OK(cublasLtMatmulDescCreate(&o, p.compute, F32));
    OK(cublasLtMatmulDescSetAttribute(o, 3, &p.ta, 4));
    OK(cublasLtMatmulDescSetAttribute(o, 4, &p.tb, 4));
    OK(cublasLtMatmulDescSetAttribute(o, 7, &p.epilogue, 4));
    OK(cublasLtMatmulDescSetAttribute(o, 8, &bias, 8));
    OK(cublasLtMatmulPreferenceCreate(&preference));
    OK(cublasLtMatmulPreferenceSetAttribute(preference, 1, &p.workspace, 8));
    void *la = layout(p.in, p.a_rows(), p.a_columns(), p.a_rows() + p.pad, p.batches);
    void *lb = layout(p.in, p.b_rows(), p.b_columns(), p.b_rows() + p.pad, p.batches);
    void* ld = layout(p.out, p.m, p.n, p.m + p.pad, p.batches);
    uint64_t result[12];
    int count;
    if (int s = cublasLtMatmulAlgoGetHeuristic(handle, o, la, lb, ld, ld, preference, 1, result, &count)) return s;
    CHECK(count == 1);
    const auto at = [](Pointer x) { return reinterpret_cast<void*>(x); };
    const int status = cublasLtMatmul(handle, o, &p.alpha, at(a), la, at(b), lb, &p.beta, at(d), ld, at(d), ld, result, at(workspace), p.workspace, stream);
    for (void* l : {la, lb, ld}) OK(cublasLtMatrixLayoutDestroy(l));
    OK(cublasLtMatmulPreferenceDestroy(preference));
    OK(cublasLtMatmulDescDestroy(o));
    return status;
}

void compare(const Product& p) {
    const int64_t lda = p.a_rows() + p.pad, ldb = p.b_rows() + p.pad, ldd = p.m + p.pad;
    const int64_t sa = lda * p.a_columns(), sb = ldb * p.b_columns(), sd = ldd * p.n, length = p.epilogue == BGRADB ? p.n : p.m;
    Matrix a((size_t)(sa * p.batches), p.in, 3), b((size_t)(sb * p.batches), p.in, 5), d((size_t)(sd * p.batches), p.out, 7);
    Matrix bias((size_t)length, p.out, 11), workspace(1 << 18, F32, 1);
    OK(multiply(p, a.p, b.p, d.p, bias.p, workspace.p));
    const auto y = d.read(), z = bias.read();
    const double unit = p.out == F32 ? 1e-5 : 1. / 128;
    const auto A = [&](int64_t i, int64_t k) { return p.ta ? k + i * lda : i + k * lda; };
    const auto B = [&](int64_t k, int64_t j) { return p.tb ? j + k * ldb : k + j * ldb; };
    for (int64_t s = 0; s < p.batches; s++)
        for (int64_t j = 0; j < p.n; j++)
            for (int64_t i = 0; i < ldd; i++) {
                const size_t at = (size_t)(s * sd + j * ldd + i);
                double sum = 0;
                for (int64_t k = 0; i < p.m && k < p.k; k++) sum += (double)a.x[(size_t)(s * sa + A(i, k))] * b.x[(size_t)(s * sb + B(k, j))];
                sum = p.alpha * sum + p.beta * d.x[at] + (p.epilogue == BIAS && i < p.m ? bias.x[(size_t)i] : 0.f);
                if (i >= p.m) sum = d.x[at];  // between the columns
                CHECK(fabs(y[at] - sum) <= unit * (1 + fabs(sum)));
            }
    if (p.epilogue == BGRADA || p.epilogue == BGRADB)
        for (int64_t i = 0; i < length; i++) {
            double sum = 0;
            for (int64_t k = 0; k < p.k; k++) sum += p.epilogue == BGRADA ? a.x[(size_t)A(i, k)] : b.x[(size_t)B(k, i)];
            CHECK(fabs(z[(size_t)i] - sum) <= unit * (1 + fabs(sum)));
        }
}

void products() {
    open_device();
    for (int types = 0; types < 3; types++)
        for (int transposes = 0; transposes < 4; transposes++)
            for (int epilogue : {DEFAULT, BIAS, BGRADA, BGRADB}) {
                Product p{37, 23, 300};
                p.in = types == 2 ? F32 : BF16, p.out = types == 0 ? BF16 : F32;
                p.ta = transposes & 1, p.tb = transposes >> 1, p.epilogue = epilogue;
                p.alpha = 0.5f, p.beta = epilogue == BIAS ? 0.f : 2.f, p.pad = 3;
                compare(p);
            }
    Product batched{16, 40, 24};
    batched.batches = 3;
    compare(batched);
    compare(Product{1, 1, 1});
    compare(Product{200, 130, 513});
}

// The bits do not depend on the number of threads.
void threads() {
    open_device();
    Product p{300, 200, 400};
    p.in = p.out = F32;
    Matrix a(120000, F32, 3), b(80000, F32, 5), d(60000, F32, 7), e(60000, F32, 9), workspace(1 << 18, F32, 1);
    setenv("FD_EMULATED_THREADS", "1", 1);
    OK(multiply(p, a.p, b.p, d.p, 0, workspace.p));
    OK(cuStreamSynchronize(stream));
    setenv("FD_EMULATED_THREADS", "5", 1);
    OK(multiply(p, a.p, b.p, e.p, 0, workspace.p));
    CHECK(d.read() == e.read());
}

void refused() {
    open_device();
    Matrix a(5000, BF16, 3), b(5000, BF16, 5), d(5000, BF16, 7), bias(64, BF16, 9), workspace(1 << 18, F32, 1);
    Product p{40, 30, 50};
    OK(multiply(p, a.p, b.p, d.p, 0, workspace.p));
    CHECK(multiply(p, a.p + 2, b.p, d.p, 0, workspace.p) == INVALID_VALUE);  // chosen for pointers of 256 bytes
    CHECK(multiply(p, a.p, b.p, d.p, 0, 0) == INVALID_VALUE);
    p.epilogue = BIAS;
    CHECK(multiply(p, a.p, b.p, d.p, 0, workspace.p) == INVALID_VALUE);
    OK(multiply(p, a.p, b.p, d.p, bias.p, workspace.p));
    p.epilogue = 2;
    CHECK(multiply(p, a.p, b.p, d.p, 0, workspace.p) == NOT_SUPPORTED);
    p = Product{40, 30, 50};
    p.pad = -1;
    CHECK(multiply(p, a.p, b.p, d.p, 0, workspace.p) == INVALID_VALUE);
    p.pad = 0, p.in = F32;
    CHECK(multiply(p, a.p, b.p, d.p, 0, workspace.p) == NOT_SUPPORTED);
    p.in = BF16, p.compute = 77;
    CHECK(multiply(p, a.p, b.p, d.p, 0, workspace.p) == NOT_SUPPORTED);
}

void outside() {
    open_device();
    Matrix a(40 * 49, BF16, 3), b(5000, BF16, 5), d(5000, BF16, 7), workspace(1 << 18, F32, 1);
    multiply(Product{40, 30, 50}, a.p, b.p, d.p, 0, workspace.p);
}

void captured() {
    open_device();
    Matrix a(64, F32, 3), b(64, F32, 5), d(64, F32, 7), workspace(1 << 18, F32, 1);
    Product p{8, 8, 8};
    p.in = p.out = F32, p.beta = 1.f;
    void *graph, *executable;
    OK(cuStreamBeginCapture_v2(stream, 0));
    OK(multiply(p, a.p, b.p, d.p, 0, workspace.p));
    OK(cuStreamEndCapture(stream, &graph));
    CHECK(d.read() == d.x);
    OK(cuGraphInstantiateWithFlags(&executable, graph, 0));
    for (int i = 1; i <= 2; i++) {
        OK(cuGraphLaunch(executable, stream));
        float sum = d.x[0];
        for (int k = 0; k < 8; k++) sum += (float)i * a.x[8 * (size_t)k] * b.x[(size_t)k];
        CHECK(fabsf(d.read()[0] - sum) < 1e-5f);
    }
}

void speed() {
    open_device();
    for (int types = 0; types < 2; types++) {
        Product p{768, 1576, 768};
        p.in = p.out = types ? F32 : BF16;
        Matrix a(768 * 768, p.in, 3), b(768 * 1576, p.in, 5), d(768 * 1576, p.out, 7), workspace(1 << 18, F32, 1);
        const auto now = [] { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); };
        const double t = now();
        OK(multiply(p, a.p, b.p, d.p, 0, workspace.p));
        OK(cuStreamSynchronize(stream));
        fprintf(stderr, "cublasLtMatmul %s %.1f GFLOP/s\n", types ? "f32" : "bf16", 2. * 768 * 768 * 1576 / (now() - t) * 1e-9);
    }
}

}  // namespace

const Test MATMUL_TESTS[] = {
    {"matrix products", products, nullptr},
    {"matrix products on one thread and on five", threads, nullptr},
    {"matrix products that are refused", refused, nullptr},
    {"a matrix that reaches outside", outside, "cublasLtMatmul: A at"},
    {"a captured matrix product", captured, nullptr},
    {"speed of matrix products", speed, nullptr},
    {nullptr, nullptr, nullptr},
};
