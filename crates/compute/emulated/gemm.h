// gemm.h: the product of column-major matrices that cublaslt.cpp needs.
#pragma once

#include <stddef.h>
#include <stdint.h>

enum Type : int { F32 = 0, BF16 = 14 };  // cudaDataType
inline size_t size_of(Type type) { return type == F32 ? 4 : 2; }

// Element (i, j) lies at i * row + j * column.
struct Operand {
    const void* data;
    Type type;
    int64_t row, column;
};

enum class Bias { NONE, ADD, GRADIENT_A, GRADIENT_B };

// d = alpha a b + beta c + bias: `a` is m x k, `b` k x n. ADD: a column of m values added to each column of d. GRADIENT_A and _B: the sums
// of a's rows and of b's columns are stored. Sums run over k in order, in f32: the same bits on any number of threads and any machine.
struct Gemm {
    int64_t m, n, k;
    Operand a, b, c;
    void* d;
    Type d_type;
    int64_t d_column;
    float alpha, beta;
    Bias bias;
    void* bias_data;
    Type bias_type;
};
void gemm(const Gemm& g, unsigned threads);
