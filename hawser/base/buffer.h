// base/buffer.h - owned memory and the two matrix views everything is passed in.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <utility>

#include "hawser/base/dtype.h"
#include "hawser/base/error.h"

namespace hawser {

/// Row-major matrix view, element (r, c) at data + (r * ld + c) * SizeOf(dtype). Rows of a tensor [T, H, D] are tokens.
/// Blocked dtypes: ld is bytes, cols values of weights (not for Cols), bytes of cached keys and values. Does not own.
struct ConstMat {
  const void* data = nullptr;
  DType dtype = DType::kF32;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t ld = 0;  // elements between rows, >= cols; bytes where blocked

  template <class T>
  const T* Row(int64_t r) const {
    return static_cast<const T*>(data) + r * ld;
  }
  /// Rows [begin, begin + count).
  ConstMat Rows(int64_t begin, int64_t count) const {
    return {static_cast<const char*>(data) + begin * ld * static_cast<int64_t>(SizeOf(dtype)), dtype, count, cols, ld};
  }
  /// Columns [begin, begin + count).
  ConstMat Cols(int64_t begin, int64_t count) const {
    return {static_cast<const char*>(data) + begin * static_cast<int64_t>(SizeOf(dtype)), dtype, rows, count, ld};
  }
  bool empty() const { return rows == 0 || cols == 0; }
};

struct Mat {
  void* data = nullptr;
  DType dtype = DType::kF32;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t ld = 0;

  template <class T>
  T* Row(int64_t r) const {
    return static_cast<T*>(data) + r * ld;
  }
  Mat Rows(int64_t begin, int64_t count) const {
    return {static_cast<char*>(data) + begin * ld * static_cast<int64_t>(SizeOf(dtype)), dtype, count, cols, ld};
  }
  Mat Cols(int64_t begin, int64_t count) const {
    return {static_cast<char*>(data) + begin * static_cast<int64_t>(SizeOf(dtype)), dtype, rows, count, ld};
  }
  bool empty() const { return rows == 0 || cols == 0; }
  operator ConstMat() const { return {data, dtype, rows, cols, ld}; }  // NOLINT: a view of a view
};

/// Owned memory, 64-byte aligned, zero on allocation. Movable, not copyable.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t bytes);
  Buffer(Buffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { std::free(data_); }

  void* data() { return data_; }
  const void* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  template <class T>
  T* as() {
    return static_cast<T*>(data_);
  }
  template <class T>
  const T* as() const {
    return static_cast<const T*>(data_);
  }

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

/// An owned matrix with ld = cols.
class Matrix {
 public:
  Matrix() = default;
  Matrix(int64_t rows, int64_t cols, DType dtype = DType::kF32)
      : buffer_(static_cast<size_t>(rows) * static_cast<size_t>(cols) * SizeOf(dtype)),
        view_{buffer_.data(), dtype, rows, cols, cols} {}

  Mat view() { return view_; }
  ConstMat view() const { return view_; }
  operator Mat() { return view_; }             // NOLINT: an owner lends views of itself
  operator ConstMat() const { return view_; }  // NOLINT
  int64_t rows() const { return view_.rows; }
  int64_t cols() const { return view_.cols; }
  size_t bytes() const { return buffer_.bytes(); }
  template <class T>
  T* Row(int64_t r) {
    return view_.Row<T>(r);
  }
  template <class T>
  const T* Row(int64_t r) const {
    return view_.Row<T>(r);
  }

 private:
  Buffer buffer_;
  Mat view_;
};

}  // namespace hawser
