// Shape of a convolution of NHWC activations with an HWIO kernel.
#pragma once

#include <algorithm>
#include <cstdint>

struct Window {
  int64_t n, h, w, c;                // input
  int64_t kh, kw;                    // kernel [kh, kw, c / groups, k]
  int64_t oh, ow, k;                 // output
  int64_t stride[2], dilation[2];    // dilation of the kernel
  int64_t top, bottom, left, right;  // zeros around the input
  int64_t groups;
};

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
