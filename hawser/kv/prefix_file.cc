// The file of a PrefixIndex: safetensors, what it says of itself in the metadata.
#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>

#include "hawser/base/error.h"
#include "hawser/base/hash.h"
#include "hawser/base/parallel.h"
#include "hawser/base/q8.h"
#include "hawser/base/size.h"
#include "hawser/io/json.h"
#include "hawser/io/json_text.h"
#include "hawser/io/safetensors.h"
#include "hawser/kv/prefix_index.h"

namespace hawser {
namespace {

constexpr const char* kPrefixVersionKey = "hawser_prefix_index";
constexpr const char* kPrefixVersion = "2";
constexpr int64_t kMostCount = int64_t{1} << 31;

std::string HexOf(uint64_t value) { return fmt::format("{:016x}", value); }

DType FileDTypeOf(DType stored) { return stored == DType::kQ8_0 ? DType::kU8 : stored; }
int64_t ColumnsOf(DType stored, int64_t head_dim) { return stored == DType::kQ8_0 ? Q8Bytes(head_dim) : head_dim; }

std::string LevelName(size_t layer, bool coarse, std::string_view part) {
  return fmt::format("layer.{}.{}{}", layer, coarse ? "groups." : "", part);
}

/// A tensor of these elements, which the map of a file holds aligned.
template <class T>
std::span<const T> Elements(const TensorSource& file, const std::string& name, DType dtype,
                            const std::vector<int64_t>& shape) {
  const TensorView* view = file.Find(name);
  // Where a dimension is not known beforehand (-1), what the file says.
  const bool fits = view != nullptr && view->dtype == dtype && view->shape.size() == shape.size() &&
                    std::ranges::equal(view->shape, shape, [](int64_t has, int64_t wants) {
                      return has == wants || (wants < 0 && has > 0 && has < kMostCount);
                    });
  if (!fits) {
    Fail(ErrorKind::kFormat, "tensor \"{}\": wanted {} {}, found {}", name, Name(dtype), ShapeText(shape),
         view == nullptr ? "none" : fmt::format("{} {}", Name(view->dtype), ShapeText(view->shape)));
  }
  if (reinterpret_cast<uintptr_t>(view->bytes.data()) % alignof(T) != 0) {
    Fail(ErrorKind::kFormat, "tensor \"{}\" does not lie at a multiple of {}", name, Counted(alignof(T), "byte"));
  }
  return {reinterpret_cast<const T*>(view->bytes.data()), view->bytes.size() / sizeof(T)};
}

void CheckFinite(std::span<const float> values, std::string_view name) {
  const auto odd = std::ranges::find_if(values, [](float x) { return !std::isfinite(x); });
  if (odd == values.end()) return;
  Fail(ErrorKind::kFormat, "tensor \"{}\": element {} is {}", name, odd - values.begin(), *odd);
}

/// [G + 1] numbers from 0 to `count`, each head with one or more.
std::span<const int32_t> ReadHeads(const TensorSource& file, const std::string& name, int32_t kv_heads, int64_t count) {
  const auto first = Elements<int32_t>(file, name, DType::kI32, {kv_heads + 1});
  const bool ascends = std::ranges::adjacent_find(first, std::greater_equal<>()) == first.end();
  if (!ascends || first.front() != 0 || first.back() != count) {
    Fail(ErrorKind::kFormat, "tensor \"{}\" does not divide {} among {}", name, Counted(count, "cluster"),
         Counted(kv_heads, "head"));
  }
  return first;
}

/// bounds(g): what the ranges of head g cover, one behind the other.
template <class Bounds>
PrefixIndex::Level ReadLevel(const TensorSource& file, const PrefixIndex& index, size_t layer, bool coarse,
                             const Bounds& bounds) {
  PrefixIndex::Level level;
  const std::string centroids = LevelName(layer, coarse, "centroids"), clusters = LevelName(layer, coarse, "clusters");
  const auto values = Elements<float>(file, centroids, DType::kF32, {-1, index.head_dim});
  const int64_t count = static_cast<int64_t>(values.size()) / index.head_dim;
  CheckFinite(values, centroids);
  level.centroids = {values.data(), DType::kF32, count, index.head_dim, index.head_dim};
  level.clusters = Elements<KvRange>(file, clusters, DType::kI32, {count, 2});
  level.first = ReadHeads(file, LevelName(layer, coarse, "heads"), index.kv_heads, count);
  for (int32_t g = 0; g < index.kv_heads; ++g) {
    const KvRange all = bounds(g);
    int32_t next = all.begin;
    const int32_t end = level.first[static_cast<size_t>(g) + 1];
    for (int32_t c = level.first[static_cast<size_t>(g)]; c < end; ++c) {
      const KvRange range = level.clusters[static_cast<size_t>(c)];
      const bool fits = range.begin == next && range.begin < range.end && range.end <= all.end;
      if (!fits || (c + 1 == end && range.end != all.end)) {
        Fail(ErrorKind::kFormat, "tensor \"{}\": range {} is [{}, {})", clusters, c, range.begin, range.end);
      }
      next = range.end;
    }
  }
  return level;
}

/// How keys and values lie in the file.
DType StoredOf(const std::string& name) {
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kQ8_0}) {
    if (name == Name(dtype)) return dtype;
  }
  Fail(ErrorKind::kFormat, "keys and values are stored as '{}'; wanted f32, bf16 or q8_0", name);
}

