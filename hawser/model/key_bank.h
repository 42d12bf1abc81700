// model/key_bank.h - keys and values that passes over rows hand to one another, layer by layer: those of one pass stand
// in front of the rows of another, and the gradients that they get there go back.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "hawser/model/spec.h"
#include "hawser/ops/backend.h"

namespace hawser {

/// What one layer of a pass takes and gives; each part empty where it is not wanted. N rows of the pass, M keys.
struct BankedKeys {
  // [M, G*D] all that its sequences see, keys rotated; forward puts those of its own rows in. Empty: its own alone.
  Mat k, v;
  Mat dk, dv;          // [M, G*D] their gradients, written by backward
  Mat raw_k, raw_v;    // [N, G*D] of its own rows, before they are rotated; written by forward
  Mat raw_dk, raw_dv;  // [N, G*D] gradients of these from elsewhere, which backward adds
};

/// Memory for them, in the dtype of queries, zero when made.
class KeyBank {
 public:
  KeyBank(Backend* backend, const ModelSpec& spec, DType activations);

  void MakeSeen(int64_t keys);
  /// The gradients of all layers in one memory (a backward then leaves those of its last layer), or each in its own.
  void MakeSeenGradients(bool shared);
  void MakeRaw(int64_t rows);
  void MakeRawGradients();

  BankedKeys Layer(int32_t layer);
  int64_t keys() const { return keys_; }
  int64_t rows() const { return rows_; }
  int64_t bytes() const;

 private:
  struct Pair {
    Matrix k, v;
  };
  void Make(std::vector<Pair>* pairs, size_t layers, int64_t rows);

  Backend* backend_;
  DType dtype_;
  int64_t columns_;
  size_t layers_;
  int64_t keys_ = 0, rows_ = 0;
  std::vector<Pair> seen_, seen_gradients_, raw_, raw_gradients_;  // [L], [1] or empty
};

}  // namespace hawser
