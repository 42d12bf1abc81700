#include "hawser/kv/state.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <string>
#include <utility>

#include "hawser/base/error.h"
#include "hawser/base/hash.h"
#include "hawser/base/q8.h"
#include "hawser/base/size.h"
#include "hawser/io/convert.h"
#include "hawser/io/json.h"
#include "hawser/io/json_text.h"
#include "hawser/io/safetensors.h"
#include "hawser/kv/squeezed.h"

namespace hawser {
namespace {

using nlohmann::json;

constexpr const char* kVersionKey = "hawser_kv_state";
constexpr const char* kVersion = "2";
constexpr const char* kRawVersion = "1";         // its keys at ranks are all un-rotated
constexpr const char* kSeal = "state_hash";      // of the text of the state, as it lies in the file
constexpr int64_t kMostSeen = int64_t{1} << 53;  // tokens: what sums over them can hold

std::string Hex(uint64_t value) { return fmt::format("{:016x}", value); }

template <class T>
uint64_t HashOf(const std::vector<T>& values, uint64_t seed = 0) {
  return Hash64(std::as_bytes(std::span(values)), seed);
}

std::string SealOf(const std::string& text) { return Hex(Hash64(std::as_bytes(std::span(text)))); }

uint64_t RotationHash(const RopeFrequencies& f, const RopeSpec& rope) {
  std::string text = ToString(rope.numerics) + QueryScaleFields(rope.query_scale);
  if (rope.fold.active()) text += ToString(rope.fold);
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
  if (version->second != kVersion && version->second != kRawVersion) {
    Fail(ErrorKind::kUnsupported, "a saved state of version {}; this program reads versions {} and {}", version->second,
         kRawVersion, kVersion);
  }
  const auto text = file.metadata.find("state");
  json state = text == file.metadata.end() ? json() : WithFrame("its state", [&] { return ParseJson(text->second); });
  if (!state.is_object()) Fail(ErrorKind::kFormat, "the metadata has no state");
  const auto seal = file.metadata.find(kSeal);  // files from before it was written have none
  if (seal != file.metadata.end() && seal->second != SealOf(text->second)) {
    Fail(ErrorKind::kFormat, "its state does not have the hash that was written beside it; the file is damaged");
  }
  return state;
}

int64_t Count(const json& object, const char* key, int64_t most) {
  const auto value = Value<int64_t>(object, key);
  if (value < 0 || value > most) Fail(ErrorKind::kFormat, "the state's \"{}\" is {}", key, value);
  return value;
}

template <class T>
std::vector<std::byte> Bytes(const std::vector<T>& values) {
  const auto bytes = std::as_bytes(std::span(values));
  return {bytes.begin(), bytes.end()};
}

/// As tensors of a file: those of Q8_0 are bytes.
DType FileDType(const KvCache& cache) { return cache.stored() == DType::kQ8_0 ? DType::kU8 : cache.stored(); }

const KvGroup& GroupOf(const KvCache& cache, int32_t layer) {
  return cache.groups()[static_cast<size_t>(cache.place(layer).group)];
}

uint64_t Rotations(const KvCache& cache) {
  uint64_t hash = 0;
  const std::span<const KvGroup> groups = cache.groups();
  for (size_t g = 0; g < groups.size(); ++g) {
    const std::optional<RopeSpec>& rope = groups[g].layer().rope;
    if (g > 0 && rope == groups[0].layer().rope) continue;
    uint64_t own = 0;
    if (rope) own = RotationHash(ComputeFrequencies(*rope, cache.max_length()), *rope);
    if (cache.alibi()) {
      const std::string alibi = ToString(*cache.alibi());
      own = Hash64(std::as_bytes(std::span(alibi)));
    }
    hash = hash * 31 + own;
  }
  return hash;
}

/// The positions of the first layers that have some, as they are written.
std::string PositionsText(const KvCache& cache) {
  if (cache.alibi()) return ToString(*cache.alibi());
  for (const KvGroup& group : cache.groups()) {
    if (group.layer().rope) return ToString(*group.layer().rope);
  }
  return "none";
}

/// What the cache goes on behind.
std::string PrefixOf(const KvCache& cache) {
  return cache.prefix() != nullptr ? PrefixName(cache.prefix()->index()) : "none";
}

json ReadState(const TensorSource& file, uint64_t model, const KvCache& cache) {
  json state = StateOf(file);
  const auto expect = [&](const char* key, const std::string& wanted, std::string_view what,
                          std::string_view advice = {}) {
    if (const auto found = Value<std::string>(state, key); found != wanted) {
      Fail(ErrorKind::kUsage, "saved with another {}: {}, and this run has {}{}", what, found, wanted,
           advice.empty() ? "" : fmt::format("; pass {} {}", advice, found));
    }
  };
  expect("policy", ToString(cache.form()), "cache policy", "--kv");
  expect("dtype", std::string(Name(cache.stored())), "dtype", "--dtype");
  expect("model", Hex(model), "model (fingerprint)");
  expect("separators", Hex(HashOf(cache.separators())), "set of separators (hash)");
  if (state.contains("prefix") || cache.prefix() != nullptr) {
    if (!state.contains("prefix")) state["prefix"] = "none";
    expect("prefix", PrefixOf(cache), "indexed prefix (--index)");
  }
  if (Value<std::string>(state, "rotations") != Hex(Rotations(cache))) {
    const bool told = state.contains("positions") && state["positions"].is_string();
    Fail(ErrorKind::kUsage, "saved with another rope scheme or --context: {} and {}, and this run has {} and {}",
         told ? state["positions"].get<std::string>() : "one that it does not tell",
         Value<int64_t>(state, "declared_length"), PositionsText(cache), cache.max_length());
  }
  return state;
}

const TensorView& Find(const TensorSource& file, const std::string& name, DType dtype,
                       const std::vector<int64_t>& shape, uint64_t* hash) {
  const TensorView* view = file.Find(name);
  if (view == nullptr || view->dtype != dtype || view->shape != shape) {
    Fail(ErrorKind::kFormat, "tensor \"{}\": wanted {} {}, found {}", name, Name(dtype), ShapeText(shape),
         view == nullptr ? "none" : fmt::format("{} {}", Name(view->dtype), ShapeText(view->shape)));
  }
  *hash = Hash64(view->bytes, *hash);
  return *view;
}

std::vector<SlotInfo> ReadSlots(const KvCache& cache, const TensorView& index, const TensorView& token,
                                const TensorView& flags, int64_t seen) {
  std::vector<SlotInfo> slots(flags.bytes.size());
  for (size_t i = 0; i < slots.size(); ++i) {
    SlotInfo& slot = slots[i];
    std::memcpy(&slot.index, index.bytes.data() + i * sizeof(slot.index), sizeof(slot.index));
    std::memcpy(&slot.token, token.bytes.data() + i * sizeof(slot.token), sizeof(slot.token));
    const auto flag = std::to_integer<uint8_t>(flags.bytes[i]);
    slot.separator = (flag & 1) != 0;
    slot.settled = (flag & 2) != 0;
    const bool in_order =
        slot.index >= cache.prefix_tokens() && slot.index < seen && (i == 0 || slot.index > slots[i - 1].index);
    const bool known = slot.token >= 0 && slot.token < cache.vocab();
    if (!in_order || !known || flag > 3 ||
        slot.separator != (!cache.separators().empty() && cache.separators()[static_cast<size_t>(slot.token)] != 0)) {
      Fail(ErrorKind::kFormat, "slot {} holds token {} of place {} with flags {}", i, slot.token, slot.index, flag);
    }
  }
  return slots;
}

/// Places of what each head of keys chose, which stand before those of `slots` behind them.
std::vector<std::vector<int64_t>> ReadPlaces(const TensorView& view, std::span<const SlotInfo> slots, int64_t seen) {
  const auto chosen = static_cast<size_t>(view.shape[1]);
  std::vector<std::vector<int64_t>> places(static_cast<size_t>(view.shape[0]), std::vector<int64_t>(chosen));
  for (size_t head = 0; head < places.size(); ++head) {
    std::vector<int64_t>& of = places[head];
    std::memcpy(of.data(), view.bytes.data() + head * chosen * sizeof(int64_t), chosen * sizeof(int64_t));
    const int64_t end = chosen < slots.size() ? slots[chosen].index : seen;
    const bool ascends = std::ranges::adjacent_find(of, std::greater_equal<>()) == of.end();
    if (ascends && of.front() >= 0 && of.back() < end) continue;
    Fail(ErrorKind::kFormat, "the places that head {} chose are not in order, or not before {}", head, end);
  }
  return places;
}

void CheckFinite(const KvCache& cache, const TensorView& view, std::string_view name) {
  const int64_t head_dim = cache.head_dim();
  const bool blocks = cache.stored() == DType::kQ8_0;
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

void SaveTo(const std::filesystem::path& path, const KvCache& cache, uint64_t model, const json& notes) {
  std::vector<std::vector<std::byte>> hold;  // what the views point into
  std::vector<TensorToWrite> tensors;
  const std::span<const KvGroup> cache_groups = cache.groups();
  hold.reserve(4 * cache_groups.size() + 2 * static_cast<size_t>(cache.layers()));
  uint64_t hash = 0;
  const auto add = [&](std::string name, DType dtype, std::vector<int64_t> shape, std::vector<std::byte> bytes) {
    hold.push_back(std::move(bytes));
    hash = Hash64(hold.back(), hash);
    tensors.push_back({std::move(name), {dtype, std::move(shape), hold.back()}, dtype});
  };
  json groups = json::array();
  for (size_t g = 0; g < cache_groups.size(); ++g) {
    const KvGroup& group = cache_groups[g];
    const SlotTable& table = group.table();
    HAWSER_CHECK(table.chunk() == 0 && !table.inside_prompt());
    groups.push_back({{"policy", table.policy().Name()},
                      {"slots", table.size()},
                      {"origin", group.origin()},
                      {"steps", table.counters().steps},
                      {"peak", table.counters().peak},
                      {"stored_sum", table.counters().stored_sum},
                      {"seen_sum", table.counters().seen_sum}});
    if (group.grows()) groups.back()["length"] = group.length();
    if (group.own_places() > 0) groups.back()["chosen"] = group.own_places();
    std::vector<int64_t> index;
    std::vector<int32_t> token;
    std::vector<uint8_t> flags;
    for (const SlotInfo& slot : table.slots()) {
      index.push_back(slot.index);
      token.push_back(slot.token);
      flags.push_back(static_cast<uint8_t>((slot.separator ? 1 : 0) | (slot.settled ? 2 : 0)));
    }
    add(fmt::format("group.{}.index", g), DType::kI64, {table.size()}, Bytes(index));
    add(fmt::format("group.{}.token", g), DType::kI32, {table.size()}, Bytes(token));
    add(fmt::format("group.{}.flags", g), DType::kU8, {table.size()}, Bytes(flags));
    if (group.own_places() == 0) continue;
    std::vector<int64_t> places;
    for (int32_t head = 0; head < cache.kv_heads(); ++head) {
      for (int64_t slot = 0; slot < group.own_places(); ++slot) places.push_back(group.PlaceOf(head, slot));
    }
    add(fmt::format("group.{}.places", g), DType::kI64, {cache.kv_heads(), group.own_places()}, Bytes(places));
  }
  for (int32_t l = 0; l < cache.layers(); ++l) {
    const KvGroup& group = GroupOf(cache, l);
    const int64_t slots = group.table().size();
    const auto size = static_cast<size_t>(slots * group.columns()) * SizeOf(cache.stored());
    std::vector<std::byte> keys(size), values(size);
    group.Download(cache.place(l).layer, keys.data(), values.data());
    add(fmt::format("layer.{}.keys", l), FileDType(cache), {slots, group.columns()}, std::move(keys));
    add(fmt::format("layer.{}.values", l), FileDType(cache), {slots, group.columns()}, std::move(values));
  }
  json state = {{"policy", ToString(cache.form())},
                {"model", Hex(model)},
                {"separators", Hex(HashOf(cache.separators()))},
                {"rotations", Hex(Rotations(cache))},
                {"positions", PositionsText(cache)},
                {"declared_length", cache.max_length()},
                {"dtype", Name(cache.stored())},
                {"seen", cache.seen()},
                {"separators_seen", cache.separators_seen()},
                {"segment", cache.segment().segment},
                {"place", cache.segment().place},
                {"groups", std::move(groups)},
                {"checksum", Hex(hash)},
                {"notes", notes}};
  if (cache.prefix() != nullptr) state["prefix"] = PrefixOf(cache);
  const std::string text = JsonText(state);
  WriteSafetensors(path, std::move(tensors), {{kVersionKey, kVersion}, {"state", text}, {kSeal, SealOf(text)}});
}

json LoadFrom(const TensorSource& file, uint64_t model, KvCache* cache) {
  HAWSER_CHECK(cache->seen() == cache->prefix_tokens());
  const json state = ReadState(file, model, *cache);
  const int64_t seen = Count(state, "seen", kMostSeen), separators_seen = Count(state, "separators_seen", seen);
  if (seen < cache->prefix_tokens()) Fail(ErrorKind::kFormat, "the state's \"seen\" is {}, less than its prefix", seen);
  const json& groups = state.contains("groups") ? state["groups"] : json();
  const std::span<KvGroup> cache_groups = cache->groups();
  const auto by_heads = [](const json& group) { return group.is_object() && group.contains("chosen"); };
  const int64_t chosen = groups.is_array() ? std::ranges::count_if(groups, by_heads) : 0;
  if (!groups.is_array() || groups.size() != cache_groups.size() ||
      file.tensors().size() !=
          3 * groups.size() + static_cast<size_t>(chosen) + 2 * static_cast<size_t>(cache->layers())) {
    Fail(ErrorKind::kFormat, "the state's tensors are not those of its policy");
  }
  SegmentCounter counter;
  if (cache->counts_segments()) counter = {Count(state, "segment", seen), Count(state, "place", seen)};
  const bool raw = file.metadata.find(kVersionKey)->second == kRawVersion;
  // Everything is checked before anything is changed.
  uint64_t hash = 0;
  std::vector<std::vector<SlotInfo>> slots(groups.size());
  std::vector<std::vector<std::vector<int64_t>>> places(groups.size());
  for (size_t g = 0; g < groups.size(); ++g) {
    const auto n = Count(groups[g], "slots", seen);
    const auto& index = Find(file, fmt::format("group.{}.index", g), DType::kI64, {n}, &hash);
    const auto& token = Find(file, fmt::format("group.{}.token", g), DType::kI32, {n}, &hash);
    const auto& flags = Find(file, fmt::format("group.{}.flags", g), DType::kU8, {n}, &hash);
    slots[g] = ReadSlots(*cache, index, token, flags, seen);
    if (by_heads(groups[g])) {
      const int64_t own = Count(groups[g], "chosen", n);
      if (own == 0 || !cache_groups[g].table().policy().form().chosen()) {
        Fail(ErrorKind::kFormat, "the state's \"chosen\" is {}, of policy {}", own,
             cache_groups[g].table().policy().Name());
      }
      const auto& view = Find(file, fmt::format("group.{}.places", g), DType::kI64, {cache->kv_heads(), own}, &hash);
      places[g] = ReadPlaces(view, slots[g], seen);
    }
    for (const char* key : {"origin", "steps", "peak"}) Count(groups[g], key, kMostSeen);
    if (cache_groups[g].grows() && Count(groups[g], "length", kMostSeen) < cache_groups[g].length()) {
      Fail(ErrorKind::kFormat, "the state's \"length\" is {}", groups[g]["length"].dump());
    }
    for (const char* key : {"stored_sum", "seen_sum"}) {
      if (!(Value<double>(groups[g], key) >= 0)) Fail(ErrorKind::kFormat, "the state's \"{}\" is negative", key);
    }
    const KvPolicy& policy = cache_groups[g].table().policy();
    if (policy.MaxSlots() >= 0 && !policy.dense_prefill() && n > policy.MaxSlots()) {
      Fail(ErrorKind::kFormat, "{}, and its policy {} holds {} at most", Counted(n, "slot"), policy.Name(),
           policy.MaxSlots());
    }
  }
  std::vector<const TensorView*> rows;
  for (int32_t l = 0; l < cache->layers(); ++l) {
    const auto n = static_cast<int64_t>(slots[static_cast<size_t>(cache->place(l).group)].size());
    for (const char* name : {"keys", "values"}) {
      const std::string full = fmt::format("layer.{}.{}", l, name);
      rows.push_back(&Find(file, full, FileDType(*cache), {n, GroupOf(*cache, l).columns()}, &hash));
      CheckFinite(*cache, *rows.back(), full);
    }
  }
  if (Value<std::string>(state, "checksum") != Hex(hash)) {
    Fail(ErrorKind::kFormat, "its tensors do not have the checksum of the state; the file is damaged");
  }

  for (size_t g = 0; g < groups.size(); ++g) {
    const json& of = groups[g];
    cache_groups[g].Restore(std::move(slots[g]),
                            {.seen = seen,
                             .steps = of["steps"].get<int64_t>(),
                             .peak = of["peak"].get<int64_t>(),
                             .stored_sum = of["stored_sum"].get<double>(),
                             .seen_sum = of["seen_sum"].get<double>()},
                            of["origin"].get<int64_t>(), cache_groups[g].grows() ? of["length"].get<int64_t>() : 0,
                            std::move(places[g]));
  }
  for (int32_t l = 0; l < cache->layers(); ++l) {
    const auto [group, layer] = cache->place(l);
    cache_groups[static_cast<size_t>(group)].Upload(layer, rows[2 * static_cast<size_t>(l)]->bytes,
                                                    rows[2 * static_cast<size_t>(l) + 1]->bytes);
    if (raw && cache_groups[static_cast<size_t>(group)].two_phases()) {
      cache_groups[static_cast<size_t>(group)].PlaceKeys(layer);
    }
  }
  for (KvGroup& group : cache_groups) group.EndRestore();
  cache->Restore(seen, separators_seen, counter);
  return state.contains("notes") ? state["notes"] : json();
}

}  // namespace

KvStateInfo ReadKvStateInfo(const std::filesystem::path& path) {
  const TensorSource file = ReadSafetensors(path);
  return WithFrame(path.string(), [&] {
    const json state = StateOf(file);
    return KvStateInfo{.policy = Value<std::string>(state, "policy"),
                       .seen = Count(state, "seen", kMostSeen),
                       .declared_length = Count(state, "declared_length", int64_t{1} << 62),
                       .prefix = state.contains("prefix") ? Value<std::string>(state, "prefix") : "",
                       .notes = state.value("notes", json())};
  });
}

void SaveKvState(const KvCache& cache, uint64_t model, const std::filesystem::path& path, const nlohmann::json& notes) {
  SaveTo(path, cache, model, notes);
}

nlohmann::json LoadKvState(const std::filesystem::path& path, uint64_t model, KvCache* cache) {
  const TensorSource file = ReadSafetensors(path);
  return WithFrame(path.string(), [&] { return LoadFrom(file, model, cache); });
}

}  // namespace hawser
