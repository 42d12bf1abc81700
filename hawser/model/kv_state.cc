#include "hawser/model/kv_state.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <string>
#include <utility>

#include "hawser/base/error.h"
#include "hawser/base/hash.h"
#include "hawser/base/q8.h"
#include "hawser/io/convert.h"
#include "hawser/io/json.h"
#include "hawser/io/safetensors.h"

namespace hawser {
namespace {

using nlohmann::json;

constexpr const char* kVersionKey = "hawser_kv_state";
constexpr const char* kVersion = "1";
constexpr int64_t kMostSeen = int64_t{1} << 53;  // tokens: what sums over them can hold
constexpr size_t kSample = 64 << 10;             // bytes of a weight matrix that are hashed

std::string Hex(uint64_t value) { return fmt::format("{:016x}", value); }

template <class T>
uint64_t HashOf(const std::vector<T>& values, uint64_t seed = 0) {
  return Hash64(std::as_bytes(std::span(values)), seed);
}

uint64_t RotationHash(const RopeFrequencies& f, const RopeSpec& rope) {
  const std::string text = ToString(rope.numerics) + QueryScaleFields(rope.query_scale);
  return HashOf(f.turns, Hash64(std::as_bytes(std::span(text)),
                                std::bit_cast<uint64_t>(f.multiplier) + static_cast<uint64_t>(rope.pairing)));
}

/// A value of the state; kFormat where it is missing or of another type.
template <class T>
T Value(const json& object, const char* key) {
  if (!object.is_object() || !object.contains(key)) Fail(ErrorKind::kFormat, "the state has no \"{}\"", key);
  const json& value = object[key];
  const bool fits = std::is_same_v<T, std::string> ? value.is_string()
                    : std::is_same_v<T, double>    ? value.is_number()
                                                   : value.is_number_integer();
  if (!fits) Fail(ErrorKind::kFormat, "the state's \"{}\" is {}", key, ShownJson(value));
  return value.get<T>();
}

/// The state of a file whose format and version are known.
json StateOf(const TensorSource& file) {
  const auto version = file.metadata.find(kVersionKey);
  if (version == file.metadata.end()) Fail(ErrorKind::kFormat, "a safetensors file, but no saved state of a cache");
  if (version->second != kVersion) {
    Fail(ErrorKind::kUnsupported, "a saved state of version {}; this program reads version {}", version->second,
         kVersion);
  }
  const auto text = file.metadata.find("state");
  json state = text == file.metadata.end() ? json() : WithFrame("its state", [&] { return ParseJson(text->second); });
  if (!state.is_object()) Fail(ErrorKind::kFormat, "the metadata has no state");
  return state;
}

int64_t Count(const json& object, const char* key, int64_t most) {
  const auto value = Value<int64_t>(object, key);
  if (value < 0 || value > most) Fail(ErrorKind::kFormat, "the state's \"{}\" is {}", key, value);
  return value;
}

}  // namespace

/// The one place that sees into a cache.
class KvStateIo {
 public:
  static void Save(const KvCache& cache, const Weights& model, const std::filesystem::path& path, const json& notes) {
    std::vector<std::vector<std::byte>> hold;  // what the views point into
    std::vector<TensorToWrite> tensors;
    hold.reserve(3 * cache.groups_.size() + 2 * cache.places_.size());
    uint64_t hash = 0;
    const auto add = [&](std::string name, DType dtype, std::vector<int64_t> shape, std::vector<std::byte> bytes) {
      hold.push_back(std::move(bytes));
      hash = Hash64(hold.back(), hash);
      tensors.push_back({std::move(name), {dtype, std::move(shape), hold.back()}, dtype});
    };
    json groups = json::array();
    for (size_t g = 0; g < cache.groups_.size(); ++g) {
      const KvGroup& group = cache.groups_[g];
      HAWSER_CHECK(group.chunk_ == 0 && group.prefill_ == KvGroup::Prefill::kNone);
      groups.push_back({{"policy", group.policy().Name()},
                        {"slots", group.slots_.size()},
                        {"origin", group.origin_},
                        {"steps", group.steps_},
                        {"peak", group.peak_},
                        {"stored_sum", group.stored_sum_},
                        {"seen_sum", group.seen_sum_}});
      if (group.grows_) groups.back()["length"] = group.length_;
      std::vector<int64_t> index;
      std::vector<int32_t> token;
      std::vector<uint8_t> flags;
      for (const SlotInfo& slot : group.slots_) {
        index.push_back(slot.index);
        token.push_back(slot.token);
        flags.push_back(static_cast<uint8_t>((slot.separator ? 1 : 0) | (slot.settled ? 2 : 0)));
      }
      const auto slots = static_cast<int64_t>(group.slots_.size());
      add(fmt::format("group.{}.index", g), DType::kI64, {slots}, Bytes(index));
      add(fmt::format("group.{}.token", g), DType::kI32, {slots}, Bytes(token));
      add(fmt::format("group.{}.flags", g), DType::kU8, {slots}, Bytes(flags));
    }
    for (size_t l = 0; l < cache.places_.size(); ++l) {
      const KvGroup& group = cache.groups_[static_cast<size_t>(cache.places_[l].group)];
      const KvGroup::Layer& layer = group.layers_[static_cast<size_t>(cache.places_[l].layer)];
      const auto slots = static_cast<int64_t>(group.slots_.size());
      for (const auto& [name, matrix] :
           {std::pair("keys", &group.KeptKeys(layer)), std::pair("values", &layer.values)}) {
        std::vector<std::byte> bytes(static_cast<size_t>(slots * group.columns()) * SizeOf(group.stored_));
        if (slots > 0) group.backend_->Download(matrix->view().Rows(group.base_, slots), bytes.data());
        add(fmt::format("layer.{}.{}", l, name), FileDType(group), {slots, group.columns()}, std::move(bytes));
      }
    }
    const json state = {{"policy", ToString(cache.form_)},
                        {"model", Hex(ModelFingerprint(model))},
                        {"separators", Hex(HashOf(cache.separators_))},
                        {"rotations", Hex(Rotations(cache))},
                        {"declared_length", cache.max_length_},
                        {"dtype", Name(cache.stored_)},
                        {"seen", cache.seen_},
                        {"separators_seen", cache.separators_seen_},
                        {"segment", cache.counter_.segment},
                        {"place", cache.counter_.place},
                        {"groups", std::move(groups)},
                        {"checksum", Hex(hash)},
                        {"notes", notes}};
    WriteSafetensors(path, std::move(tensors), {{kVersionKey, kVersion}, {"state", state.dump()}});
  }

