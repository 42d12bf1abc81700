// Tiny checkpoints of every family against the numbers of reference implementations, which scripts/goldens/families.py
// writes to testdata: what a folder's tensors are called, how they are fused, what its configuration means, and what
// the network computes of it.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>
#include <numeric>

#include "hawser/base/file.h"
#include "hawser/device/registry.h"
#include "hawser/io/convert.h"
#include "hawser/io/json.h"
#include "hawser/io/safetensors.h"
#include "hawser/kv/cache.h"
#include "hawser/kv/form.h"
#include "hawser/model/decoder.h"
#include "hawser/model/kv_shape.h"
#include "hawser/testing/hostile.h"
#include "hawser/zoo/families.h"
#include "hawser/zoo/file_tensors.h"
#include "hawser/zoo/gguf_export.h"
#include "hawser/zoo/load.h"

namespace hawser {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kVocab = 64;
constexpr int kSketches = 7;
constexpr int64_t kRowsOf300[] = {0, 1, 63, 130, 257, 299};

/// Numbers of 64 bits from a name: splitmix64 over its FNV-1a hash.
std::vector<uint64_t> Mix(const std::string& name, int64_t count) {
  uint64_t seed = 0xCBF29CE484222325;
  for (const char c : name) seed = (seed ^ static_cast<unsigned char>(c)) * 0x100000001B3;
  std::vector<uint64_t> numbers;
  for (int64_t i = 1; i <= count; ++i) {
    uint64_t x = seed + static_cast<uint64_t>(i) * 0x9E3779B97F4A7C15;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
    numbers.push_back(x ^ (x >> 31));
  }
  return numbers;
}

bool Contains(const std::string& name, std::initializer_list<std::string_view> words) {
  return std::ranges::any_of(words, [&](std::string_view word) { return name.find(word) != name.npos; });
}

/// The weights that the script gives a tensor.
std::vector<float> Weights(const std::string& name, const std::vector<int64_t>& shape, bool plus_one) {
  const int64_t size = std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
  float scale = 0.5f, center = 0;
  if (name.ends_with(".bias")) {
  } else if (shape.size() == 1) {
    center = plus_one ? 0.0f : 1.0f;
  } else if (Contains(name, {"embed_tokens", "embed_in", "embeddings", "wte"})) {
    scale = 1;
  } else {
    scale = static_cast<float>(std::exp2(std::nearbyint(std::log2(2.4 / std::sqrt(static_cast<double>(shape[1]))))));
  }
  std::vector<float> values;
  for (const uint64_t number : Mix(name, size)) {
    values.push_back(center + scale * (static_cast<float>(static_cast<int>(number >> 56) - 128) / 128));
  }
  return values;
}

std::vector<int32_t> TokenIds(int64_t count) {
  std::vector<int32_t> ids;
  for (const uint64_t number : Mix("ids", count)) ids.push_back(static_cast<int32_t>(number % kVocab));
  return ids;
}

struct FileWeight {
  std::string name;
  std::vector<int64_t> shape;
};

std::vector<std::string> Variants() {
  std::vector<std::string> names;
  for (const fs::directory_entry& entry : fs::directory_iterator(fs::path(HAWSER_TESTDATA))) {
    names.push_back(entry.path().stem().string());
  }
  std::ranges::sort(names);
  return names;
}

class ParityTest : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    golden_ = ReadSafetensors(fs::path(HAWSER_TESTDATA) / (GetParam() + ".safetensors"));
    folder_ = FreshFolder("parity_" + GetParam());
    WriteBytes(folder_ / "config.json", golden_.metadata.at("config"));
    const nlohmann::json config = ParseJson(golden_.metadata.at("config"));
    plus_one_ = config["model_type"].get<std::string>().starts_with("gemma");
    for (const nlohmann::json& weight : ParseJson(golden_.metadata.at("weights"))) {
      files_.push_back({weight[0], weight[1]});
    }
    std::vector<std::vector<float>> values;
    std::vector<TensorToWrite> tensors;
    for (const FileWeight& file : files_) {
      values.push_back(Weights(file.name, file.shape, plus_one_));
      tensors.push_back({file.name, {DType::kF32, file.shape, std::as_bytes(std::span(values.back()))}, DType::kF32});
    }
    WriteSafetensors(folder_ / "model.safetensors", std::move(tensors));
  }

  std::vector<float> Golden(const std::string& name) const {
    const TensorView& view = golden_.tensors().at(name);
    std::vector<float> values(static_cast<size_t>(view.size()));
    std::memcpy(values.data(), view.bytes.data(), view.bytes.size());
    return values;
  }

  /// Logits of every row, taken in chunks of `chunk` tokens.
  std::vector<float> Logits(Decoder* decoder, int64_t length, int64_t chunk) const {
    KvCache cache = NewKvCache(backend_.get(), decoder->spec(), ParseKvForm("full"), {}, DType::kF32, length);
    const std::vector<int32_t> ids = TokenIds(length);
    std::vector<float> logits(static_cast<size_t>(length * kVocab));
    for (int64_t begin = 0; begin < length; begin += chunk) {
      const int64_t count = std::min(chunk, length - begin);
      decoder->Extend(std::span(ids).subspan(static_cast<size_t>(begin), static_cast<size_t>(count)), &cache,
                      {logits.data() + begin * kVocab, DType::kF32, count, kVocab, kVocab});
    }
    return logits;
  }

  TensorSource golden_;
  fs::path folder_;
  bool plus_one_ = false;
  std::vector<FileWeight> files_;
  std::unique_ptr<Backend> backend_ = MakeBackend("cpu");
};

