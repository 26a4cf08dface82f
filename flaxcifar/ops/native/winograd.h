// 3 x 3 convolutions with stride 1 by Winograd's F(m x m, 3 x 3): forward and both gradients.
//
// An m x m output tile costs A = (m + 2)^2 multiplications instead of 9 m^2, a quarter for m = 4.
// The tiles of all images are the rows of A matrix products [tiles, c] x [c, k]. Tiles are stored
// in blocks of kRows, so that the operands of a register tile are contiguous:
//   V [A][tile block][c / kLanes][kRows][kLanes]   transformed input
//   M [A][tile block][k / kCols][kRows][kCols]     products, or the transformed output gradient
//   U [A][k / kCols][c][kCols]                     transformed kernel, or its gradient
// Channels are padded with zeros to whole vectors. V and M hold one chunk of the tile blocks at a
// time. If U is small, every thread has its own chunk, which stays in its cache together with U. If
// U is large, all threads share one chunk and divide its A products among them, so that U is read
// once for many tiles.
#pragma once

#include <omp.h>

#include <vector>

#include "transforms.h"
#include "window.h"

constexpr int64_t kPad = 16;               // floats: a cache line
constexpr int64_t kCached = 1 << 15;       // floats of V that fit in a core's cache
constexpr int64_t kSharedKernel = 1 << 21; // all threads share a chunk if U has more floats

template <int m>
class Winograd {
  static constexpr int a = m + 2, A = a * a;
  using T = Transforms<m>;

  const Window s;
  const int64_t rows = divide_up(s.oh, m), cols = divide_up(s.ow, m), tiles = s.n * rows * cols;
  const int64_t blocks = divide_up(tiles, kRows), depths = divide_up(s.c, kLanes);
  const int64_t panels = divide_up(s.k, kCols), vectors = divide_up(s.k, kLanes);
  const int64_t c_rows = depths * kLanes;  // of U
  const int threads = omp_get_max_threads();
  const bool shared = A * panels * c_rows * kCols > kSharedKernel;
  const int64_t chunk = shared ? shared_chunk() : own_chunk();  // tile blocks in V and M

  // Strides of V, M and U. kPad avoids powers of two, which would map to few sets of the caches.
  const int64_t v_block = depths * kRows * kLanes + kPad, v_x = chunk * v_block + kPad;
  const int64_t m_panel = kRows * kCols, m_block = panels * m_panel + kPad, m_x = chunk * m_block + kPad;
  const int64_t u_panel = c_rows * kCols, u_x = panels * u_panel + kPad;

  // Large enough that U is rarely read from the outer cache, with V and M within 1 MiB.
  int64_t own_chunk() const {
    const int64_t cached = (1 << 18) / (A * kRows * (c_rows + panels * kCols));
    const int64_t least = A * panels * c_rows * kCols > 1 << 20 ? 4 : 1;
    return std::clamp<int64_t>(cached, least, std::max<int64_t>(least, divide_up(blocks, threads)));
  }

  // All tile blocks, with V and M within 128 MiB.
  int64_t shared_chunk() const {
    const int64_t most = (1 << 25) / (A * kRows * (c_rows + panels * kCols));
    return std::clamp<int64_t>(most, 1, blocks);
  }

  static const void* zeros() {
    alignas(64) static const float row[1 << 14] = {};
    return row;
  }

  struct Place {
    int64_t image, y, x;  // of the tile's first output pixel
  };
  Place place(int64_t tile) const {
    return {tile / (rows * cols), tile / cols % rows * m, tile % cols * m};
  }

  // Sets pointers to the pixels of the tile at `corner`. Pixels outside [n, height, width,
  // channels] point to zeros.
  template <int size, class X>
  static void pixels(const X* x, int64_t height, int64_t width, int64_t channels, Place corner,
                     bool exists, const X* (&pixel)[size][size]) {
    for (int i = 0; i < size; i++)
      for (int j = 0; j < size; j++) {
        const int64_t y = corner.y + i, z = corner.x + j;
        const bool inside = exists && y >= 0 && y < height && z >= 0 && z < width;
        pixel[i][j] = inside ? x + ((corner.image * height + y) * width + z) * channels
                             : static_cast<const X*>(zeros());
      }
  }

