// Aligned memory, and what a thread keeps of it for its next task.
#pragma once

#include <cstddef>
#include <memory>
#include <new>

namespace lpnsr {

constexpr size_t kAlignment = 64;

struct Free {
  void operator()(float* memory) const { ::operator delete[](memory, std::align_val_t(kAlignment)); }
};
using Floats = std::unique_ptr<float[], Free>;

inline Floats floats(size_t count) {
  const auto alignment = std::align_val_t(kAlignment);
  return Floats(static_cast<float*>(::operator new[](count * sizeof(float), alignment)));
}

// Work memory of one task, kept for the next one of the thread.
inline float* scratch(size_t size) {
  thread_local Floats memory;
  thread_local size_t capacity = 0;
  if (size > capacity) {
    memory.reset();
    capacity = 0;
    memory = floats(size);
    capacity = size;
  }
  return memory.get();
}

}  // namespace lpnsr