double Largest(const std::vector<float>& values) {
  double most = 0;
  for (const float value : values) most = std::max(most, static_cast<double>(std::abs(value)));
  return most;
}

TEST_P(ParityTest, LogitsAreThoseOfTheReference) {
  LoadedModel model = LoadModel(folder_);
  Decoder decoder(backend_.get(), &model.params);
  double worst = 0;
  for (const int64_t length : {1, 7, 300}) {
    const std::vector<float> wanted = Golden(fmt::format("logits.{}", length));
    const std::vector<float> found = Logits(&decoder, length, length), decoded = Logits(&decoder, length, 1);
    const double scale = Largest(wanted);
    for (int64_t row = 0; row < static_cast<int64_t>(wanted.size()) / kVocab; ++row) {
      const int64_t at = length == 300 ? kRowsOf300[row] : row;
      for (int64_t v = 0; v < kVocab; ++v) {
        const float want = wanted[static_cast<size_t>(row * kVocab + v)];
        for (const std::vector<float>* logits : {&found, &decoded}) {
          const double error = std::abs((*logits)[static_cast<size_t>(at * kVocab + v)] - want) / scale;
          worst = std::max(worst, std::isnan(error) ? INFINITY : error);
        }
      }
    }
  }
  RecordProperty("largest_relative_difference", fmt::format("{}", worst));
  EXPECT_LE(worst, 1e-5);
}

TEST_P(ParityTest, LossAndGradientsAreThoseOfTheReference) {
  LoadedModel model = LoadModel(folder_);
  Decoder decoder(backend_.get(), &model.params);
  Batch batch;
  batch.ids = TokenIds(300);
  for (int64_t t = 0; t < 300; ++t) batch.positions.push_back(t);
  batch.targets.assign(batch.ids.begin() + 1, batch.ids.end());
  batch.targets.push_back(-1);
  batch.weights.assign(300, 1.0f);
  batch.sequences = {{0, MakeLayout(0, std::vector<int32_t>{300})}};
  ParamStore grads(model.spec, DType::kF32);
  const StepStats stats = decoder.ForwardBackward(batch, 1.0f / 299, Recompute::kNone, &grads);
  EXPECT_NEAR(stats.loss / 299, Golden("loss")[0], 1e-5 * Golden("loss")[0]);

  const std::vector<FileTensor> tensors = FileTensors(model.spec);
  const std::vector<float> golden = Golden("gradients");
  double worst = 0, most = 0;
  for (size_t f = 0; f < files_.size(); ++f) most = std::max<double>(most, golden[f * (kSketches + 1)]);
  for (size_t f = 0; f < files_.size(); ++f) {
    const auto tensor =
        std::ranges::find_if(tensors, [&](const FileTensor& t) { return t.names.front() == files_[f].name; });
    ASSERT_NE(tensor, tensors.end()) << files_[f].name;
    std::vector<float> gradient;
    for (const TensorPiece& piece : tensor->pieces) {
      const float* from = grads.At(grads.layout().params()[piece.param]).Row<float>(0) + piece.param_begin;
      gradient.insert(gradient.end(), from, from + piece.size);
    }
    const float* want = golden.data() + f * (kSketches + 1);
    const double size = want[0] + 1e-3 * most;  // some are nothing but rounding: of a bias of keys without places
    double squares = 0;
    for (const float g : gradient) squares += static_cast<double>(g) * g;
    EXPECT_NEAR(std::sqrt(squares), want[0], 1e-4 * size) << files_[f].name;
    for (int s = 0; s < kSketches; ++s) {
      const auto signs = Mix(fmt::format("{}#{}", files_[f].name, s), static_cast<int64_t>(gradient.size()));
      double sum = 0;
      for (size_t i = 0; i < gradient.size(); ++i) sum += signs[i] >> 63 ? -gradient[i] : gradient[i];
      const double error = std::abs(sum - want[1 + s]) / size;
      worst = std::max(worst, error);
      EXPECT_LE(error, 1e-4) << files_[f].name;
    }
  }
  RecordProperty("largest_relative_difference", fmt::format("{}", worst));
}

