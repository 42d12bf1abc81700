// train/focus.h - training FocusLLM's candidates (model/focus.h): the loss of r tokens behind a cut of a text, read
// through candidates that have seen nothing behind the cut. The paper supervises one token; r > 1 trains what reading
// with sync=r does. A text is the longest document of a packed sequence.
//   continuation     the window is the end of the text before its last r tokens, the memory all before the window
//   reconstruction   the window is a span of the memory, which is the whole text: what follows stands in some chunk
// Rows of chunks depend on nothing that is trained and run without a graph. The loss goes back through the window, and
// through the candidates by their keys and values.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "hawser/base/form.h"
#include "hawser/data/packer.h"
#include "hawser/model/decoder.h"
#include "hawser/model/focus.h"

namespace hawser {

struct FocusLoss {
  static constexpr std::string_view kName = "focus",
                                    kHelp =
                                        "trains FocusLLM's candidates beside a model that stays as it is "
                                        "(arXiv:2408.11745)";
  int64_t tokens = 0;
  std::vector<int64_t> chunk = {};
  int64_t prompt = 0, local = 0, least = 0;
  std::vector<int64_t> targets = {8};
  double reconstruct = 0.5;

  template <class Visitor>
  void Fields(Visitor&& v) {
    v(tokens, {"tokens", "of a sequence, memory and window; 0: four contexts", 0, 1 << 30});
    v(chunk, {"chunk",
              "tokens of a chunk, one of these for each text; default: an eighth, a quarter and half of the "
              "context",
              1, 1 << 30});
    v(prompt, {"prompt", "tokens of the window behind each chunk; 0: an eighth of the context", 0, 1 << 30});
    v(local, {"local", "tokens of the longest window; 0: half of the context less the targets", 0, 1 << 30});
    v(least, {"least", "tokens of the shortest window; 0: local", 0, 1 << 30});
    v(targets, {"targets", "tokens that are predicted behind the window, one of these for each text", 1, 1 << 20});
    v(reconstruct, {"reconstruct", "share of texts whose window is a span of the memory", 0, 1});
  }
  bool operator==(const FocusLoss&) const = default;
};

/// With everything left open decided, by the context of the model. Errors: kUsage (CheckFocusFits of the most chunks
/// with the most targets, a shortest window above the longest, sequences that hold no memory).
FocusLoss Resolve(FocusLoss focus, const ModelSpec& spec);

/// What a model that was trained so is read with, where nothing else is said.
FocusShape ShapeOf(const FocusLoss& focus);

/// A text with its cut. Spans are of the sequence it was drawn from.
struct FocusText {
  std::span<const int32_t> memory;
  std::span<const int32_t> local;  // the window, and what the loss goes on with: targets - 1 tokens
  int64_t window = 0;              // tokens
  int64_t chunk = 0;
  int32_t bos = -1;              // that the text begins with; -1: none
  std::vector<int32_t> targets;  // ids behind the window; empty: the text is too short
  std::vector<float> weights;    // of each in the loss

  int64_t chunks() const { return (std::ssize(memory) + chunk - 1) / chunk; }
  double weight() const;
};

/// Depends on the sequence and its `draw` alone.
FocusText DrawFocusText(const PackedSequence& sequence, const FocusLoss& focus);

/// What passes over texts cost.
struct FocusCost {
  int64_t chunk_rows = 0, candidate_rows = 0, local_rows = 0;
  int64_t chunk_pairs = 0, candidate_pairs = 0, local_pairs = 0;  // visible, of a layer
  int64_t causal_pairs = 0;                                       // of the same texts, read whole

  FocusCost& operator+=(const FocusCost& other);
  int64_t pairs() const { return chunk_pairs + candidate_pairs + local_pairs; }
  /// Forward of chunks; forward and backward of candidates and windows.
  double Flops(const ModelSpec& spec) const;
};
FocusCost CostOf(const FocusText& text, int64_t prompt);

class FocusPass {
 public:
  /// The decoders are of a model and of WithCandidates of it; both outlive this.
  FocusPass(Backend* backend, Decoder* base, Decoder* candidates, DType activations, int64_t prompt);

  /// Loss and weights of all targets of `texts`, each of which has some. Gradients of grad_scale * loss are added to
  /// `grads` (F32 over CandidateLayout); null: none are computed.
  StepStats Run(std::span<const FocusText> texts, float grad_scale, Recompute recompute, ParamStore* grads);

  /// Bytes of keys, values and their gradients at the last run.
  int64_t bank_bytes() const { return bank_bytes_; }

 private:
  void Rotate(int32_t layer, Mat keys, bool inverse);

  Backend* backend_;
  Decoder* base_;
  Decoder* condense_;
  DType activations_;
  int64_t prompt_;
  ParamStore none_;  // gradients of the model, of which there are none
  std::vector<int64_t> slots_;
  std::vector<float> cos_, sin_;
  int64_t bank_bytes_ = 0;
};

}  // namespace hawser
