// Transforms of Winograd's minimal filtering F(m x m, 3 x 3) for m = 2, 3 and 4.
// A. Lavin, S. Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016.
// Each function applies its matrix to one column of vectors. `sandwich` applies it along both axes.
#pragma once

#include "vector.h"

template <int m>
struct Transforms;

template <>
struct Transforms<2> {
  INLINE static void input(const Vector* d, Vector* o) {  // B^T d
    o[0] = d[0] - d[2];
    o[1] = d[1] + d[2];
    o[2] = d[2] - d[1];
    o[3] = d[1] - d[3];
  }
  INLINE static void output(const Vector* d, Vector* o) {  // A^T d
    o[0] = d[0] + d[1] + d[2];
    o[1] = d[1] - d[2] - d[3];
  }
  INLINE static void output_gradient(const Vector* d, Vector* o) {  // A d
    o[0] = d[0];
    o[1] = d[0] + d[1];
    o[2] = d[0] - d[1];
    o[3] = -d[1];
  }
  INLINE static void kernel(const Vector* g, Vector* o) {  // G g
    const Vector even = .5f * (g[0] + g[2]), odd = .5f * g[1];
    o[0] = g[0];
    o[1] = even + odd;
    o[2] = even - odd;
    o[3] = g[2];
  }
  INLINE static void kernel_gradient(const Vector* d, Vector* o) {  // G^T d
    const Vector even = .5f * (d[1] + d[2]);
    o[0] = d[0] + even;
    o[1] = .5f * (d[1] - d[2]);
    o[2] = even + d[3];
  }
};

template <>
struct Transforms<3> {  // interpolation points 0, 1, -1, 2 and infinity
  INLINE static void input(const Vector* d, Vector* o) {
    const Vector odd = d[3] - d[1];
    o[0] = 2 * (d[0] - d[2]) + odd;
    o[1] = d[3] - d[2] - 2 * d[1];
    o[2] = d[3] - 3 * d[2] + 2 * d[1];
    o[3] = odd;
    o[4] = d[4] - d[2] - 2 * odd;
  }
  INLINE static void output(const Vector* d, Vector* o) {
    const Vector a = d[1] + d[2];
    o[0] = d[0] + a + d[3];
    o[1] = d[1] - d[2] + 2 * d[3];
    o[2] = a + 4 * d[3] + d[4];
  }
  INLINE static void output_gradient(const Vector* d, Vector* o) {
    const Vector even = d[0] + d[2];
    o[0] = d[0];
    o[1] = even + d[1];
    o[2] = even - d[1];
    o[3] = d[0] + 2 * d[1] + 4 * d[2];
    o[4] = d[2];
  }
  INLINE static void kernel(const Vector* g, Vector* o) {
    const Vector even = g[0] + g[2];
    o[0] = .5f * g[0];
    o[1] = -.5f * (even + g[1]);
    o[2] = (1.f / 6) * (g[1] - even);
    o[3] = (1.f / 6) * g[0] + (1.f / 3) * g[1] + (2.f / 3) * g[2];
    o[4] = g[2];
  }
  INLINE static void kernel_gradient(const Vector* d, Vector* o) {
    const Vector a = .5f * d[1], b = (1.f / 6) * d[2], c = (1.f / 6) * d[3];
    o[0] = .5f * d[0] - a - b + c;
    o[1] = b - a + 2 * c;
    o[2] = 4 * c - a - b + d[4];
  }
};

template <>
struct Transforms<4> {  // interpolation points 0, 1, -1, 2, -2 and infinity
  INLINE static void input(const Vector* d, Vector* o) {
    const Vector a = d[4] - 4 * d[2], b = d[3] - 4 * d[1];
    const Vector c = d[4] - d[2], e = 2 * (d[3] - d[1]);
    o[0] = 4 * d[0] - 5 * d[2] + d[4];
    o[1] = a + b;
    o[2] = a - b;
    o[3] = c + e;
    o[4] = c - e;
    o[5] = 4 * d[1] - 5 * d[3] + d[5];
  }
  INLINE static void output(const Vector* d, Vector* o) {
    const Vector a = d[1] + d[2], b = d[1] - d[2], c = d[3] + d[4], e = d[3] - d[4];
    o[0] = d[0] + a + c;
    o[1] = b + 2 * e;
    o[2] = a + 4 * c;
    o[3] = b + 8 * e + d[5];
  }
  INLINE static void output_gradient(const Vector* d, Vector* o) {
    const Vector a = d[0] + d[2], b = d[1] + d[3];
    const Vector c = d[0] + 4 * d[2], e = 2 * d[1] + 8 * d[3];
    o[0] = d[0];
    o[1] = a + b;
    o[2] = a - b;
    o[3] = c + e;
    o[4] = c - e;
    o[5] = d[3];
  }
  INLINE static void kernel(const Vector* g, Vector* o) {
    const Vector a = (1.f / 6) * (g[0] + g[2]), b = (1.f / 6) * g[1];
    const Vector c = (1.f / 24) * g[0] + (1.f / 6) * g[2], e = (1.f / 12) * g[1];
    o[0] = .25f * g[0];
    o[1] = -a - b;
    o[2] = b - a;
    o[3] = c + e;
    o[4] = c - e;
    o[5] = g[2];
  }
  INLINE static void kernel_gradient(const Vector* d, Vector* o) {
    const Vector a = (-1.f / 6) * (d[1] + d[2]), b = d[3] + d[4];
    o[0] = .25f * d[0] + a + (1.f / 24) * b;
    o[1] = (1.f / 6) * (d[2] - d[1]) + (1.f / 12) * (d[3] - d[4]);
    o[2] = a + (1.f / 6) * b + d[5];
  }
};

// Computes out [R][R] = T in T^T for in [S][S], where `transform` applies T [R][S]. get(i, j) reads
// an element of `in`, put(i, j, value) writes one of `out`.
template <int R, int S, class Transform, class Get, class Put>
INLINE inline void sandwich(Transform transform, Get get, Put put) {
  Vector middle[S][R];
  UNROLL for (int j = 0; j < S; j++) {
    Vector column[S];
    UNROLL for (int i = 0; i < S; i++) column[i] = get(i, j);
    transform(column, middle[j]);
  }
  UNROLL for (int i = 0; i < R; i++) {
    Vector row[S], out[R];
    UNROLL for (int j = 0; j < S; j++) row[j] = middle[j][i];
    transform(row, out);
    UNROLL for (int j = 0; j < R; j++) put(i, j, out[j]);
  }
}
