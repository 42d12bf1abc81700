#include "hawser/train/checkpoint.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <span>
#include <utility>
#include <vector>

#include "hawser/base/error.h"
#include "hawser/base/file.h"
#include "hawser/base/file_sum.h"
#include "hawser/base/folder.h"
#include "hawser/base/progress.h"
#include "hawser/base/text.h"
#include "hawser/io/json.h"
#include "hawser/io/json_text.h"
#include "hawser/io/safetensors.h"
#include "hawser/pos/scheme.h"

namespace hawser {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kFormat = 2;
constexpr const char* kState = "state.safetensors";
constexpr const char* kManifest = "manifest.json";
constexpr const char* kSeal = "checksum";
constexpr std::string_view kStepPrefix = "step_";

fs::path StepFolder(const fs::path& folder, int64_t step) { return folder / fmt::format("{}{:06}", kStepPrefix, step); }

/// What a checkpoint is called while it is made or removed.
fs::path HiddenFolder(const fs::path& folder, int64_t step) {
  return folder / fmt::format(".{}{:06}.tmp", kStepPrefix, step);
}

/// In one step for all who look: a checkpoint that has its name is never half there.
void RemoveCheckpoint(const fs::path& folder, int64_t step) {
  const fs::path hidden = HiddenFolder(folder, step);
  RemoveTree(hidden);
  RenamePath(StepFolder(folder, step), hidden);
  RemoveTree(hidden);
}

/// visit(store, prefix of its tensor names)
template <class Visitor>
void ForEachArena(const TrainState& state, Visitor&& visit) {
  const auto each = [&](ParamStore* store, const char* prefix) {
    if (store != nullptr) visit(*store, prefix);
  };
  each(state.weights, "");
  each(state.m, "adam.m.");
  each(state.v, "adam.v.");
  each(state.adapters, "");
  each(state.adapters_m, "adam.m.");
  each(state.adapters_v, "adam.v.");
}

void WriteState(const fs::path& path, const TrainState& state) {
  std::vector<TensorToWrite> tensors;
  ForEachArena(state, [&](ParamStore& store, const char* prefix) {
    HAWSER_CHECK(store.dtype() == DType::kF32);
    for (const ParamInfo& info : store.layout().params()) {
      const auto* data = static_cast<const std::byte*>(store.arena().data) + info.offset * 4;
      TensorView view{DType::kF32, {info.rows, info.cols}, {data, static_cast<size_t>(info.size()) * 4}};
      tensors.push_back({prefix + info.name, std::move(view), DType::kF32});
    }
  });
  WriteSafetensors(path, std::move(tensors));
}

void ReadState(const fs::path& path, const TrainState& state) {
  const TensorSource source = ReadSafetensors(path);
  ForEachArena(state, [&](ParamStore& store, const char* prefix) {
    for (const ParamInfo& info : store.layout().params()) {
      const std::string name = prefix + info.name;
      const TensorView* view = source.Find(name);
      const std::vector<int64_t> shape = {info.rows, info.cols};
      if (view == nullptr || view->dtype != DType::kF32 || view->shape != shape) {
        Fail(ErrorKind::kFormat, "{}: tensor \"{}\": expected f32 {}, found {}", path.string(), name, ShapeText(shape),
             view == nullptr ? "none" : fmt::format("{} {}", Name(view->dtype), ShapeText(view->shape)));
      }
      std::memcpy(static_cast<float*>(store.arena().data) + info.offset, view->bytes.data(), view->bytes.size());
    }
  });
}

std::string HexText(uint64_t value) { return fmt::format("{:016x}", value); }

uint64_t HexValue(const JsonObject& object, const char* key) {
  const std::string text = object.String(key);
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, 16);
  if (text.size() != 16 || error != std::errc() || end != text.data() + text.size()) {
    Fail(ErrorKind::kFormat, "{}: \"{}\": expected 16 hexadecimal digits, found \"{}\"", object.name(), key, text);
  }
  return value;
}

/// Of every member but itself.
uint64_t SealOf(nlohmann::json json) {
  json.erase(kSeal);
  const std::string text = JsonText(json);
  return Hash64(std::as_bytes(std::span(text)));
}