  // Writes V of one tile block, depth by depth, so that whole cache lines are filled.
  template <class X>
  void input(const X* x, int64_t block, float* v) const {
    const X* pixel[kRows][a][a];
    for (int r = 0; r < kRows; r++) {
      Place corner = place(block * kRows + r);
      corner.y -= s.top;
      corner.x -= s.left;
      pixels(x, s.h, s.w, s.c, corner, block * kRows + r < tiles, pixel[r]);
    }
    for (int64_t q = 0; q < depths; q++)
      for (int r = 0; r < kRows; r++) {
        const int64_t lanes = s.c - q * kLanes;
        float* to = v + (q * kRows + r) * kLanes;
        const auto put = [&](int i, int j, Vector o) INLINE { store(to + (i * a + j) * v_x, o); };
        if (lanes >= kLanes)
          sandwich<a, a>(
              T::input, [&](int i, int j) INLINE { return load(pixel[r][i][j] + q * kLanes); },
              put);
        else
          sandwich<a, a>(
              T::input, [&](int i, int j) { return load(pixel[r][i][j] + q * kLanes, lanes); },
              put);
      }
  }

  // Writes the transformed output gradient Z of one tile block, which is stored like M.
  template <class Y>
  void output_gradient(const Y* dy, int64_t block, float* z) const {
    const Y* pixel[kRows][m][m];
    for (int r = 0; r < kRows; r++)
      pixels(dy, s.oh, s.ow, s.k, place(block * kRows + r), block * kRows + r < tiles, pixel[r]);
    for (int64_t q = 0; q < vectors; q++)
      for (int r = 0; r < kRows; r++) {
        const int64_t lanes = s.k - q * kLanes;
        float* to = z + in_panel(q) + r * kCols;
        const auto put = [&](int i, int j, Vector o) INLINE { store(to + (i * a + j) * m_x, o); };
        if (lanes >= kLanes)
          sandwich<a, m>(
              T::output_gradient,
              [&](int i, int j) INLINE { return load(pixel[r][i][j] + q * kLanes); }, put);
        else
          sandwich<a, m>(
              T::output_gradient,
              [&](int i, int j) { return load(pixel[r][i][j] + q * kLanes, lanes); }, put);
      }
  }

  // Offset of vector q of the output channels in one tile block.
  static int64_t in_panel(int64_t q) { return q / kVectors * kRows * kCols + q % kVectors * kLanes; }

  template <class Y>
  void output(const float* product, int64_t block, Y* y) const {
    for (int r = 0; r < kRows && block * kRows + r < tiles; r++) {
      const Place at = place(block * kRows + r);
      Y* pixel = y + ((at.image * s.oh + at.y) * s.ow + at.x) * s.k;
      const int64_t height = s.oh - at.y, width = s.ow - at.x;
      for (int64_t q = 0; q < vectors; q++) {
        const float* from = product + in_panel(q) + r * kCols;
        const int64_t lanes = s.k - q * kLanes;
        const auto get = [&](int i, int j) INLINE { return load(from + (i * a + j) * m_x); };
        if (lanes >= kLanes)
          sandwich<m, a>(T::output, get, [&](int i, int j, Vector o) INLINE {
            if (i < height && j < width) store(pixel + (i * s.ow + j) * s.k + q * kLanes, o);
          });
        else
          sandwich<m, a>(T::output, get, [&](int i, int j, Vector o) {
            if (i < height && j < width) store(pixel + (i * s.ow + j) * s.k + q * kLanes, o, lanes);
          });
      }
    }
  }

