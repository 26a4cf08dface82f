// XLA FFI handlers of a convolution: forward, input_gradient and kernel_gradient.
#include <string>
#include <utility>

#include "direct.h"
#include "executor.h"
#include "winograd.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

int thread_count = 1;

Executor& executor() {
  static Executor* one = new Executor(thread_count);  // outlives every caller
  return *one;
}

template <class X>
void winograd(int64_t tile, const Window& s, Pass pass, void* x, void* kernel, void* y) {
  X *in = static_cast<X*>(x), *g = static_cast<X*>(kernel), *out = static_cast<X*>(y);
  Window turned = s;  // the input gradient: convolves the output gradient with the rotated kernel
  std::swap(turned.c, turned.k);
  std::swap(turned.h, turned.oh);
  std::swap(turned.w, turned.ow);
  turned.top = 2 - s.top;
  turned.left = 2 - s.left;
  const auto run = [&](auto forward, auto backward) {
    if (pass == Pass::kForward) forward.forward(in, g, out, false);
    if (pass == Pass::kInputGradient) backward.forward(out, g, in, true);
    if (pass == Pass::kKernelGradient) forward.kernel_gradient(in, out, g);
  };
  if (tile == 4)
    run(Winograd<4>(s), Winograd<4>(turned));
  else if (tile == 3)
    run(Winograd<3>(s), Winograd<3>(turned));
  else
    run(Winograd<2>(s), Winograd<2>(turned));
}

using Numbers = ffi::Span<const int64_t>;

// padding: (top, bottom, left, right). tile: Winograd's m, or 0 for oneDNN.
ffi::Error convolve(Pass pass, ffi::AnyBuffer x, ffi::AnyBuffer kernel, ffi::AnyBuffer y,
                    Numbers stride, Numbers padding, Numbers dilation, int64_t groups,
                    int64_t tile) {
  const auto in = x.dimensions(), g = kernel.dimensions(), out = y.dimensions();
  const Window s = {in[0],  in[1],  in[2],  in[3], g[0], g[1], out[1], out[2], out[3],
                    {stride[0], stride[1]}, {dilation[0], dilation[1]},
                    padding[0], padding[1], padding[2], padding[3], groups};
  const bool half = x.element_type() == ffi::BF16;
  try {
    executor().run([&] {
      static Direct direct;
      void *a = x.untyped_data(), *b = kernel.untyped_data(), *c = y.untyped_data();
      if (tile == 0)
        direct(s, pass, half, a, b, c);
      else if (half)
        winograd<bfloat16>(tile, s, pass, a, b, c);
      else
        winograd<float>(tile, s, pass, a, b, c);
    });
  } catch (const std::exception& e) {
    return ffi::Error::Internal(std::string("convolution: ") + e.what());
  }
  return ffi::Error::Success();
}

ffi::Error forward(ffi::AnyBuffer x, ffi::AnyBuffer kernel, ffi::Result<ffi::AnyBuffer> y, Numbers s,
                   Numbers p, Numbers d, int64_t groups, int64_t tile) {
  return convolve(Pass::kForward, x, kernel, *y, s, p, d, groups, tile);
}
ffi::Error input_gradient(ffi::AnyBuffer kernel, ffi::AnyBuffer dy, ffi::Result<ffi::AnyBuffer> dx,
                          Numbers s, Numbers p, Numbers d, int64_t groups, int64_t tile) {
  return convolve(Pass::kInputGradient, *dx, kernel, dy, s, p, d, groups, tile);
}
ffi::Error kernel_gradient(ffi::AnyBuffer x, ffi::AnyBuffer dy, ffi::Result<ffi::AnyBuffer> dg,
                           Numbers s, Numbers p, Numbers d, int64_t groups, int64_t tile) {
  return convolve(Pass::kKernelGradient, x, *dg, dy, s, p, d, groups, tile);
}

auto binding() {
  return ffi::Ffi::Bind()
      .Arg<ffi::AnyBuffer>()
      .Arg<ffi::AnyBuffer>()
      .Ret<ffi::AnyBuffer>()
      .Attr<Numbers>("stride")
      .Attr<Numbers>("padding")
      .Attr<Numbers>("dilation")
      .Attr<int64_t>("groups")
      .Attr<int64_t>("tile");
}

bool onednn_uses(dnnl::cpu_isa isa) {
  const int needed = static_cast<int>(isa);
  return (static_cast<int>(dnnl::get_effective_cpu_isa()) & needed) == needed;
}

}  // namespace

// Must be called before the first convolution.
extern "C" void flaxcifar_set_threads(int threads) { thread_count = threads; }

// oneDNN 3.2 trains in bfloat16 only with AVX-512. The Winograd code supports it on every
// processor.
extern "C" bool flaxcifar_onednn_has_bfloat16() { return onednn_uses(dnnl::cpu_isa::avx512_core); }

// Speed of oneDNN 3.2 in bfloat16 relative to float32, on maps larger than 4 x 4. With AMX it
// exceeds any saving of Winograd's algorithm. For AVX-512 BF16: measured on Zen 4 with 64 to 512
// channels.
extern "C" double flaxcifar_onednn_bfloat16_gain() {
  if (onednn_uses(dnnl::cpu_isa::avx512_core_amx)) return 16;
  return onednn_uses(dnnl::cpu_isa::avx512_core_bf16) ? 2.8 : 1;
}

XLA_FFI_DEFINE_HANDLER_SYMBOL(flaxcifar_convolution_forward, forward, binding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(flaxcifar_convolution_input_gradient, input_gradient, binding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(flaxcifar_convolution_kernel_gradient, kernel_gradient, binding());
