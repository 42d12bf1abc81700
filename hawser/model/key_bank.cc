#include "hawser/model/key_bank.h"

#include <algorithm>

namespace hawser {

KeyBank::KeyBank(Backend* backend, const ModelSpec& spec, DType activations)
    : backend_(backend),
      dtype_(QkvDType(spec, activations)),
      columns_(static_cast<int64_t>(spec.kv_heads) * spec.head_dim),
      layers_(static_cast<size_t>(spec.layers)) {}

void KeyBank::Make(std::vector<Pair>* pairs, size_t layers, int64_t rows) {
  pairs->clear();
  for (size_t layer = 0; layer < layers; ++layer) {
    pairs->push_back({backend_->NewMatrix(rows, columns_, dtype_), backend_->NewMatrix(rows, columns_, dtype_)});
  }
}

void KeyBank::MakeSeen(int64_t keys) {
  keys_ = keys;
  Make(&seen_, layers_, keys);
}
void KeyBank::MakeSeenGradients(bool shared) { Make(&seen_gradients_, shared ? 1 : layers_, keys_); }
void KeyBank::MakeRaw(int64_t rows) {
  rows_ = rows;
  Make(&raw_, layers_, rows);
}
void KeyBank::MakeRawGradients() { Make(&raw_gradients_, layers_, rows_); }

BankedKeys KeyBank::Layer(int32_t layer) {
  const auto of = [&](std::vector<Pair>& pairs, Mat* k, Mat* v) {
    if (pairs.empty()) return;
    Pair& pair = pairs[std::min(static_cast<size_t>(layer), pairs.size() - 1)];
    *k = pair.k;
    *v = pair.v;
  };
  BankedKeys banked;
  of(seen_, &banked.k, &banked.v);
  of(seen_gradients_, &banked.dk, &banked.dv);
  of(raw_, &banked.raw_k, &banked.raw_v);
  of(raw_gradients_, &banked.raw_dk, &banked.raw_dv);
  return banked;
}

int64_t KeyBank::bytes() const {
  size_t sum = 0;
  for (const auto* pairs : {&seen_, &seen_gradients_, &raw_, &raw_gradients_}) {
    for (const Pair& pair : *pairs) sum += pair.k.bytes() + pair.v.bytes();
  }
  return static_cast<int64_t>(sum);
}

}  // namespace hawser