  // Writes rows first..last of one panel of U from the kernel [3, 3, c, k]. If `turned`, the kernel
  // is [3, 3, k, c], and is rotated by 180 degrees and transposed.
  template <class K>
  void kernel(const K* g, bool turned, int64_t panel, int64_t first, int64_t last, float* u) const {
    for (int64_t q = panel * kVectors; q < std::min((panel + 1) * kVectors, vectors); q++)
      for (int64_t c = first; c < last; c += kLanes) {
        const int64_t ins = std::min<int64_t>(kLanes, s.c - c);
        const int64_t outs = std::min<int64_t>(kLanes, s.k - q * kLanes);
        float square[9][kLanes][kLanes] = {};  // [position][c][k]
        for (int i = 0; i < 9; i++)
          if (turned) {
            for (int e = 0; e < outs; e++) {
              const K* from = g + ((8 - i) * s.k + q * kLanes + e) * s.c + c;
              const Vector v = ins == kLanes ? load(from) : load(from, ins);
              for (int f = 0; f < kLanes; f++) square[i][f][e] = v[f];
            }
          } else {
            for (int e = 0; e < ins; e++) {
              const K* from = g + (i * s.c + c + e) * s.k + q * kLanes;
              store(square[i][e], outs == kLanes ? load(from) : load(from, outs));
            }
          }
        for (int e = 0; e < kLanes; e++) {
          float* to = u + (c + e) * kCols + q % kVectors * kLanes;
          sandwich<a, 3>(
              T::kernel, [&](int i, int j) INLINE { return load(square[i * 3 + j][e]); },
              [&](int i, int j, Vector o) INLINE { store(to + (i * a + j) * u_x, o); });
        }
      }
  }

  template <class K>
  void kernel_gradient(const float* u, int64_t panel, int64_t first, int64_t last, K* dg) const {
    for (int64_t q = panel * kVectors; q < std::min((panel + 1) * kVectors, vectors); q++)
      for (int64_t c = first; c < std::min(last, s.c); c++) {
        const float* from = u + c * kCols + q % kVectors * kLanes;
        const int64_t lanes = std::min<int64_t>(kLanes, s.k - q * kLanes);
        sandwich<3, a>(
            T::kernel_gradient,
            [&](int i, int j) INLINE { return load(from + (i * a + j) * u_x); },
            [&](int i, int j, Vector o) INLINE {
              K* to = dg + ((i * 3 + j) * s.c + c) * s.k + q * kLanes;
              lanes == kLanes ? store(to, o) : store(to, o, lanes);
            });
      }
  }

  // Computes M = V U: panels first..last of product x for `count` tile blocks.
  void multiply_panels(int x, const float* v, int64_t count, const float* u, int64_t first,
                       int64_t last, float* product) const {
    const int64_t most = std::max<int64_t>(1, kCached / (c_rows * kRows));
    for (int64_t start = 0; start < count; start += most)
      for (int64_t p = first; p < last; p++)
        for (int64_t b = start; b < std::min(start + most, count); b++)
          multiply(v + x * v_x + b * v_block, depths, kRows * kLanes, u + x * u_x + p * u_panel,
                   product + x * m_x + b * m_block + p * m_panel);
  }

  // Computes U = V^T Z, or U += V^T Z: the same panels of the kernel gradient.
  void multiply_gradients(int x, const float* v, int64_t count, const float* z, int64_t first,
                          int64_t last, float* u, bool add) const {
    const int64_t most = std::max<int64_t>(1, kCached / (count * kRows * kLanes)) * kLanes;
    for (int64_t start = 0; start < c_rows; start += most)
      for (int64_t p = first; p < last; p++)
        for (int64_t c = start; c < std::min(start + most, c_rows); c += kTransposedRows)
          multiply_transposed(v + x * v_x + c / kLanes * kRows * kLanes + c % kLanes, count, v_block,
                              z + x * m_x + p * m_panel, m_block,
                              u + x * u_x + p * u_panel + c * kCols, add);
  }

  // Calls work(x, first panel, last panel) for all A products, divided among the threads of a team.
  template <class Work>
  void share(Work work) const {
    const int64_t parts = std::min(panels, divide_up(4 * threads, A));
#pragma omp for schedule(dynamic)
    for (int64_t j = 0; j < A * parts; j++) {
      const int64_t part = j % parts;
      work(static_cast<int>(j / parts), panels * part / parts, panels * (part + 1) / parts);
    }
  }

 public:
  explicit Winograd(const Window& window) : s(window) {}