void CheckOwner(const JsonObject& about, const PrefixOwner& owner) {
  const auto expect = [&](const char* key, const std::string& wanted, std::string_view what,
                          std::string_view advice = {}) {
    if (const std::string found = about.String(key); found != wanted) {
      Fail(ErrorKind::kUsage, "a prefix that was indexed with another {}: {}, and this run has {}{}", what, found,
           wanted, advice.empty() ? "" : fmt::format("; pass {} {}", advice, found));
    }
  };
  const std::string dtype = about.String("dtype"), model = about.String("model");
  if (dtype != owner.dtype && model != HexOf(owner.model)) {  // weights cast to another dtype are other weights
    Fail(ErrorKind::kUsage,
         "a prefix that was indexed in {} with the model {} (fingerprint), and this run has {} and {}: pass --dtype {} "
         "if the model is the same, and index the text with it if it is another model",
         dtype, model, owner.dtype, HexOf(owner.model), dtype);
  }
  expect("dtype", owner.dtype, "dtype of activations", "--dtype");
  expect("model", HexOf(owner.model), "model (fingerprint; --dtype f32 makes another one of stored weights)");
  expect("rope", owner.rope, "rope", "--rope");
  if (const int64_t declared = about.Int("declared_length", 0, int64_t{1} << 62); declared != owner.declared_length) {
    Fail(ErrorKind::kUsage,
         "a prefix that was indexed for a declared length of {}, and this run has {}: pass "
         "--context {}",
         Counted(declared, "token"), owner.declared_length, declared);
  }
  expect("rotations", HexOf(owner.rotations), "set of rotations (hash)");
}

