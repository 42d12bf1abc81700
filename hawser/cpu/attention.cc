#include "hawser/cpu/attention.h"

#include "hawser/cpu/attention_engine.h"
#include "hawser/cpu/self_adjust.h"
#include "hawser/ops/op_args.h"

namespace hawser {
namespace {

constexpr AttentionEngine kTiles = {TileForward, TileBackward, TileDecode};
constexpr AttentionEngine kRows = {SelfAdjustForward, SelfAdjustBackward, SelfAdjustDecode};

const AttentionEngine& EngineOf(const AttnShape& shape) {
  static constexpr const AttentionEngine* kEngines[] = {&kTiles, &kRows, &kRows};  // in the order of SoftmaxKind
  return *kEngines[static_cast<size_t>(shape.softmax.kind)];
}

}  // namespace

void AttentionForward(const AttentionArgs& args) {
  Validate(args);
  EngineOf(args.shape).forward(args);
}

void AttentionBackward(const AttentionBackwardArgs& args) {
  Validate(args);
  EngineOf(args.shape).backward(args);
}

void AttentionDecode(const DecodeArgs& args) {
  Validate(args);
  EngineOf(args.shape).decode(args);
}

}  // namespace hawser