  static json Load(const TensorSource& file, const Weights& model, KvCache* cache) {
    HAWSER_CHECK(cache->seen_ == 0);
    const json state = ReadState(file, model, *cache);
    const int64_t seen = Count(state, "seen", kMostSeen), separators_seen = Count(state, "separators_seen", seen);
    const json& groups = state.contains("groups") ? state["groups"] : json();
    if (!groups.is_array() || groups.size() != cache->groups_.size() ||
        file.tensors().size() != 3 * groups.size() + 2 * cache->places_.size()) {
      Fail(ErrorKind::kFormat, "the state's tensors are not those of its policy");
    }
    SegmentCounter counter;
    if (cache->segments_.places > 0) counter = {Count(state, "segment", seen), Count(state, "place", seen)};
    // Everything is checked before anything is changed.
    uint64_t hash = 0;
    std::vector<std::vector<SlotInfo>> slots(groups.size());
    for (size_t g = 0; g < groups.size(); ++g) {
      const auto n = Count(groups[g], "slots", seen);
      const auto& index = Find(file, fmt::format("group.{}.index", g), DType::kI64, {n}, &hash);
      const auto& token = Find(file, fmt::format("group.{}.token", g), DType::kI32, {n}, &hash);
      const auto& flags = Find(file, fmt::format("group.{}.flags", g), DType::kU8, {n}, &hash);
      slots[g] = ReadSlots(*cache, index, token, flags, seen);
      for (const char* key : {"origin", "steps", "peak"}) Count(groups[g], key, kMostSeen);
      if (cache->groups_[g].grows_ && Count(groups[g], "length", kMostSeen) < cache->groups_[g].length_) {
        Fail(ErrorKind::kFormat, "the state's \"length\" is {}", groups[g]["length"].dump());
      }
      for (const char* key : {"stored_sum", "seen_sum"}) {
        if (!(Value<double>(groups[g], key) >= 0)) Fail(ErrorKind::kFormat, "the state's \"{}\" is negative", key);
      }
      const KvPolicy& policy = cache->groups_[g].policy();
      if (policy.MaxSlots() >= 0 && !policy.dense_prefill() && n > policy.MaxSlots()) {
        Fail(ErrorKind::kFormat, "{} slots, and its policy {} holds {} at most", n, policy.Name(), policy.MaxSlots());
      }
    }
    std::vector<const TensorView*> rows;
    for (size_t l = 0; l < cache->places_.size(); ++l) {
      const KvGroup& group = cache->groups_[static_cast<size_t>(cache->places_[l].group)];
      const auto n = static_cast<int64_t>(slots[static_cast<size_t>(cache->places_[l].group)].size());
      for (const char* name : {"keys", "values"}) {
        const std::string full = fmt::format("layer.{}.{}", l, name);
        rows.push_back(&Find(file, full, FileDType(group), {n, group.columns()}, &hash));
        CheckFinite(group, *rows.back(), full);
      }
    }
    if (Value<std::string>(state, "checksum") != Hex(hash)) {
      Fail(ErrorKind::kFormat, "its tensors do not have the checksum of the state; the file is damaged");
    }

    for (size_t g = 0; g < groups.size(); ++g) {
      KvGroup& group = cache->groups_[g];
      group.Reserve(static_cast<int64_t>(slots[g].size()));
      group.slots_ = std::move(slots[g]);
      group.seen_ = seen;
      group.origin_ = groups[g]["origin"].get<int64_t>();
      if (group.grows_) group.SetLength(groups[g]["length"].get<int64_t>());
      group.steps_ = groups[g]["steps"].get<int64_t>();
      group.peak_ = groups[g]["peak"].get<int64_t>();
      group.stored_sum_ = groups[g]["stored_sum"].get<double>();
      group.seen_sum_ = groups[g]["seen_sum"].get<double>();
    }
    for (size_t l = 0; l < cache->places_.size(); ++l) {
      KvGroup& group = cache->groups_[static_cast<size_t>(cache->places_[l].group)];
      group.Restore(cache->places_[l].layer, rows[2 * l]->bytes, rows[2 * l + 1]->bytes);
    }
    for (KvGroup& group : cache->groups_) group.EndRestore();
    cache->seen_ = seen;
    cache->separators_seen_ = separators_seen;
    cache->counter_ = counter;
    return state.contains("notes") ? state["notes"] : json();
  }

