// cpu/scratch.h - memory that lives between calls: it grows to the largest request and stays.
#pragma once

#include <algorithm>
#include <cstddef>

#include "hawser/base/buffer.h"

namespace hawser {

class Scratch {
 public:
  /// Room for `count` elements, 64-byte aligned; contents are whatever the last user left. Valid until the next Get.
  template <class T>
  T* Get(int64_t count) {
    const size_t bytes = static_cast<size_t>(count) * sizeof(T);
    if (bytes > buffer_.bytes()) {
      buffer_ = Buffer();  // first give back, then take: the peak stays at one copy
      buffer_ = Buffer(bytes);
    }
    return buffer_.as<T>();
  }

 private:
  Buffer buffer_;
};

}  // namespace hawser
