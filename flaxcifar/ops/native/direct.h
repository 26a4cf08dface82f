// Convolutions of any shape with oneDNN: forward and both gradients, float32 and bfloat16.
//
// Activations stay in XLA's NHWC layout. oneDNN chooses the kernel's layout, and the kernel is
// reordered on each call. Primitives are cached by shape. Runs on the executor's thread only.
#pragma once

#include <cstring>
#include <map>
#include <string>
#include <unordered_map>

#include "oneapi/dnnl/dnnl.hpp"
#include "vector.h"
#include "window.h"

enum class Pass { kForward, kInputGradient, kKernelGradient };

class Direct {
  using Memory = dnnl::memory;

  struct Primitive {
    dnnl::primitive run, reorder;
    Memory::desc x, plain_kernel, kernel, y, space, reorder_space;
    bool reordered;
  };

  const dnnl::engine engine{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream{engine};
  std::unordered_map<std::string, Primitive> primitives;

  Primitive build(const Window& s, Pass pass, Memory::data_type type) {
    using Tag = Memory::format_tag;
    const int64_t o = s.k / s.groups, i = s.c / s.groups;
    Memory::dims dims = {o, i, s.kh, s.kw};
    Memory::dims hwio = {1, s.k, s.kw * i * s.k, i * s.k};
    if (s.groups > 1) {
      dims.insert(dims.begin(), s.groups);
      hwio.insert(hwio.begin(), o);
    }
    Primitive p;
    p.x = {{s.n, s.c, s.h, s.w}, type, Tag::nhwc};
    p.y = {{s.n, s.k, s.oh, s.ow}, type, Tag::nhwc};
    p.plain_kernel = {dims, type, hwio};
    const Memory::desc any(dims, type, Tag::any);
    const Memory::dims stride = {s.stride[0], s.stride[1]};
    const Memory::dims dilation = {s.dilation[0] - 1, s.dilation[1] - 1};
    const Memory::dims before = {s.top, s.left}, after = {s.bottom, s.right};
    constexpr auto algorithm = dnnl::algorithm::convolution_direct;
    dnnl::primitive_attr attr;
    attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    const dnnl::convolution_forward::primitive_desc forward(
        engine, dnnl::prop_kind::forward_training, algorithm, p.x, any, p.y, stride, dilation,
        before, after, attr);
    if (pass == Pass::kForward) {
      p.kernel = forward.weights_desc();
      p.space = forward.scratchpad_desc();
      p.run = dnnl::convolution_forward(forward);
    } else if (pass == Pass::kInputGradient) {
      const dnnl::convolution_backward_data::primitive_desc d(
          engine, algorithm, p.x, any, p.y, stride, dilation, before, after, forward, attr);
      p.kernel = d.weights_desc();
      p.space = d.scratchpad_desc();
      p.run = dnnl::convolution_backward_data(d);
    } else {
      const dnnl::convolution_backward_weights::primitive_desc d(
          engine, algorithm, p.x, any, p.y, stride, dilation, before, after, forward, attr);
      p.kernel = d.diff_weights_desc();
      p.space = d.scratchpad_desc();
      p.run = dnnl::convolution_backward_weights(d);
    }
    p.reordered = p.kernel != p.plain_kernel;
    if (p.reordered) {
      const bool out = pass == Pass::kKernelGradient;
      const dnnl::reorder::primitive_desc d(engine, out ? p.kernel : p.plain_kernel, engine,
                                            out ? p.plain_kernel : p.kernel, attr);
      p.reorder_space = d.scratchpad_desc();
      p.reorder = dnnl::reorder(d);
    }
    return p;
  }

 public:
  // x, kernel and y are the convolution's input, kernel and output, or their gradients.
  void operator()(const Window& s, Pass pass, bool half, void* x, void* kernel, void* y) {
    const auto type = half ? Memory::data_type::bf16 : Memory::data_type::f32;
    std::string key(reinterpret_cast<const char*>(&s), sizeof s);
    key += {static_cast<char>(pass), static_cast<char>(half)};
    auto found = primitives.find(key);
    if (found == primitives.end()) found = primitives.emplace(key, build(s, pass, type)).first;
    const Primitive& p = found->second;

    const auto floats = [](const Memory::desc& d) {
      return divide_up(static_cast<int64_t>(d.get_size()), 64) * 16;
    };
    const int64_t blocked = p.reordered ? floats(p.kernel) : 0, space = floats(p.space);
    float* memory = scratch(blocked + space + floats(p.reorder_space) + 16);
    const Memory plain(p.plain_kernel, engine, kernel);
    const Memory used = p.reordered ? Memory(p.kernel, engine, memory) : plain;
    const Memory pad(p.space, engine, memory + blocked);
    const Memory reorder_pad(p.reorder_space, engine, memory + blocked + space);
    const Memory in(p.x, engine, x), out(p.y, engine, y);
    const auto reorder = [&](const Memory& from, const Memory& to) {
      p.reorder.execute(stream, {{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, to},
                                 {DNNL_ARG_SCRATCHPAD, reorder_pad}});
    };
    const bool gradient = pass == Pass::kKernelGradient;
    if (p.reordered && !gradient) reorder(plain, used);
    p.run.execute(
        stream, {{pass == Pass::kInputGradient ? DNNL_ARG_DIFF_SRC : DNNL_ARG_SRC, in},
                 {gradient ? DNNL_ARG_DIFF_WEIGHTS : DNNL_ARG_WEIGHTS, used},
                 {pass == Pass::kForward ? DNNL_ARG_DST : DNNL_ARG_DIFF_DST, out},
                 {DNNL_ARG_SCRATCHPAD, pad}});
    if (p.reordered && gradient) reorder(used, plain);
    stream.wait();
  }
};