 private:
  template <class T>
  static std::vector<std::byte> Bytes(const std::vector<T>& values) {
    const auto bytes = std::as_bytes(std::span(values));
    return {bytes.begin(), bytes.end()};
  }
  /// As tensors of a file: those of Q8_0 are bytes.
  static DType FileDType(const KvGroup& group) { return group.stored_ == DType::kQ8_0 ? DType::kU8 : group.stored_; }
  static uint64_t Rotations(const KvCache& cache) {
    uint64_t hash = 0;
    for (size_t g = 0; g < cache.groups_.size(); ++g) {
      const ModelSpec& spec = cache.groups_[g].spec_;
      if (g > 0 && spec.rope == cache.groups_[0].spec_.rope && spec.places == cache.groups_[0].spec_.places) continue;
      uint64_t own = 0;
      if (spec.places == Places::kRope) own = RotationHash(ComputeFrequencies(spec.rope, cache.max_length_), spec.rope);
      if (spec.places == Places::kAlibi) {
        const std::string alibi = ToString(spec.alibi);
        own = Hash64(std::as_bytes(std::span(alibi)));
      }
      hash = hash * 31 + own;
    }
    return hash;
  }

  static json ReadState(const TensorSource& file, const Weights& model, const KvCache& cache) {
    json state = StateOf(file);
    const auto expect = [&](const char* key, const std::string& wanted, std::string_view what) {
      if (const auto found = Value<std::string>(state, key); found != wanted) {
        Fail(ErrorKind::kUsage, "saved with another {}: {}, and this run has {}", what, found, wanted);
      }
    };
    expect("policy", ToString(cache.form_), "cache policy");
    expect("dtype", std::string(Name(cache.stored_)), "dtype");
    expect("model", Hex(ModelFingerprint(model)), "model (fingerprint)");
    expect("separators", Hex(HashOf(cache.separators_)), "set of separators (hash)");
    expect("rotations", Hex(Rotations(cache)),
           fmt::format("rope scheme or declared length ({} tokens; pass --context)",
                       Value<int64_t>(state, "declared_length")));
    return state;
  }

  static const TensorView& Find(const TensorSource& file, const std::string& name, DType dtype,
                                const std::vector<int64_t>& shape, uint64_t* hash) {
    const TensorView* view = file.Find(name);
    if (view == nullptr || view->dtype != dtype || view->shape != shape) {
      Fail(ErrorKind::kFormat, "tensor \"{}\": wanted {} {}, found {}", name, Name(dtype), ShapeText(shape),
           view == nullptr ? "none" : fmt::format("{} {}", Name(view->dtype), ShapeText(view->shape)));
    }
    *hash = Hash64(view->bytes, *hash);
    return *view;
  }