TEST_P(ParityTest, AnExportHasTheSameTensorsAndIsReadTheSame) {
  const fs::path out = folder_ / "out";
  const LoadedModel model = LoadModel(folder_);
  SaveHuggingFace(model.params, nullptr, DType::kF32, out);
  EXPECT_FALSE(fs::exists(out / "hawser_spec.json"));
  const LoadedModel again = LoadModel(out);
  EXPECT_EQ(again.spec, model.spec);
  const TensorSource tensors = ReadSafetensors(out / "model.safetensors");
  EXPECT_EQ(tensors.tensors().size(), files_.size());
  for (const FileWeight& file : files_) {
    const TensorView* view = tensors.Find(file.name);
    ASSERT_NE(view, nullptr) << file.name;
    EXPECT_EQ(view->shape, file.shape) << file.name;
    const std::vector<float> wanted = Weights(file.name, file.shape, plus_one_);
    EXPECT_EQ(std::memcmp(view->bytes.data(), wanted.data(), view->bytes.size()), 0) << file.name;
  }
}

/// What GGUF cannot say of these checkpoints.
const std::map<std::string, std::string_view> kNotInGguf = {
    {"falcon_rw", "biases of a model"},   {"falcon_rw_odd", "ALiBi"},
    {"gemma2_bias", "biases of a model"}, {"llama_dynamic", "length of the text"},
    {"olmo2_bias_tied", "biases"},        {"qwen3_bias_windows", "biases"},
    {"smollm3", "no positions"},          {"smollm3_windows", "biases"},
};

TEST_P(ParityTest, AGgufFileHoldsTheSameModel) {
  const fs::path path = folder_ / "x.gguf";
  const LoadedModel model = LoadModel(folder_);
  const auto refused = kNotInGguf.find(GetParam());
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    LoadedModel given = LoadModel(folder_);
    std::vector<std::byte> rounded(static_cast<size_t>(given.params.size()) * SizeOf(dtype));
    float* values = given.params.arena().Row<float>(0);
    ConvertFromF32(values, given.params.size(), dtype, rounded.data());
    ConvertToF32(dtype, rounded.data(), given.params.size(), values);
    const ParamStore wanted = Cast(given.params, DType::kF32);
    const auto write = [&] { ExportGguf(std::move(given), {.model = folder_}, dtype, path); };
    if (refused != kNotInGguf.end()) {
      ExpectError(ErrorKind::kUnsupported, {refused->second}, write);
      continue;
    }
    write();
    const LoadedModel again = LoadModel(path);
    EXPECT_EQ(again.spec, model.spec);
    for (const ParamInfo& info : wanted.layout().params()) {
      EXPECT_EQ(std::memcmp(again.params.At(info).data, wanted.At(info).data, info.size() * sizeof(float)), 0)
          << info.name;
    }
  }
  if (refused != kNotInGguf.end()) return;
  ExportGguf(LoadModel(folder_), {.model = folder_}, DType::kF32, path);
  Decoder as_it_lies(backend_.get(), LoadModelToRun(path, {}, DType::kF32).weights);
  const std::vector<float> found = Logits(&as_it_lies, 7, 7), wanted = Golden("logits.7");
  for (size_t i = 0; i < wanted.size(); ++i) EXPECT_NEAR(found[i], wanted[i], 1e-5 * Largest(wanted));
}

INSTANTIATE_TEST_SUITE_P(Families, ParityTest, ::testing::ValuesIn(Variants()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace hawser