PrefixIndex ReadIndex(TensorSource source, const PrefixOwner& owner) {
  const auto file = std::make_shared<TensorSource>(std::move(source));
  const auto version = file->metadata.find(kPrefixVersionKey);
  if (version == file->metadata.end()) Fail(ErrorKind::kFormat, "a safetensors file, but no index of a prefix");
  if (version->second != kPrefixVersion) {
    Fail(ErrorKind::kUnsupported, "an index of version {}; this program reads version {}: write it anew (hawser index)",
         version->second, kPrefixVersion);
  }
  const auto text = file->metadata.find("index");
  const nlohmann::json json =
      text == file->metadata.end() ? nlohmann::json() : WithFrame("its index", [&] { return ParseJson(text->second); });
  const JsonObject about(json, "the index");
  CheckOwner(about, owner);
  PrefixIndex index{.owner = owner,
                    .kv_heads = static_cast<int32_t>(about.Int("kv_heads", 1, 1 << 16)),
                    .head_dim = static_cast<int32_t>(about.Int("head_dim", 1, 256)),
                    .dtype = StoredOf(about.String("stored")),
                    .sinks = static_cast<int32_t>(about.Int("sinks", 0, 1 << 16)),
                    .window = static_cast<int32_t>(about.Int("window", 0, 1 << 24)),
                    .levels = static_cast<int32_t>(about.Int("levels", 1, 2))};
  const auto ids = Elements<int32_t>(*file, "ids", DType::kI32, {-1});
  index.ids = {ids.begin(), ids.end()};
  const int64_t tokens = index.tokens(), layers = about.Int("layers", 1, 1 << 16);
  const int64_t per_layer = 2 + 3 * index.levels;
  if (tokens <= index.sinks + index.window || index.kv_heads * tokens >= kMostCount ||
      static_cast<int64_t>(file->tensors().size()) != 2 + layers * per_layer) {
    Fail(ErrorKind::kFormat, "the tensors are not those of an index of {} in {}", Counted(tokens, "token"),
         Counted(layers, "layer"));
  }
  if (about.String("checksum") != HexOf(PrefixChecksum(*file))) {
    Fail(ErrorKind::kFormat, "its tensors do not have the checksum of the index; the file is damaged");
  }
  const auto sketch = Elements<float>(*file, "quantiles", DType::kF32, {index.levels, PrefixIndex::kQuantiles});
  CheckFinite(sketch, "quantiles");
  for (int32_t level = 0; level < index.levels; ++level) {
    const auto part = sketch.subspan(static_cast<size_t>(level * PrefixIndex::kQuantiles), PrefixIndex::kQuantiles);
    if (!std::ranges::is_sorted(part)) Fail(ErrorKind::kFormat, "tensor \"quantiles\" does not ascend");
    index.quantiles[static_cast<size_t>(level)] = {part.begin(), part.end()};
  }
  const int64_t columns = ColumnsOf(index.dtype, index.head_dim);
  for (size_t l = 0; l < static_cast<size_t>(layers); ++l) {
    PrefixIndex::Layer& layer = index.layers.emplace_back();
    const auto rows = [&](const char* name) {
      const std::string full = fmt::format("layer.{}.{}", l, name);
      const std::vector<int64_t> shape = {index.kv_heads * tokens, columns};
      const DType dtype = FileDTypeOf(index.dtype);
      const void* data = index.dtype == DType::kF32 ? Elements<float>(*file, full, dtype, shape).data()
                         : index.dtype == DType::kBF16
                             ? static_cast<const void*>(Elements<bf16>(*file, full, dtype, shape).data())
                             : Elements<std::byte>(*file, full, dtype, shape).data();
      return ConstMat{data, index.dtype, index.kv_heads * tokens, columns, columns};
    };
    layer.keys = rows("keys");
    layer.values = rows("values");
    layer.fine = ReadLevel(*file, index, l, false, [&](int32_t g) {
      return KvRange{static_cast<int32_t>(g * tokens + index.sinks),
                     static_cast<int32_t>((g + 1) * tokens - index.window)};
    });
    if (index.levels < 2) continue;
    layer.coarse = ReadLevel(*file, index, l, true, [&](int32_t g) {
      return KvRange{layer.fine.first[static_cast<size_t>(g)], layer.fine.first[static_cast<size_t>(g) + 1]};
    });
  }
  index.memory = file;
  return index;
}

}  // namespace

std::string PrefixName(const PrefixIndex& index) {
  const std::array<int32_t, 4> numbers = {index.sinks, index.window, index.levels, static_cast<int32_t>(index.dtype)};
  uint64_t hash = Hash64(std::as_bytes(std::span(index.ids)), index.owner.model);
  hash = Hash64(std::as_bytes(std::span(numbers)), hash);
  for (const std::vector<float>& scores : index.quantiles) hash = Hash64(std::as_bytes(std::span(scores)), hash);
  return fmt::format("{} ({})", Counted(index.tokens(), "token"), HexOf(hash));
}

