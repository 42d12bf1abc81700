// Files of indexed prefixes. The mutator changes numbers of the tensors and of what the file says of itself, and seals
// the file again, so that what lies behind the checksum is reached.
#include <cstring>

#include "fuzz/mutate.h"
#include "fuzz/target.h"
#include "hawser/base/error.h"
#include "hawser/base/file.h"
#include "hawser/device/registry.h"
#include "hawser/infer/squeeze.h"
#include "hawser/io/safetensors.h"
#include "hawser/model/kv_shape.h"
#include "hawser/testing/tiny_model.h"

namespace hawser::fuzz {
namespace {

class PrefixTarget {
 public:
  static PrefixTarget& Get() {
    static PrefixTarget& target = *new PrefixTarget;
    return target;
  }

  std::string Make(int32_t levels, const char* kv) {
    std::vector<int32_t> ids;
    for (int32_t i = 0; i < 40; ++i) ids.push_back(i * 5 % 16);
    const std::string path = InFile("seed.idx", "");
    SavePrefixIndex(IndexPrefix(backend_.get(), &decoder_, Weights(params_), ids, ParseKvForm(kv), 0,
                                {.clusters = 0.3, .groups = 0.1, .levels = levels, .window = 4}),
                    path);
    return ReadFile(path);
  }

  /// A prefix that opens can be read.
  void Run(std::string_view input) {
    for (const char* keep : {"0.4", "mass=0.9", "quantile=0.7"}) {
      KvCache cache = NewKvCache(backend_.get(), spec_, {}, {}, DType::kF32, 0);
      cache.Follow(OpenPrefix(backend_.get(), Weights(params_), InFile("fuzz.idx", input), 0, ParseKeepRule(keep)));
      Matrix logits(1, spec_.vocab);
      const std::vector<int32_t> next = {3, 5};
      decoder_.Extend(next, &cache, logits);
    }
  }

 private:
  ModelSpec spec_ = TinySpec({.vocab = 16, .layers = 2, .heads = 2, .kv_heads = 2, .width = 8, .mlp_width = 8});
  ParamStore params_ = LoudModel(spec_, 17);
  std::unique_ptr<Backend> backend_ = MakeBackend("cpu");
  Decoder decoder_{backend_.get(), &params_};
};

/// The checksum that the tensors ask for, where the file still is one.
void Seal(std::string* file) {
  const std::string key = R"(checksum\":\")";
  const size_t at = file->find(key);
  if (at == std::string::npos || at + key.size() + 16 > file->size()) return;
  try {
    const uint64_t sum = PrefixChecksum(ReadSafetensors(InFile("seal.idx", *file)));
    file->replace(at + key.size(), 16, fmt::format("{:016x}", sum));
  } catch (const Error&) {  // no file of tensors any more
  }
}

std::string MutatePrefix(std::string_view input, Rng& rng) {
  std::string file(input);
  uint64_t header = 0;
  if (file.size() > sizeof(header)) std::memcpy(&header, file.data(), sizeof(header));
  const bool holds = header > 0 && header <= file.size() - sizeof(header);
  if (!holds || rng.Below(8) == 0) return MutateBytes(input, rng);
  if (rng.Below(3) == 0) {  // a digit or letter of the header
    char& c = file[8 + rng.Below(header)];
    if (c >= '0' && c <= '9') c = static_cast<char>('0' + rng.Below(10));
  }
  const size_t data = 8 + header, places = (file.size() - data) / 4;
  for (uint64_t i = rng.Below(3); i > 0 && places > 0; --i) {
    const auto number = static_cast<int32_t>(rng.Below(2) == 0 ? static_cast<int64_t>(rng.Below(90)) : EdgeNumber(rng));
    std::memcpy(file.data() + data + 4 * rng.Below(places), &number, sizeof(number));
  }
  if (rng.Below(8) != 0) Seal(&file);
  return file;
}

}  // namespace

std::vector<Target> PrefixTargets() {
  return {{.name = "prefix",
           .seeds =
               [] {
                 std::vector<std::string> files;
                 for (const int32_t levels : {1, 2}) {
                   for (const char* kv : {"full", "full:dtype=q8_0"})
                     files.push_back(PrefixTarget::Get().Make(levels, kv));
                 }
                 return files;
               },
           .run = [](std::string_view input) { PrefixTarget::Get().Run(input); },
           .mutate = MutatePrefix,
           .words = {"hawser_prefix_index", "layer.0.clusters", "ids", "quantiles"}}};
}

}  // namespace hawser::fuzz
