// quant/types-inl.h - the storage types, each in a file of its own (reader.h says what is in it). This is the table: a
// new type is an include and a name here.
#pragma once

#include "hawser/quant/q2_k-inl.h"
#include "hawser/quant/q3_k-inl.h"
#include "hawser/quant/q4_0-inl.h"
#include "hawser/quant/q4_1-inl.h"
#include "hawser/quant/q4_k-inl.h"
#include "hawser/quant/q5_0-inl.h"
#include "hawser/quant/q5_1-inl.h"
#include "hawser/quant/q5_k-inl.h"
#include "hawser/quant/q6_k-inl.h"
#include "hawser/quant/q8_0-inl.h"

namespace hawser {
namespace {

template <class... Types>
struct TypeList {
  static constexpr size_t kCount = sizeof...(Types);
  /// To::Of<Type>() of each, in an array.
  template <class To>
  static constexpr auto Map() {
    return std::array{To::template Of<Types>()...};
  }
};

/// In the order of DType.
using AllBlockTypes = TypeList<Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q2K, Q3K, Q4K, Q5K, Q6K>;

}  // namespace
}  // namespace hawser
