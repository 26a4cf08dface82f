// 3 x 3 convolutions with stride 1 by Winograd's F(m x m, 3 x 3), forward and both gradients.
//
// An output tile of m x m costs A = (m + 2)^2 products instead of 9 m^2: a quarter for m = 4. The
// tiles of all images are rows of A matrix products [tiles, c] x [c, k]. Blocks of kRows tiles lie so
// that a register tile's operands are contiguous:
//   V [tile block][c / kLanes][A][kRows][kLanes]   transformed input
//   M [tile block][k / kCols][A][kRows][kCols]     products, or the transformed output gradient
//   U [k / kCols][A][c][kCols]                     transformed kernel, or its gradient
// Channels are filled up with zeros to whole vectors.
#pragma once

#include <omp.h>

#include <vector>

#include "transforms.h"
#include "window.h"

template <int m>
class Winograd {
  static constexpr int a = m + 2, A = a * a;
  using T = Transforms<m>;

  const Window s;
  const int64_t rows = divide_up(s.oh, m), cols = divide_up(s.ow, m), tiles = s.n * rows * cols;
  const int64_t blocks = divide_up(tiles, kRows), depths = divide_up(s.c, kLanes);
  const int64_t panels = divide_up(s.k, kCols), vectors = divide_up(s.k, kLanes);
  const int64_t c_rows = depths * kLanes;  // of U
  const int64_t v_size = depths * A * kRows * kLanes;  // of one tile block
  const int64_t m_size = A * kRows * kCols;            // of one tile block and panel
  const int64_t u_size = A * c_rows * kCols;              // of one panel
  const int threads = omp_get_max_threads();

  // Large kernels: every thread takes whole panels of U, which stay in its cache, for all tiles.
  // Small ones: every thread takes groups of tile blocks for the whole of U.
  bool by_panel() const { return panels * u_size > 3 << 20 || panels * u_size * threads > 24 << 20; }

