// Files of tensors, token ids and streams. Mutators make files whose sizes, offsets and checksums agree, so that what
// lies behind those checks is reached; bytes alone are changed too.
#include <cmath>
#include <cstring>
#include <filesystem>
#include <optional>
#include <span>

#include "fuzz/mutate.h"
#include "fuzz/target.h"
#include "hawser/base/error.h"
#include "hawser/base/file.h"
#include "hawser/base/hash.h"
#include "hawser/data/shards.h"
#include "hawser/device/registry.h"
#include "hawser/io/gguf.h"
#include "hawser/io/gguf_writer.h"
#include "hawser/io/llama2c.h"
#include "hawser/io/safetensors.h"
#include "hawser/kv/state.h"
#include "hawser/model/decoder.h"
#include "hawser/model/fingerprint.h"
#include "hawser/model/kv_shape.h"
#include "hawser/testing/byte_tokenizer.h"
#include "hawser/testing/tiny_model.h"
#include "hawser/zoo/load.h"

namespace hawser::fuzz {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

uint64_t HashOf(std::string_view bytes, uint64_t seed = 0) { return Hash64(std::as_bytes(std::span(bytes)), seed); }

template <class T>
void Put(std::string* out, T value) {
  out->append(reinterpret_cast<const char*>(&value), sizeof(T));
}
template <class T>
void PutAt(std::string* out, size_t at, T value) {
  if (at + sizeof(T) <= out->size()) std::memcpy(out->data() + at, &value, sizeof(T));
}

// Safetensors: u64 length of the header, the header, the data.

struct Tensors {
  json header;
  std::string data;
};

std::optional<Tensors> Split(std::string_view file) {
  uint64_t length = 0;
  if (file.size() < sizeof(length)) return std::nullopt;
  std::memcpy(&length, file.data(), sizeof(length));
  if (length > file.size() - sizeof(length)) return std::nullopt;
  Tensors tensors{ToMutate(file.substr(sizeof(length), length)), std::string(file.substr(sizeof(length) + length))};
  if (!tensors.header.is_object()) return std::nullopt;
  return tensors;
}

std::string Join(const Tensors& tensors) {
  const std::string header = tensors.header.dump(-1, ' ', false, json::error_handler_t::replace);
  std::string file;
  Put<uint64_t>(&file, header.size());
  return file + header + tensors.data;
}

std::vector<std::string> TensorWords() {
  return {"dtype", "shape", "data_offsets", "__metadata__", "F32", "BF16", "F16", "F64", "I32", "I64", "U8", "a", "b"};
}

std::string MutateSafetensors(std::string_view input, Rng& rng) {
  auto tensors = Split(input);
  if (!tensors || rng.Below(8) == 0) return MutateBytes(input, rng);
  if (rng.Below(4) != 0) MutateJson(tensors->header, TensorWords(), rng);
  if (rng.Below(4) == 0) tensors->data = MutateBytes(tensors->data, rng);
  return Join(*tensors);
}

std::vector<std::string> SafetensorsFiles() {
  std::vector<std::byte> bytes(96);
  const auto view = [&](DType dtype, std::vector<int64_t> shape) {
    return TensorView{dtype, shape, std::span(bytes).first(static_cast<size_t>(*TensorBytes(shape, dtype)))};
  };
  const std::string path = InFile("seed.safetensors", "");
  WriteSafetensors(path,
                   {{"a", view(DType::kF32, {2, 3}), DType::kF32},
                    {"b", view(DType::kF32, {}), DType::kBF16},
                    {"c", view(DType::kI64, {0, 5}), DType::kI64}},
                   {{"format", "pt"}});
  return {ReadFile(path)};
}

void RunSafetensors(std::string_view input) {
  const TensorSource source = ReadSafetensors(InFile("fuzz.safetensors", input));
  uint64_t hash = 0;
  for (const auto& [name, view] : source.tensors()) {
    if (TensorBytes(view.shape, view.dtype) != static_cast<int64_t>(view.bytes.size())) Finding("bytes beside a shape");
    hash = Hash64(view.bytes, hash);
  }
}

void RunIndex(std::string_view input) {
  static const bool made = [] {
    const std::string file = SafetensorsFiles()[0];
    InFile("index/one.safetensors", file);
    Tensors two = *Split(file);
    two.header.erase("a");  // leaves a gap: a damaged shard
    InFile("index/two.safetensors", Join(two));
    return true;
  }();
  (void)made;
  ReadShardedSafetensors(InFile("index/model.safetensors.index.json", input));
}

// llama2.c: dimensions, then tensors whose sizes follow from them.

std::string Llama2cFile(Rng& rng) {
  const int32_t heads = 1 + static_cast<int32_t>(rng.Below(3)), groups = rng.Below(2) == 0 ? heads : 1;
  const int32_t width = heads * 8, mlp = 1 + static_cast<int32_t>(rng.Below(9));
  const int32_t layers = 1 + static_cast<int32_t>(rng.Below(3)), vocab = 1 + static_cast<int32_t>(rng.Below(300));
  const int32_t context = 1 + static_cast<int32_t>(rng.Below(20));
  const bool legacy = rng.Below(2) == 0, tied = rng.Below(2) == 0;
  std::string file;
  if (!legacy) {
    Put<uint32_t>(&file, 0x616b3432);
    Put<int32_t>(&file, 1);
  }
  for (const int32_t dim : {width, mlp, layers, heads, groups, legacy && !tied ? -vocab : vocab, context}) {
    Put(&file, dim);
  }
  if (!legacy) {
    file += static_cast<char>(tied ? 1 : 0);
    file.resize(256);
  }
  const int64_t c = width, kv = 8 * groups;
  const auto put_weights = [&](int64_t floats) {
    for (int64_t i = 0; i < floats; ++i) Put(&file, static_cast<float>(rng.Normal()));
  };
  put_weights(c * vocab + layers * (2 * c + 2 * c * c + 2 * kv * c + 3 * c * mlp) + c);
  for (const bool sine : {false, true}) {  // the tables of rotations, which must be those of theta 10000
    for (int32_t at = 0; legacy && at < context * 4; ++at) {
      const double angle = (at / 4) * std::pow(10000.0, -(at % 4) / 4.0);
      Put(&file, static_cast<float>(sine ? std::sin(angle) : std::cos(angle)));
    }
  }
  if (!tied) put_weights(c * vocab);
  return file;
}

void RunLlama2c(std::string_view input) {
  const std::string path = InFile("model.bin", input);
  ReadLlama2c(path);
  LoadModel(path);
}

std::string MutateLlama2c(std::string_view input, Rng& rng) {
  std::string file = rng.Below(2) == 0 ? Llama2cFile(rng) : std::string(input);
  const auto edge = static_cast<int32_t>(EdgeNumber(rng));
  if (rng.Below(2) == 0) PutAt(&file, 4 * rng.Below(10), edge);
  if (rng.Below(4) == 0) file.resize(rng.Below(file.size() + 8));
  return rng.Below(4) == 0 ? MutateBytes(file, rng) : file;
}

// GGUF: counts, typed metadata, tensors behind it.

std::string GgufContents(Rng& rng) {
  const std::string path = InFile("seed.gguf", "");
  std::vector<GgufField> fields = {{"general.architecture", std::string("llama")},
                                   {"general.alignment", uint32_t{32}},
                                   {"llama.block_count", static_cast<uint32_t>(rng.Below(4))},
                                   {"llama.rope.freq_base", 1e4f},
                                   {"tokenizer.ggml.add_bos_token", true},
                                   {"tokenizer.ggml.tokens", std::vector<std::string>{"<s>", "a", "\xe6\x97\xa5"}},
                                   {"tokenizer.ggml.scores", std::vector<float>{0, -1, -2}},
                                   {"tokenizer.ggml.token_type", std::vector<int32_t>{3, 1, 1}}};
  fields.resize(1 + rng.Below(fields.size()));
  std::vector<float> numbers(64);
  const auto bytes = std::as_bytes(std::span(numbers));
  std::vector<TensorToWrite> tensors;
  for (uint64_t n = rng.Below(4); n > 0; --n) {
    const int64_t rows = 1 + static_cast<int64_t>(rng.Below(2));
    const TensorView view{DType::kF32, {rows, 32}, bytes.first(static_cast<size_t>(rows) * 128)};
    tensors.push_back({fmt::format("t{}", n), view, rng.Below(2) == 0 ? DType::kF32 : DType::kF16});
  }
  WriteGguf(path, fields, tensors);
  return ReadFile(path);
}

void RunGguf(std::string_view input) {
  const GgufFile file = ReadGguf(InFile("fuzz.gguf", input));
  uint64_t hash = file.metadata().size();
  for (const auto& [name, view] : file.tensors.tensors()) hash = Hash64(view.bytes, hash);
}

std::string MutateGguf(std::string_view input, Rng& rng) {
  std::string file = rng.Below(2) == 0 ? GgufContents(rng) : std::string(input);
  if (rng.Below(2) == 0) PutAt(&file, rng.Below(file.size() + 1), EdgeNumber(rng));
  if (rng.Below(2) == 0) PutAt(&file, rng.Below(file.size() + 1), static_cast<uint32_t>(rng.Below(40)));
  return rng.Below(4) == 0 ? MutateBytes(file, rng) : file;
}

// Shards of ids: a header of 64 bytes, ids, ends, numbers of sources, their names.

constexpr size_t kShardHeader = 64;

std::vector<std::string> ShardFiles() {
  const fs::path folder = fs::path(InFile("shards/x", "")).parent_path();
  std::vector<std::string> files;
  for (const int32_t vocab : {300, 70'000}) {
    ShardWriter writer(folder, testing::ByteTokenizer(vocab), 1 << 20);
    for (int d = 0; d < 4; ++d) writer.Add(d % 2 == 0 ? "web" : "books", std::vector<int32_t>(5 * d, 7 * d));
    writer.Finish();
    for (const fs::path& path : writer.files()) files.push_back(ReadFile(path));
  }
  return files;
}

std::string MutateShard(std::string_view input, Rng& rng) {
  std::string file(input);
  if (file.size() < kShardHeader || rng.Below(8) == 0) return MutateBytes(input, rng);
  uint32_t width = 0;
  uint64_t tokens = 0;
  switch (rng.Below(4)) {
    case 0:  // a field of the header
      PutAt(&file, 8 + 8 * rng.Below(7), rng.Below(4) == 0 ? rng.Bits() : static_cast<uint64_t>(EdgeNumber(rng)));
      break;
    case 1:  // an end or a source
      PutAt(&file, kShardHeader + 4 * rng.Below(file.size() / 4), static_cast<uint32_t>(EdgeNumber(rng)));
      break;
    default:
      file = file.substr(0, kShardHeader) + MutateBytes(file.substr(kShardHeader), rng);
  }
  std::memcpy(&width, file.data() + 8, sizeof(width));
  std::memcpy(&tokens, file.data() + 24, sizeof(tokens));
  if (rng.Below(4) != 0 && width <= 4 && tokens <= file.size() && kShardHeader + tokens * width <= file.size()) {
    PutAt(&file, 48, HashOf(std::string_view(file).substr(kShardHeader, tokens * width)));
  }
  return file;
}

void RunShard(std::string_view input) {
  const TokenShard shard(InFile("fuzz.tokens", input));
  int64_t tokens = 0;
  for (int64_t d = 0; d < shard.size(); ++d) tokens += static_cast<int64_t>(shard.Read(d).size());
  if (tokens != shard.tokens()) Finding("documents of a shard hold other tokens than its header says");
}

// Saved states.

class StateTarget {
 public:
  static StateTarget& Get() {
    static StateTarget& target = *new StateTarget;
    return target;
  }

  std::string Make(const char* policy, int tokens) {
    KvCache cache = NewCache(policy);
    Rng rng{.seed = 3};
    std::vector<int32_t> ids;
    for (int i = 0; i < tokens; ++i) ids.push_back(static_cast<int32_t>(rng.Below(static_cast<uint64_t>(spec_.vocab))));
    Matrix logits(1, spec_.vocab);
    if (!ids.empty()) decoder_.Extend({ids.begin(), ids.end()}, &cache, logits);
    const std::string path = InFile("seed.kv", "");
    SaveKvState(cache, ModelFingerprint(params_), path, {{"turn", 1}});
    return ReadFile(path);
  }

  /// A state that loads lets the stream go on.
  void Run(std::string_view input) {
    const std::string path = InFile("fuzz.kv", input);
    const std::string policy = ReadKvStateInfo(path).policy;
    for (const char* known : kPolicies) {
      if (policy != known) continue;
      KvCache cache = NewCache(known);
      LoadKvState(path, ModelFingerprint(params_), &cache);
      Matrix logits(1, spec_.vocab);
      const std::vector<int32_t> next = {3};
      decoder_.Extend(next, &cache, logits);
    }
  }

  static constexpr const char* kPolicies[] = {"full", "window:5", "sink:3,7", "sep-stream:2,3,4,14", "full:dtype=q8_0"};

 private:
  KvCache NewCache(const char* policy) {
    return NewKvCache(backend_.get(), spec_, ParseKvForm(policy), std::vector<uint8_t>(spec_.vocab), DType::kF32, 128);
  }

  ModelSpec spec_ = TinySpec({.vocab = 16, .layers = 2, .heads = 1, .kv_heads = 1, .width = 8, .mlp_width = 8});
  ParamStore params_ = LoudModel(spec_, 17);
  std::unique_ptr<Backend> backend_ = MakeBackend("cpu");
  Decoder decoder_{backend_.get(), &params_};
};

std::vector<std::string> States() {
  std::vector<std::string> states;
  for (const char* policy : StateTarget::kPolicies) {
    for (const int tokens : {0, 9, 30}) states.push_back(StateTarget::Get().Make(policy, tokens));
  }
  return states;
}

/// The checksum that the tensors of a state ask for, in the order of its writer.
std::string StateChecksum(const Tensors& tensors, const json& state) {
  uint64_t hash = 0;
  const auto add = [&](const std::string& name) {
    const auto entry = tensors.header.find(name);
    if (entry == tensors.header.end() || !entry->is_object()) return;
    const json offsets = entry->value("data_offsets", json());
    if (!offsets.is_array() || offsets.size() != 2) return;
    if (!offsets[0].is_number_unsigned() || !offsets[1].is_number_unsigned()) return;
    const auto begin = offsets[0].get<uint64_t>(), end = offsets[1].get<uint64_t>();
    if (begin > end || end > tensors.data.size()) return;
    hash = HashOf(std::string_view(tensors.data).substr(begin, end - begin), hash);
  };
  const size_t groups = state.contains("groups") ? std::min<size_t>(state["groups"].size(), 4) : 0;
  for (size_t g = 0; g < groups; ++g) {
    for (const char* part : {"index", "token", "flags"}) add(fmt::format("group.{}.{}", g, part));
  }
  for (int layer = 0; layer < 2; ++layer) {
    for (const char* part : {"keys", "values"}) add(fmt::format("layer.{}.{}", layer, part));
  }
  return fmt::format("{:016x}", hash);
}

std::string MutateState(std::string_view input, Rng& rng) {
  auto tensors = Split(input);
  if (!tensors || rng.Below(8) == 0) return MutateBytes(input, rng);
  const json metadata = tensors->header.value("__metadata__", json());
  const bool has_state = metadata.is_object() && metadata.contains("state") && metadata["state"].is_string();
  json state = has_state ? ToMutate(metadata["state"].get<std::string>()) : json();
  if (!state.is_object() || rng.Below(8) == 0) return MutateSafetensors(input, rng);
  if (rng.Below(2) == 0) {
    MutateJson(state, {"policy", "groups", "slots", "seen", "origin", "steps", "peak", "segment", "place", "full"},
               rng);
  }
  if (rng.Below(2) == 0 && !tensors->data.empty()) {  // a number of the tensors, as their sizes must stay
    const size_t size = rng.Below(2) == 0 ? 8 : 4, places = std::max<size_t>(1, tensors->data.size() / size);
    const int64_t number = EdgeNumber(rng);
    const size_t at = size * rng.Below(places);
    std::memcpy(tensors->data.data() + at, &number, std::min(size, tensors->data.size() - at));
  }
  if (state.is_object() && rng.Below(8) != 0) state["checksum"] = StateChecksum(*tensors, state);
  const std::string text = state.dump(-1, ' ', false, json::error_handler_t::replace);
  tensors->header["__metadata__"]["state"] = text;
  if (rng.Below(8) != 0) tensors->header["__metadata__"]["state_hash"] = fmt::format("{:016x}", HashOf(text));
  return Join(*tensors);
}

}  // namespace

std::vector<Target> BinaryTargets() {
  return {
      {.name = "safetensors",
       .seeds = SafetensorsFiles,
       .run = RunSafetensors,
       .mutate = MutateSafetensors,
       .words = TensorWords()},
      {.name = "index",
       .seeds =
           [] {
             return std::vector<std::string>{
                 R"({"metadata": {"total_size": 1}, "weight_map": {"a": "one.safetensors", "b": "one.safetensors",
                     "c": "one.safetensors"}})"};
           },
       .run = RunIndex,
       .mutate =
           JsonMutator({"weight_map", "a", "b", "c", "one.safetensors", "two.safetensors", "../one.safetensors"})},
      {.name = "llama2c",
       .seeds =
           [] {
             std::vector<std::string> files;
             for (uint64_t i = 0; i < 8; ++i) {
               Rng rng{.seed = i};
               files.push_back(Llama2cFile(rng));
             }
             return files;
           },
       .run = RunLlama2c,
       .mutate = MutateLlama2c},
      {.name = "gguf",
       .seeds =
           [] {
             std::vector<std::string> files;
             for (uint64_t i = 0; i < 8; ++i) {
               Rng rng{.seed = i};
               files.push_back(GgufContents(rng));
             }
             return files;
           },
       .run = RunGguf,
       .mutate = MutateGguf},
      {.name = "shard",
       .seeds = ShardFiles,
       .run = RunShard,
       .mutate = MutateShard,
       .words = {"HAWTOKS1", "[\"web\"]"}},
      {.name = "state",
       .seeds = States,
       .run = [](std::string_view input) { StateTarget::Get().Run(input); },
       .mutate = MutateState,
       .words = {"hawser_kv_state", "group.0.index", "layer.0.keys"}},
  };
}

}  // namespace hawser::fuzz
