// One thread of ours runs every convolution of the process, one after the other, each with all
// cores. XLA calls from any thread of its pool and, with several devices, from many at once: this way
// there is one OpenMP team, not one a calling thread, one scratch memory and no lock elsewhere.
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
      _mm_setcsr(_mm_getcsr() | 0x8040);  // denormals are zero, as in XLA's own threads
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

  // Returns when `work` is done; throws what it threw.
  void run(const std::function<void()>& work) {
    std::lock_guard<std::mutex> mine(turn);
    std::unique_lock<std::mutex> lock(guard);
    task = &work;
    changed.notify_all();
    changed.wait(lock, [&] { return task == nullptr; });
    if (error) std::rethrow_exception(std::exchange(error, nullptr));
  }
};