/// Errors: kFormat for a manifest that is not as it was written, kUnsupported for one of another version.
void CheckSeal(const nlohmann::json& json, const JsonObject& object) {
  constexpr int64_t kUnsealed = 1;
  const int64_t format = object.Int("format", 0, int64_t{1} << 53);
  const bool sealed = format != kUnsealed || object.Has(kSeal);
  if (sealed && object.String(kSeal) != HexText(SealOf(json))) {
    Fail(ErrorKind::kFormat, "{}: it does not have its own checksum", object.name());
  }
  if (format != kFormat) {
    Fail(ErrorKind::kUnsupported, "{}: checkpoint format {}, this version reads {}", object.name(), format, kFormat);
  }
}

/// The manifest of the checkpoint of a step, whose state file has the size and checksum it names.
CheckpointInfo ReadManifest(const fs::path& checkpoint, int64_t step) {
  const fs::path path = checkpoint / kManifest;
  const nlohmann::json json = WithFrame(path.string(), [&] { return ParseJson(ReadFile(path)); });
  const JsonObject object(json, path.string());
  constexpr int64_t kMany = int64_t{1} << 53;
  CheckSeal(json, object);
  CheckpointInfo info;
  info.step = object.Int("step", 0, kMany);
  if (info.step != step) Fail(ErrorKind::kFormat, "{}: it is of step {}", path.string(), info.step);
  info.sequences = object.Int("sequences", 0, kMany);
  info.tokens = object.Int("tokens", 0, kMany);
  info.padding = object.Int("padding", 0, kMany);
  info.targets = object.Int("targets", 0, kMany);
  info.loss = object.Number("loss");
  info.seconds = object.Number("seconds");
  info.density = object.Number("density");
  info.recipe = object.String("recipe");
  info.seed = HexValue(object, "seed");
  info.data_hash = HexValue(object, "data_hash");
  info.rope_hash = HexValue(object, "rope_hash");
  const FileSum state = SumFile(checkpoint / kState);
  const int64_t bytes = object.Int("state_bytes", 0, kMany);
  if (state.bytes != bytes) {
    Fail(ErrorKind::kFormat, "{}: expected {} bytes, found {}", (checkpoint / kState).string(), bytes, state.bytes);
  }
  if (state.hash != HexValue(object, "state_hash")) {
    Fail(ErrorKind::kFormat, "{}: its contents do not have the checksum of the manifest",
         (checkpoint / kState).string());
  }
  return info;
}

void WriteManifest(const fs::path& checkpoint, const CheckpointInfo& info) {
  const FileSum state = SumFile(checkpoint / kState);
  nlohmann::json json = {{"format", kFormat},
                         {"step", info.step},
                         {"sequences", info.sequences},
                         {"tokens", info.tokens},
                         {"padding", info.padding},
                         {"targets", info.targets},
                         {"loss", info.loss},
                         {"seconds", info.seconds},
                         {"density", info.density},
                         {"recipe", info.recipe},
                         {"seed", HexText(info.seed)},
                         {"data_hash", HexText(info.data_hash)},
                         {"rope_hash", HexText(info.rope_hash)},
                         {"state_bytes", state.bytes},
                         {"state_hash", HexText(state.hash)}};
  SealManifest(&json);
  WriteFileAtomically(checkpoint / kManifest, JsonText(json, 2) + "\n");
}

}  // namespace

void SealManifest(nlohmann::json* manifest) { (*manifest)[kSeal] = HexText(SealOf(*manifest)); }

std::vector<int64_t> CheckpointSteps(const fs::path& folder) {
  std::vector<int64_t> steps;
  std::error_code code;
  for (fs::directory_iterator it(folder, code), end; !code && it != end; it.increment(code)) {
    const std::string name = it->path().filename().string();
    if (!name.starts_with(kStepPrefix)) continue;
    const auto step = ParseNumber<int64_t>(std::string_view(name).substr(kStepPrefix.size()));
    if (step && *step >= 0) steps.push_back(*step);
  }
  std::sort(steps.begin(), steps.end());
  return steps;
}