uint64_t PrefixChecksum(const TensorSource& file) {
  std::vector<std::span<const std::byte>> tensors;
  for (const auto& [name, view] : file.tensors()) tensors.push_back(view.bytes);
  std::vector<uint64_t> sums(tensors.size());
  ParallelFor(std::ssize(tensors),
              [&](int64_t i) { sums[static_cast<size_t>(i)] = Hash64(tensors[static_cast<size_t>(i)]); });
  return Hash64(std::as_bytes(std::span(sums)));
}

void SavePrefixIndex(const PrefixIndex& index, const std::filesystem::path& path) {
  std::vector<TensorToWrite> tensors;
  const auto add = [&](std::string name, DType dtype, std::vector<int64_t> shape, const void* data) {
    const int64_t bytes = *TensorBytes(shape, dtype);
    tensors.push_back({std::move(name),
                       {dtype, std::move(shape), {static_cast<const std::byte*>(data), static_cast<size_t>(bytes)}},
                       dtype});
  };
  std::vector<float> sketch;
  for (int32_t level = 0; level < index.levels; ++level) {
    const std::vector<float>& part = index.quantiles[static_cast<size_t>(level)];
    sketch.insert(sketch.end(), part.begin(), part.end());
  }
  add("ids", DType::kI32, {index.tokens()}, index.ids.data());
  add("quantiles", DType::kF32, {index.levels, PrefixIndex::kQuantiles}, sketch.data());
  for (size_t l = 0; l < index.layers.size(); ++l) {
    const PrefixIndex::Layer& layer = index.layers[l];
    for (const auto& [name, rows] : {std::pair{"keys", layer.keys}, std::pair{"values", layer.values}}) {
      add(fmt::format("layer.{}.{}", l, name), FileDTypeOf(index.dtype), {rows.rows, rows.cols}, rows.data);
    }
    for (const bool coarse : {false, true}) {
      const PrefixIndex::Level& level = coarse ? layer.coarse : layer.fine;
      if (level.clusters.empty()) continue;
      add(LevelName(l, coarse, "centroids"), DType::kF32, {level.centroids.rows, index.head_dim}, level.centroids.data);
      add(LevelName(l, coarse, "clusters"), DType::kI32, {level.centroids.rows, 2}, level.clusters.data());
      add(LevelName(l, coarse, "heads"), DType::kI32, {index.kv_heads + 1}, level.first.data());
    }
  }
  TensorSource names;  // in the order of a reader
  for (const TensorToWrite& tensor : tensors) names.Add(tensor.name, tensor.view);
  const nlohmann::json about = {{"model", HexOf(index.owner.model)},
                                {"dtype", index.owner.dtype},
                                {"rope", index.owner.rope},
                                {"rotations", HexOf(index.owner.rotations)},
                                {"declared_length", index.owner.declared_length},
                                {"kv_heads", index.kv_heads},
                                {"head_dim", index.head_dim},
                                {"stored", Name(index.dtype)},
                                {"sinks", index.sinks},
                                {"window", index.window},
                                {"levels", index.levels},
                                {"layers", index.layers.size()},
                                {"tokens", index.tokens()},
                                {"checksum", HexOf(PrefixChecksum(names))}};
  WriteSafetensors(path, std::move(tensors), {{kPrefixVersionKey, kPrefixVersion}, {"index", JsonText(about)}});
}

PrefixIndex LoadPrefixIndex(const std::filesystem::path& path, const PrefixOwner& owner) {
  TensorSource file = ReadSafetensors(path);
  return WithFrame(path.string(), [&] { return ReadIndex(std::move(file), owner); });
}

}  // namespace hawser
