// A dedicated thread runs all convolutions of the process sequentially, each on all cores. XLA
// calls from any thread of its pool, and from several at once if there are several devices. With a
// single executor there is one OpenMP team instead of one per calling thread, one scratch buffer,
// and no other lock.
#pragma once

#include <omp.h>

#include <condition_variable>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

class Executor {
  std::mutex turn, guard;
  std::condition_variable changed;
  const std::function<void()>* task = nullptr;
  std::exception_ptr error;

  void loop(int threads) {
    omp_set_num_threads(threads);
#pragma omp parallel
    {
#if defined(__SSE__)
      _mm_setcsr(_mm_getcsr() | 0x8040);  // flush denormals to zero, as XLA's own threads do
#endif
    }
    std::unique_lock<std::mutex> lock(guard);
    for (;;) {
      changed.wait(lock, [&] { return task != nullptr; });
      lock.unlock();
      try {
        (*task)();
      } catch (...) {
        error = std::current_exception();
      }
      lock.lock();
      task = nullptr;
      changed.notify_all();
    }
  }

 public:
  explicit Executor(int threads) { std::thread([=] { loop(threads); }).detach(); }

  // Blocks until `work` is done and rethrows its exception, if any.
  void run(const std::function<void()>& work) {
    std::lock_guard<std::mutex> mine(turn);
    std::unique_lock<std::mutex> lock(guard);
    task = &work;
    changed.notify_all();
    changed.wait(lock, [&] { return task == nullptr; });
    if (error) std::rethrow_exception(std::exchange(error, nullptr));
  }
};
