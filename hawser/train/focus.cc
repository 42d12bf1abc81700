#include "hawser/train/focus.h"

#include <algorithm>
#include <utility>

#include "hawser/base/error.h"
#include "hawser/base/rng.h"
#include "hawser/base/streams.h"

namespace hawser {
namespace {

int64_t Most(const std::vector<int64_t>& values) { return *std::ranges::max_element(values); }

/// A batch whose rows have no targets yet.
void AppendRow(int32_t id, int64_t position, Batch* batch) {
  batch->ids.push_back(id);
  batch->positions.push_back(position);
  batch->targets.push_back(-1);
  batch->weights.push_back(0.0f);
}

/// The passes over some texts: chunks without their candidates, the candidates, the windows.
struct FocusBatches {
  Batch chunks, candidates, local;
  int64_t keys = 0;        // of chunks with their candidates
  int64_t local_keys = 0;  // of windows with candidates in front
};

FocusBatches MakeBatches(std::span<const FocusText> texts, int64_t prompt_tokens) {
  FocusBatches made;
  for (const FocusText& text : texts) {
    const std::span<const int32_t> window = text.local.first(static_cast<size_t>(text.window));
    const std::vector<int32_t> prompt = FocusPrompt(text.bos, window, prompt_tokens);
    const int64_t count = text.chunks();
    for (int64_t c = 0; c < count; ++c) {
      const int64_t begin = c * text.chunk, size = std::min(text.chunk, std::ssize(text.memory) - begin);
      const auto keys = static_cast<int32_t>(size + std::ssize(prompt));
      made.chunks.sequences.push_back({.begin = made.chunks.rows(), .layout = {.size = keys - 1}, .behind = 1});
      int64_t position = 0;
      for (int64_t i = 0; i < size; ++i)
        AppendRow(text.memory[static_cast<size_t>(begin + i)], position++, &made.chunks);
      for (size_t i = 0; i + 1 < prompt.size(); ++i) AppendRow(prompt[i], position++, &made.chunks);
      made.candidates.sequences.push_back(
          {.begin = made.candidates.rows(), .layout = {.size = keys}, .before = keys - 1});
      AppendRow(prompt.back(), position, &made.candidates);
      made.keys += keys;
    }
    const int64_t rows = std::ssize(text.local) + (text.bos >= 0 ? 1 : 0);
    made.local.sequences.push_back({.begin = made.local.rows(),
                                    .layout = {.size = static_cast<int32_t>(count + rows)},
                                    .before = static_cast<int32_t>(count)});
    int64_t position = count;
    if (text.bos >= 0) AppendRow(text.bos, position++, &made.local);
    for (const int32_t id : text.local) AppendRow(id, position++, &made.local);
    const size_t first = made.local.ids.size() - text.targets.size();
    std::ranges::copy(text.targets, made.local.targets.begin() + static_cast<std::ptrdiff_t>(first));
    std::ranges::copy(text.weights, made.local.weights.begin() + static_cast<std::ptrdiff_t>(first));
    made.local_keys += count + rows;
  }
  return made;
}

}  // namespace

FocusLoss Resolve(FocusLoss focus, const ModelSpec& spec) {
  const FocusShape standard = DefaultFocusShape(spec.context);
  const int64_t most_targets = Most(focus.targets);
  if (focus.tokens == 0) focus.tokens = 4 * spec.context;
  if (focus.chunk.empty()) {
    focus.chunk = {std::max<int64_t>(1, spec.context / 8), std::max<int64_t>(1, spec.context / 4), standard.chunk};
  }
  if (focus.local == 0) focus.local = std::max<int64_t>(1, standard.local - most_targets);
  if (focus.prompt == 0) focus.prompt = std::min(standard.prompt, focus.local);
  if (focus.least == 0) focus.least = focus.local;
  if (focus.least > focus.local) {
    Fail(ErrorKind::kUsage, "objective = \"{}\": the shortest window, least={}, is longer than the longest, local={}",
         PrintForm(focus), focus.least, focus.local);
  }
  if (focus.prompt > focus.local) {
    Fail(ErrorKind::kUsage, "objective = \"{}\": prompt={} is the end of a window, which has local={} tokens at most",
         PrintForm(focus), focus.prompt, focus.local);
  }
  if (focus.tokens <= focus.local + most_targets + 1) {
    Fail(ErrorKind::kUsage,
         "objective = \"{}\": sequences of {} tokens hold no memory beside a window of {} and {} targets; give more "
         "tokens or a smaller local",
         PrintForm(focus), focus.tokens, focus.local, most_targets);
  }
  const int64_t smallest = *std::ranges::min_element(focus.chunk);
  const FocusShape widest{.chunk = Most(focus.chunk), .prompt = focus.prompt, .local = focus.local};
  WithFrame(fmt::format("objective = \"{}\"", PrintForm(focus)), [&] {
    CheckFocusFits(spec, {.chunk = widest.chunk, .prompt = widest.prompt, .local = 0}, 0, /*bos=*/1, /*more=*/0);
    CheckFocusFits(spec, {.local = widest.local}, (focus.tokens + smallest - 1) / smallest, /*bos=*/1, most_targets);
  });
  return focus;
}

FocusShape ShapeOf(const FocusLoss& focus) {
  return {.chunk = Most(focus.chunk), .prompt = focus.prompt, .local = focus.local};
}

double FocusText::weight() const {
  double sum = 0;
  for (const float w : weights) sum += w;
  return sum;
}

FocusText DrawFocusText(const PackedSequence& sequence, const FocusLoss& focus) {
  Rng rng{.seed = sequence.draw, .stream = streams::kFocus};
  FocusText text{.chunk = focus.chunk[rng.Below(focus.chunk.size())]};
  const int64_t wanted = focus.targets[rng.Below(focus.targets.size())];
  const bool reconstruct = rng.Uniform() < focus.reconstruct;
  const int64_t longest =
      focus.least + static_cast<int64_t>(rng.Below(static_cast<uint64_t>(focus.local - focus.least + 1)));
  const double where = rng.Uniform();

  const Segment* segment = nullptr;
  for (const Segment& s : sequence.segments) {
    if (s.document >= 0 && (segment == nullptr || s.length > segment->length)) segment = &s;
  }
  if (segment == nullptr) return text;
  const std::span<const int32_t> ids =
      std::span(sequence.ids).subspan(static_cast<size_t>(segment->begin), static_cast<size_t>(segment->length));
  const int64_t front = segment->bos_tokens > 0 ? 1 : 0;
  if (front > 0) text.bos = ids.front();
  const int64_t room = std::ssize(ids) - front - wanted;  // for memory and window
  if (room < 2) return text;
  text.window = std::min(longest, room - 1);
  const int64_t last = front + room - text.window;  // where a window may begin
  const int64_t begin =
      reconstruct ? front + std::min(last - front, static_cast<int64_t>(where * static_cast<double>(last - front + 1)))
                  : last;
  text.memory = reconstruct ? ids : ids.first(static_cast<size_t>(begin));
  text.local = ids.subspan(static_cast<size_t>(begin), static_cast<size_t>(text.window + wanted - 1));
  for (int64_t t = begin + text.window; t < begin + text.window + wanted; ++t) {
    const auto row = static_cast<size_t>(segment->begin + t - 1);
    text.targets.push_back(ids[static_cast<size_t>(t)]);
    text.weights.push_back(sequence.targets[row] >= 0 ? sequence.weights[row] : 0.0f);
  }
  return text;
}

FocusCost& FocusCost::operator+=(const FocusCost& other) {
  chunk_rows += other.chunk_rows;
  candidate_rows += other.candidate_rows;
  local_rows += other.local_rows;
  chunk_pairs += other.chunk_pairs;
  candidate_pairs += other.candidate_pairs;
  local_pairs += other.local_pairs;
  causal_pairs += other.causal_pairs;
  return *this;
}

double FocusCost::Flops(const ModelSpec& spec) const {
  return TrainingFlops(spec, chunk_rows, chunk_pairs) / 3 +
         TrainingFlops(spec, candidate_rows + local_rows, candidate_pairs + local_pairs);
}

FocusCost CostOf(const FocusText& text, int64_t prompt) {
  const auto triangle = [](int64_t n) { return n * (n + 1) / 2; };
  const int64_t bos = text.bos >= 0 ? 1 : 0, behind = bos + std::min(prompt, text.window), count = text.chunks();
  const int64_t rows = bos + std::ssize(text.local);
  FocusCost cost{.candidate_rows = count, .local_rows = rows, .local_pairs = rows * count + triangle(rows)};
  for (int64_t c = 0; c < count; ++c) {
    const int64_t keys = std::min(text.chunk, std::ssize(text.memory) - c * text.chunk) + behind;
    cost.chunk_rows += keys - 1;
    cost.chunk_pairs += triangle(keys - 1);
    cost.candidate_pairs += keys;
  }
  cost.causal_pairs = triangle(std::ssize(text.memory) + std::ssize(text.local));
  return cost;
}

FocusPass::FocusPass(Backend* backend, Decoder* base, Decoder* candidates, DType activations, int64_t prompt)
    : backend_(backend),
      base_(base),
      condense_(candidates),
      activations_(activations),
      prompt_(prompt),
      none_(base->spec(), ParamLayout(std::vector<ParamInfo>()), DType::kF32) {}

/// Keys of candidates to their slots, or gradients of such keys back.
void FocusPass::Rotate(int32_t layer, Mat keys, bool inverse) {
  const ModelSpec& spec = base_->spec();
  if (!Rotates(spec, layer)) return;
  const RopeSpec& rope = RopeOf(spec, layer);
  const RopeFrequencies frequencies = ComputeFrequencies(rope, spec.context);
  const size_t half = frequencies.inv_freq.size();
  cos_.resize(slots_.size() * half);
  sin_.resize(cos_.size());
  FillRopeTable(frequencies, slots_.data(), std::ssize(slots_), cos_.data(), sin_.data());
  backend_->Rope({.x = keys,
                  .heads = spec.kv_heads,
                  .head_dim = spec.head_dim,
                  .half = static_cast<int32_t>(half),
                  .pairing = rope.pairing,
                  .cos = cos_.data(),
                  .sin = sin_.data(),
                  .inverse = inverse,
                  .math = rope.numerics.math});
}

StepStats FocusPass::Run(std::span<const FocusText> texts, float grad_scale, Recompute recompute, ParamStore* grads) {
  const ModelSpec& spec = base_->spec();
  const FocusBatches batches = MakeBatches(texts, prompt_);
  const bool backward = grads != nullptr;
  KeyBank bank(backend_, spec, activations_), local(backend_, spec, activations_);
  bank.MakeSeen(batches.keys);
  base_->Forward(batches.chunks, &bank);

  bank.MakeRaw(batches.candidates.rows());
  if (backward) {
    condense_->ForwardKept(batches.candidates, &bank);
  } else {
    condense_->Forward(batches.candidates, &bank);
  }

  // Candidates in front of the windows.
  local.MakeSeen(batches.local_keys);
  if (backward) local.MakeSeenGradients(/*shared=*/false);
  slots_.clear();
  struct Run {
    int64_t row, count, key;  // candidates, and where they stand in the keys of windows
  };
  std::vector<Run> runs;
  int64_t key = 0;
  for (const Batch::Sequence& sequence : batches.local.sequences) {
    runs.push_back({std::ssize(slots_), sequence.before, key});
    for (int64_t slot = 0; slot < sequence.before; ++slot) slots_.push_back(slot);
    key += sequence.layout.size;
  }
  const BankedKeys first = bank.Layer(0);
  Matrix moved = backend_->NewMatrix(first.raw_k.rows, first.raw_k.cols, first.raw_k.dtype);
  for (int32_t layer = 0; layer < spec.layers; ++layer) {
    const BankedKeys from = bank.Layer(layer), to = local.Layer(layer);
    backend_->Copy(from.raw_k, moved);
    Rotate(layer, moved, /*inverse=*/false);
    for (const Run& run : runs) {
      backend_->Copy(moved.view().Rows(run.row, run.count), to.k.Rows(run.key, run.count));
      backend_->Copy(from.raw_v.Rows(run.row, run.count), to.v.Rows(run.key, run.count));
    }
  }
  if (!backward) {
    bank_bytes_ = bank.bytes() + local.bytes();
    return base_->Score(batches.local, nullptr, &local);
  }

  const StepStats stats = base_->ForwardBackward(batches.local, grad_scale, recompute, &none_, &local);
  bank.MakeRawGradients();
  bank.MakeSeenGradients(/*shared=*/true);
  for (int32_t layer = 0; layer < spec.layers; ++layer) {
    const BankedKeys from = local.Layer(layer), to = bank.Layer(layer);
    for (const Run& run : runs) {
      backend_->Copy(from.dk.Rows(run.key, run.count), to.raw_dk.Rows(run.row, run.count));
      backend_->Copy(from.dv.Rows(run.key, run.count), to.raw_dv.Rows(run.row, run.count));
    }
    Rotate(layer, to.raw_dk, /*inverse=*/true);
  }
  condense_->BackwardKept(&bank, grads);
  bank_bytes_ = bank.bytes() + local.bytes();
  return stats;
}

}  // namespace hawser