  static std::vector<SlotInfo> ReadSlots(const KvCache& cache, const TensorView& index, const TensorView& token,
                                         const TensorView& flags, int64_t seen) {
    std::vector<SlotInfo> slots(flags.bytes.size());
    for (size_t i = 0; i < slots.size(); ++i) {
      SlotInfo& slot = slots[i];
      std::memcpy(&slot.index, index.bytes.data() + i * sizeof(slot.index), sizeof(slot.index));
      std::memcpy(&slot.token, token.bytes.data() + i * sizeof(slot.token), sizeof(slot.token));
      const auto flag = std::to_integer<uint8_t>(flags.bytes[i]);
      slot.separator = (flag & 1) != 0;
      slot.settled = (flag & 2) != 0;
      const bool in_order = slot.index >= 0 && slot.index < seen && (i == 0 || slot.index > slots[i - 1].index);
      const bool known = slot.token >= 0 && slot.token < cache.vocab_;
      if (!in_order || !known || flag > 3 ||
          slot.separator != (!cache.separators_.empty() && cache.separators_[static_cast<size_t>(slot.token)] != 0)) {
        Fail(ErrorKind::kFormat, "slot {} holds token {} of place {} with flags {}", i, slot.token, slot.index, flag);
      }
    }
    return slots;
  }

  static void CheckFinite(const KvGroup& group, const TensorView& view, std::string_view name) {
    const int64_t head_dim = group.spec_.head_dim;
    const bool blocks = group.stored_ == DType::kQ8_0;
    const auto bytes = static_cast<int64_t>(view.bytes.size());
    std::vector<float> head(static_cast<size_t>(head_dim));
    const int64_t step = blocks ? Q8Bytes(head_dim) : head_dim * static_cast<int64_t>(SizeOf(view.dtype));
    for (int64_t at = 0; at < bytes; at += step) {
      if (blocks) {
        DequantizeQ8(view.bytes.data() + at, head_dim, head.data());
      } else {
        ConvertToF32(view.dtype, view.bytes.data() + at, head_dim, head.data());
      }
      const auto odd = std::ranges::find_if(head, [](float x) { return !std::isfinite(x); });
      if (odd == head.end()) continue;
      Fail(ErrorKind::kFormat, "tensor \"{}\": element {} is {}", name, at / step * head_dim + (odd - head.begin()),
           *odd);
    }
  }
};

uint64_t ModelFingerprint(const Weights& model) {
  const ModelSpec& s = model.spec();
  std::vector<int64_t> dims = {
      s.vocab,    s.width,     s.layers,         s.heads,          s.kv_heads,
      s.head_dim, s.mlp_width, s.sliding_window, s.tie_embeddings, static_cast<int64_t>(model.dtype())};
  uint64_t hash = HashOf(dims, std::bit_cast<uint32_t>(s.norm_eps));
  const std::string softmax = ToString(s.softmax);
  if (s.softmax != SoftmaxSpec()) hash = Hash64(std::as_bytes(std::span(softmax)), hash);
  if (!s.full_layers.empty()) hash = HashOf(s.full_layers, hash);
  if (s.segments.places > 0) hash = HashOf(s.segments.separators, hash);
  for (const ConstMat& tensor : model.tensors()) {
    const auto* begin = static_cast<const std::byte*>(tensor.data);
    hash = Hash64({begin, std::min(kSample, static_cast<size_t>(StoredBytes(tensor)))}, hash);
  }
  return hash;
}

KvStateInfo ReadKvStateInfo(const std::filesystem::path& path) {
  const TensorSource file = ReadSafetensors(path);
  return WithFrame(path.string(), [&] {
    const json state = StateOf(file);
    return KvStateInfo{.policy = Value<std::string>(state, "policy"),
                       .seen = Count(state, "seen", kMostSeen),
                       .declared_length = Count(state, "declared_length", int64_t{1} << 62),
                       .notes = state.value("notes", json())};
  });
}

void SaveKvState(const KvCache& cache, const Weights& model, const std::filesystem::path& path,
                 const nlohmann::json& notes) {
  KvStateIo::Save(cache, model, path, notes);
}

nlohmann::json LoadKvState(const std::filesystem::path& path, const Weights& model, KvCache* cache) {
  const TensorSource file = ReadSafetensors(path);
  return WithFrame(path.string(), [&] { return KvStateIo::Load(file, model, cache); });
}

}  // namespace hawser
