// model/stream_pass.h - tokens of many streams through the blocks in one pass over the weights: which chunks share it,
// and which rows are multiplied together (Decoder::Run, Decoder::Peek).
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "hawser/kv/cache.h"
#include "hawser/model/batch_plan.h"
#include "hawser/model/block.h"
#include "hawser/model/decoder.h"
#include "hawser/model/ends.h"

namespace hawser {

class StreamPass {
 public:
  /// All of them outlive it. Of `plan` only positions that hang on no batch are read.
  StreamPass(Backend* backend, const Weights* weights, Workspace* work, Ends* ends, const BatchPlan* plan);

  void Run(std::span<const DecodeChunk> chunks, RowSink* sink, const std::function<bool()>& cancelled);
  void Peek(std::span<const int32_t> tokens, std::span<KvCache* const> caches, KeyBank* bank);

 private:
  void Pass(std::span<const DecodeChunk> chunks, RowSink* sink);
  void PeekPass(std::span<const int32_t> tokens, std::span<KvCache* const> streams, KeyBank* bank, int64_t first);
  BlockContext Context(int32_t layer);
  Mat EmbedPass(const int32_t* ids, int64_t rows);

  Backend* backend_;
  const Weights& weights_;
  Workspace* work_;
  Ends* ends_;
  const BatchPlan& plan_;
  // Of a pass, kept so that a token allocates nothing: the streams in it, their tokens, the rows that are wanted.
  std::vector<DecodeArgs::Row> decode_rows_;
  std::vector<KvCache*> caches_;
  std::vector<KvCache::Chunk> begun_;
  std::vector<int32_t> ids_;
  std::vector<int32_t> places_;  // in their segments (bilevel positions)
  std::vector<RowSink::Row> wanted_;
  std::vector<RowRange> runs_, products_;
  std::vector<size_t> done_;  // tokens of each chunk
};

}  // namespace hawser