  // Tile blocks of a group: enough that U is read from the outer cache seldom, within 1 MiB of V, M.
  int64_t group() const {
    const int64_t cached = (1 << 18) / (v_size + panels * m_size);
    const int64_t least = panels * u_size > 1 << 20 ? 4 : 1;
    return std::clamp<int64_t>(cached, least, std::max<int64_t>(least, divide_up(blocks, threads)));
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

  template <class X>
  void input(const X* x, int64_t block, float* v) const {
    for (int r = 0; r < kRows; r++) {
      const int64_t tile = block * kRows + r;
      float* row = v + r * kLanes;
      if (tile >= tiles) {
        for (int64_t q = 0; q < depths * A; q++) store(row + q * kRows * kLanes, Vector{});
        continue;
      }
      const Place at = place(tile);
      const X* pixel[a][a];
      for (int i = 0; i < a; i++)
        for (int j = 0; j < a; j++) {
          const int64_t y = at.y - s.top + i, z = at.x - s.left + j;
          const bool inside = y >= 0 && y < s.h && z >= 0 && z < s.w;
          pixel[i][j] = inside ? x + ((at.image * s.h + y) * s.w + z) * s.c
                               : static_cast<const X*>(zeros());
        }
      for (int64_t q = 0; q < depths; q++) {
        const int64_t lanes = s.c - q * kLanes;
        const auto put = [&](int i, int j, Vector o) INLINE {
          store(row + (q * A + i * a + j) * kRows * kLanes, o);
        };
        if (lanes >= kLanes)
          sandwich<a, a>(
              T::input, [&](int i, int j) INLINE { return load(pixel[i][j] + q * kLanes); }, put);
        else
          sandwich<a, a>(
              T::input, [&](int i, int j) { return load(pixel[i][j] + q * kLanes, lanes); }, put);
      }
    }
  }

  // Position of vector q of the output's channels in one tile block's panels first..last.
  int64_t in_panel(int64_t q, int64_t first) const {
    return (q / kVectors - first) * m_size + q % kVectors * kLanes;
  }

  template <class Y>
  void output(const float* product, int64_t block, int64_t first, int64_t last, Y* y) const {
    for (int r = 0; r < kRows && block * kRows + r < tiles; r++) {
      const Place at = place(block * kRows + r);
      Y* pixel = y + ((at.image * s.oh + at.y) * s.ow + at.x) * s.k;
      const int64_t height = s.oh - at.y, width = s.ow - at.x;
      for (int64_t q = first * kVectors; q < std::min(last * kVectors, vectors); q++) {
        const float* from = product + in_panel(q, first) + r * kCols;
        const int64_t lanes = s.k - q * kLanes;
        const auto get = [&](int i, int j) INLINE { return load(from + (i * a + j) * kRows * kCols); };
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

  template <class Y>
  void output_gradient(const Y* dy, int64_t block, int64_t first, int64_t last, float* z) const {
    for (int r = 0; r < kRows; r++) {
      const int64_t tile = block * kRows + r;
      const Place at = place(std::min(tile, tiles - 1));
      const Y* pixel[m][m];
      for (int i = 0; i < m; i++)
        for (int j = 0; j < m; j++) {
          const bool inside = tile < tiles && at.y + i < s.oh && at.x + j < s.ow;
          pixel[i][j] = inside ? dy + ((at.image * s.oh + at.y + i) * s.ow + at.x + j) * s.k
                               : static_cast<const Y*>(zeros());
        }
      for (int64_t q = first * kVectors; q < std::min(last * kVectors, vectors); q++) {
        float* to = z + in_panel(q, first) + r * kCols;
        const int64_t lanes = s.k - q * kLanes;
        const auto put = [&](int i, int j, Vector o) INLINE {
          store(to + (i * a + j) * kRows * kCols, o);
        };
        if (lanes >= kLanes)
          sandwich<a, m>(
              T::output_gradient,
              [&](int i, int j) INLINE { return load(pixel[i][j] + q * kLanes); }, put);
        else
          sandwich<a, m>(
              T::output_gradient,
              [&](int i, int j) { return load(pixel[i][j] + q * kLanes, lanes); }, put);
      }
    }
  }

  // One panel of U, rows first..last, of kernel [3, 3, c, k]; of [3, 3, k, c] turned by 180 degrees
  // and transposed if `turned`.
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
              [&](int i, int j, Vector o) INLINE { store(to + (i * a + j) * c_rows * kCols, o); });
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
            [&](int i, int j) INLINE { return load(from + (i * a + j) * c_rows * kCols); },
            [&](int i, int j, Vector o) INLINE {
              K* to = dg + ((i * 3 + j) * s.c + c) * s.k + q * kLanes;
              lanes == kLanes ? store(to, o) : store(to, o, lanes);
            });
      }
  }

  // M of `count` tile blocks and of panels first..last, whose U starts at u.
  void products(const float* v, int64_t count, const float* u, int64_t n, float* product) const {
    for (int x = 0; x < A; x++)
      for (int64_t p = 0; p < n; p++)
        for (int64_t b = 0; b < count; b++)
          multiply(v + b * v_size + x * kRows * kLanes, depths, A * kRows * kLanes,
                   u + p * u_size + x * c_rows * kCols, product + (b * n + p) * m_size + x * kRows * kCols);
  }

  // U (+)= V^T Z over `count` tile blocks.
  void gradient_products(const float* v, int64_t count, const float* z, int64_t n, float* u,
                         bool add) const {
    for (int x = 0; x < A; x++)
      for (int64_t p = 0; p < n; p++)
        for (int64_t c = 0; c < c_rows; c += kTransposedRows)
          multiply_transposed(v + (c / kLanes * A + x) * kRows * kLanes + c % kLanes, count, v_size,
                              z + p * m_size + x * kRows * kCols, n * m_size,
                              u + p * u_size + (x * c_rows + c) * kCols, add);
  }

 public:
  explicit Winograd(const Window& window) : s(window) {}

