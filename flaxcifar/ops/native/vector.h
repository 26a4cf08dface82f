// SIMD vectors, the matrix products of Winograd's algorithm, and scratch memory.
#pragma once

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

// GCC's vector extensions: one source for AVX-512, AVX and SSE. The register tile of `multiply` is
// kRows x kCols, that of `multiply_transposed` is kTransposedRows x kCols.
#if defined(__AVX512F__)
constexpr int kLanes = 16, kRows = 12, kTransposedRows = 8;
#elif defined(__AVX__)
constexpr int kLanes = 8, kRows = 6, kTransposedRows = 4;
#else
constexpr int kLanes = 4, kRows = 6, kTransposedRows = 4;
#endif
constexpr int kVectors = 2, kCols = kLanes * kVectors;

#define INLINE __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

typedef float Vector __attribute__((vector_size(4 * kLanes)));
typedef float UnalignedVector __attribute__((vector_size(4 * kLanes), aligned(4)));
typedef uint32_t Bits __attribute__((vector_size(4 * kLanes)));
typedef uint16_t HalfBits __attribute__((vector_size(2 * kLanes), aligned(2)));
typedef uint16_t bfloat16;  // the upper half of a float32

INLINE inline Vector load(const float* p) { return *reinterpret_cast<const UnalignedVector*>(p); }
INLINE inline void store(float* p, Vector v) { *reinterpret_cast<UnalignedVector*>(p) = v; }
INLINE inline Vector load(const bfloat16* p) {
  return (Vector)(__builtin_convertvector(*reinterpret_cast<const HalfBits*>(p), Bits) << 16);
}
INLINE inline void store(bfloat16* p, Vector v) {  // rounds to nearest, ties to even; NaN stays NaN
  const Bits bits = (Bits)v, rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const Bits quiet = (bits >> 16) | 0x40, nan = (Bits)(v != v);
  *reinterpret_cast<HalfBits*>(p) =
      __builtin_convertvector((nan & quiet) | (~nan & rounded), HalfBits);
}

// Load and store of the first `count` lanes. The others are loaded as zeros and not stored.
template <class X>
inline Vector load(const X* p, int64_t count) {
  X lanes[kLanes] = {};
  std::memcpy(lanes, p, count * sizeof(X));
  return load(lanes);
}
template <class X>
inline void store(X* p, Vector v, int64_t count) {
  X lanes[kLanes];
  store(lanes, v);
  std::memcpy(p, lanes, count * sizeof(X));
}

// c[Rows][kCols] = (add ? c : 0) + sum over blocks and p of a(row, p) * b[p][kCols]. A block of a
// is [kRows][kLanes]. p runs along its lanes, or along its rows if Transposed.
template <int Rows, bool Transposed>
INLINE inline void register_tile(const float* a, int64_t blocks, int64_t a_stride, const float* b,
                                 int64_t b_stride, float* c, bool add) {
  constexpr int depth = Transposed ? kRows : kLanes;
  constexpr int row = Transposed ? 1 : kLanes, step = Transposed ? kLanes : 1;
  Vector sum[Rows][kVectors];
  UNROLL for (int r = 0; r < Rows; r++)
    UNROLL for (int v = 0; v < kVectors; v++) sum[r][v] = Vector{};
  if (add) {
    UNROLL for (int r = 0; r < Rows; r++)
      UNROLL for (int v = 0; v < kVectors; v++) sum[r][v] = load(c + r * kCols + v * kLanes);
  }
  for (int64_t block = 0; block < blocks; block++, a += a_stride, b += b_stride)
    for (int p = 0; p < depth; p++) {
      Vector right[kVectors];
      UNROLL for (int v = 0; v < kVectors; v++) right[v] = load(b + p * kCols + v * kLanes);
      UNROLL for (int r = 0; r < Rows; r++)
        UNROLL for (int v = 0; v < kVectors; v++) sum[r][v] += a[r * row + p * step] * right[v];
    }
  UNROLL for (int r = 0; r < Rows; r++)
    UNROLL for (int v = 0; v < kVectors; v++) store(c + r * kCols + v * kLanes, sum[r][v]);
}

__attribute__((noinline)) inline void multiply(const float* a, int64_t blocks, int64_t a_stride,
                                               const float* b, float* c) {
  register_tile<kRows, false>(a, blocks, a_stride, b, kLanes * kCols, c, false);
}

__attribute__((noinline)) inline void multiply_transposed(const float* a, int64_t blocks,
                                                          int64_t a_stride, const float* b,
                                                          int64_t b_stride, float* c, bool add) {
  register_tile<kTransposedRows, true>(a, blocks, a_stride, b, b_stride, c, add);
}

// Returns a buffer that is reused by later calls. It is on huge pages because the transforms write
// to dozens of streams at once, more than the TLB has entries for small pages. For the executor's
// thread only.
inline float* scratch(int64_t floats) {
  constexpr int64_t page = 1 << 21;
  static float* memory = nullptr;
  static int64_t capacity = 0;
  const int64_t bytes = (floats * 4 + page - 1) / page * page;
  if (bytes > capacity) {
    std::free(memory);
    capacity = 0;
    memory = static_cast<float*>(std::aligned_alloc(page, bytes));
    if (memory == nullptr) throw std::bad_alloc();
    madvise(memory, bytes, MADV_HUGEPAGE);
    capacity = bytes;
  }
  return memory;
}