uint64_t RopeHash(const ModelSpec& spec) {
  if (spec.places == Places::kNone) return 0;
  if (spec.places == Places::kAlibi) {
    const std::string alibi = ToString(spec.alibi);
    return Hash64(std::as_bytes(std::span(alibi)));
  }
  constexpr int64_t kPositions = 4096;
  const int64_t count = std::min(spec.context, kPositions);
  std::vector<int64_t> positions(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) positions[i] = i * (spec.context / count);
  const size_t size = positions.size() * static_cast<size_t>(spec.rope.rotary_dim / 2);
  std::vector<float> cos(size), sin(size);
  FillRopeTable(ComputeFrequencies(spec.rope, spec.context), positions.data(), count, cos.data(), sin.data());
  const uint64_t hash = Hash64(std::as_bytes(std::span(sin)), Hash64(std::as_bytes(std::span(cos))));
  const std::string numerics = ToString(spec.rope.numerics);
  return spec.rope.numerics == RopeNumerics() ? hash : Hash64(std::as_bytes(std::span(numerics)), hash);
}

void SaveCheckpoint(const fs::path& folder, const CheckpointInfo& info, const TrainState& state, int64_t keep,
                    int64_t best) {
  MakeDirectories(folder);
  const fs::path target = StepFolder(folder, info.step), hidden = HiddenFolder(folder, info.step);
  std::error_code code;
  // Only ever one that could not be used: another would have been resumed from.
  if (fs::exists(target, code)) RemoveCheckpoint(folder, info.step);
  RemoveTree(hidden);
  try {
    MakeDirectories(hidden);
    WriteState(hidden / kState, state);
    WriteManifest(hidden, info);
    RenamePath(hidden, target);
  } catch (...) {
    RemoveQuietly(hidden);
    throw;
  }
  SyncFolder(folder);
  DropCheckpoints(folder, info.step, keep, best);
}

void DropCheckpoints(const fs::path& folder, int64_t step, int64_t keep, int64_t best) {
  const std::vector<int64_t> steps = CheckpointSteps(folder);
  const auto later = std::upper_bound(steps.begin(), steps.end(), step);
  const int64_t extra = std::max<int64_t>(0, (later - steps.begin()) - keep);
  for (auto it = steps.begin(); it != steps.end(); ++it) {
    if (it >= later || (it - steps.begin() < extra && *it != best)) RemoveCheckpoint(folder, *it);
  }
}

void RemoveUnfinishedCheckpoints(const fs::path& folder) {
  std::error_code code;
  std::vector<fs::path> hidden;
  for (fs::directory_iterator it(folder, code), end; !code && it != end; it.increment(code)) {
    if (it->path().filename().string().starts_with("." + std::string(kStepPrefix))) hidden.push_back(it->path());
  }
  for (const fs::path& path : hidden) RemoveTree(path);
}

std::optional<CheckpointInfo> LoadCheckpoint(const fs::path& folder, const TrainState& state,
                                             const std::function<void(const CheckpointInfo&)>& check) {
  const std::vector<int64_t> steps = CheckpointSteps(folder);
  std::optional<Error> newest;
  for (auto step = steps.rbegin(); step != steps.rend(); ++step) {
    const fs::path checkpoint = StepFolder(folder, *step);
    CheckpointInfo info;
    try {
      info = ReadManifest(checkpoint, *step);
      if (check) check(info);
    } catch (const Error& error) {
      if (error.kind() == ErrorKind::kUnsupported) throw;
      if (!newest) newest = error;
      LogLine(fmt::format("checkpoint {} is damaged or of another run, trying the one before: {}", checkpoint.string(),
                          error.what()));
      continue;
    }
    ReadState(checkpoint / kState, state);
    return info;
  }
  if (!newest) return std::nullopt;
  Fail(newest->kind(), "{}: none of {} checkpoints can be used; of the newest: {}", folder.string(), steps.size(),
       newest->what());
}

std::optional<CheckpointInfo> LoadCheckpointOf(const fs::path& folder, int64_t step, const TrainState& state) {
  const fs::path checkpoint = StepFolder(folder, step);
  std::error_code code;
  if (!fs::exists(checkpoint, code)) return std::nullopt;
  CheckpointInfo info = ReadManifest(checkpoint, step);
  ReadState(checkpoint / kState, state);
  return info;
}

}  // namespace hawser