  // y [n, oh, ow, k] of x [n, h, w, c].
  template <class X>
  void forward(const X* x, const X* g, X* y, bool turned) const {
    if (by_panel()) {
      const int64_t own = u_size + blocks * m_size;
      float* v = scratch(blocks * v_size + threads * own);
#pragma omp parallel
      {
#pragma omp for schedule(dynamic)
        for (int64_t b = 0; b < blocks; b++) input(x, b, v + b * v_size);
        float* u = v + blocks * v_size + omp_get_thread_num() * own;
        float* product = u + u_size;
#pragma omp for schedule(dynamic)
        for (int64_t p = 0; p < panels; p++) {
          kernel(g, turned, p, 0, s.c, u);
          products(v, blocks, u, 1, product);
          for (int64_t b = 0; b < blocks; b++) output(product + b * m_size, b, p, p + 1, y);
        }
      }
      return;
    }
    const int64_t size = group(), own = size * (v_size + panels * m_size);
    float* u = scratch(panels * u_size + threads * own);
#pragma omp parallel
    {
#pragma omp for schedule(dynamic)
      for (int64_t j = 0; j < panels * depths; j++) {
        const int64_t p = j / depths, c = j % depths * kLanes;
        kernel(g, turned, p, c, c + kLanes, u + p * u_size);
      }
      float* v = u + panels * u_size + omp_get_thread_num() * own;
      float* product = v + size * v_size;
#pragma omp for schedule(dynamic)
      for (int64_t first = 0; first < blocks; first += size) {
        const int64_t count = std::min(size, blocks - first);
        for (int64_t b = 0; b < count; b++) input(x, first + b, v + b * v_size);
        products(v, count, u, panels, product);
        for (int64_t b = 0; b < count; b++)
          output(product + b * panels * m_size, first + b, 0, panels, y);
      }
    }
  }

  // The gradient dg [3, 3, c, k] of the kernel.
  template <class X>
  void kernel_gradient(const X* x, const X* dy, X* dg) const {
    if (by_panel()) {
      const int64_t own = u_size + blocks * m_size;
      float* v = scratch(blocks * v_size + threads * own);
#pragma omp parallel
      {
#pragma omp for schedule(dynamic)
        for (int64_t b = 0; b < blocks; b++) input(x, b, v + b * v_size);
        float* u = v + blocks * v_size + omp_get_thread_num() * own;
        float* z = u + u_size;
#pragma omp for schedule(dynamic)
        for (int64_t p = 0; p < panels; p++) {
          for (int64_t b = 0; b < blocks; b++) output_gradient(dy, b, p, p + 1, z + b * m_size);
          gradient_products(v, blocks, z, 1, u, false);
          kernel_gradient(u, p, 0, s.c, dg);
        }
      }
      return;
    }
    const int64_t size = group(), own = panels * u_size + size * (v_size + panels * m_size);
    float* memory = scratch(threads * own);
    std::vector<char> used(threads, 0);
#pragma omp parallel
    {
      const int id = omp_get_thread_num();
      float* u = memory + id * own;
      float* v = u + panels * u_size;
      float* z = v + size * v_size;
#pragma omp for schedule(static)  // the same partial sums in every run
      for (int64_t first = 0; first < blocks; first += size) {
        const int64_t count = std::min(size, blocks - first);
        for (int64_t b = 0; b < count; b++) {
          input(x, first + b, v + b * v_size);
          output_gradient(dy, first + b, 0, panels, z + b * panels * m_size);
        }
        gradient_products(v, count, z, panels, u, used[id]);
        used[id] = 1;
      }
#pragma omp for schedule(dynamic)
      for (int64_t j = 0; j < panels * depths; j++) {
        const int64_t p = j / depths, c = j % depths * kLanes;
        float* sum = nullptr;
        for (int t = 0; t < threads; t++) {
          if (!used[t]) continue;
          float* part = memory + t * own + p * u_size;
          if (sum != nullptr)
            for (int xi = 0; xi < A; xi++)
              for (int64_t e = 0; e < kLanes * kCols; e += kLanes) {
                const int64_t at = (xi * c_rows + c) * kCols + e;
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