  // Computes y [n, oh, ow, k] from x [n, h, w, c] and the kernel g.
  template <class X>
  void forward(const X* x, const X* g, X* y, bool turned) const {
    const int64_t own = A * (v_x + m_x);
    float* u = scratch(A * u_x + (shared ? 1 : threads) * own);
#pragma omp parallel
    {
#pragma omp for schedule(dynamic)
      for (int64_t j = 0; j < panels * depths; j++) {
        const int64_t p = j / depths, c = j % depths * kLanes;
        kernel(g, turned, p, c, c + kLanes, u + p * u_panel);
      }
      float* v = u + A * u_x + (shared ? 0 : omp_get_thread_num()) * own;
      float* product = v + A * v_x;
      if (shared) {
        for (int64_t first = 0; first < blocks; first += chunk) {
          const int64_t count = std::min(chunk, blocks - first);
#pragma omp for schedule(dynamic)
          for (int64_t b = 0; b < count; b++) input(x, first + b, v + b * v_block);
          share([&](int xi, int64_t from, int64_t to) {
            multiply_panels(xi, v, count, u, from, to, product);
          });
#pragma omp for schedule(dynamic)
          for (int64_t b = 0; b < count; b++) output(product + b * m_block, first + b, y);
        }
      } else {
#pragma omp for schedule(dynamic)
        for (int64_t first = 0; first < blocks; first += chunk) {
          const int64_t count = std::min(chunk, blocks - first);
          for (int64_t b = 0; b < count; b++) input(x, first + b, v + b * v_block);
          for (int xi = 0; xi < A; xi++) multiply_panels(xi, v, count, u, 0, panels, product);
          for (int64_t b = 0; b < count; b++) output(product + b * m_block, first + b, y);
        }
      }
    }
  }

  // Computes the kernel gradient dg [3, 3, c, k].
  template <class X>
  void kernel_gradient(const X* x, const X* dy, X* dg) const {
    const int64_t own = A * (u_x + v_x + m_x);
    float* memory = scratch((shared ? 1 : threads) * own);
    std::vector<char> used(threads, 0);
#pragma omp parallel
    {
      const int id = shared ? 0 : omp_get_thread_num();
      float* u = memory + id * own;
      float* v = u + A * u_x;
      float* z = v + A * v_x;
      const auto transform = [&](int64_t block, int64_t b) {
        input(x, block, v + b * v_block);
        output_gradient(dy, block, z + b * m_block);
      };
      if (shared) {
        for (int64_t first = 0; first < blocks; first += chunk) {
          const int64_t count = std::min(chunk, blocks - first);
#pragma omp for schedule(dynamic)
          for (int64_t b = 0; b < count; b++) transform(first + b, b);
          share([&](int xi, int64_t from, int64_t to) {
            multiply_gradients(xi, v, count, z, from, to, u, first > 0);
          });
        }
        used[0] = 1;
      } else {
#pragma omp for schedule(static)  // deterministic: the same partial sums in every run
        for (int64_t first = 0; first < blocks; first += chunk) {
          const int64_t count = std::min(chunk, blocks - first);
          for (int64_t b = 0; b < count; b++) transform(first + b, b);
          for (int xi = 0; xi < A; xi++)
            multiply_gradients(xi, v, count, z, 0, panels, u, used[id]);
          used[id] = 1;
        }
      }
#pragma omp for schedule(dynamic)
      for (int64_t j = 0; j < panels * depths; j++) {
        const int64_t p = j / depths, c = j % depths * kLanes;
        float* sum = nullptr;
        for (int t = 0; t < threads; t++) {
          if (!used[t]) continue;
          float* part = memory + t * own + p * u_panel;
          if (sum != nullptr)
            for (int xi = 0; xi < A; xi++)
              for (int64_t e = 0; e < kLanes * kCols; e += kLanes) {
                const int64_t at = xi * u_x + c * kCols + e;
                store(sum + at, load(sum + at) + load(part + at));
              }
          else
            sum = part;
        }
        kernel_gradient(sum, p, c, c + kLanes, dg);
      }
    }
  }
};
