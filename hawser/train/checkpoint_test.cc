#include "hawser/train/checkpoint.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <cstring>
#include <fstream>
#include <functional>

#include "hawser/base/error.h"
#include "hawser/base/file.h"
#include "hawser/base/progress.h"
#include "hawser/testing/test_folder.h"
#include "hawser/testing/tiny_model.h"
#include "hawser/train/metrics.h"

namespace hawser {
namespace {

namespace fs = std::filesystem;

struct Arenas {
  explicit Arenas(uint64_t seed, const TinyDims& dims = {})
      : weights(TinyModel(TinySpec(dims), seed)),
        m(TinyModel(TinySpec(dims), seed + 1)),
        v(TinyModel(TinySpec(dims), seed + 2)) {}
  ParamStore weights, m, v;
  TrainState state() { return {&weights, &m, &v}; }
  bool operator==(const Arenas& other) const {
    const auto same = [](const ParamStore& a, const ParamStore& b) {
      return std::memcmp(a.arena().data, b.arena().data, static_cast<size_t>(a.size()) * 4) == 0;
    };
    return same(weights, other.weights) && same(m, other.m) && same(v, other.v);
  }
};

class CheckpointTest : public ::testing::Test {
 protected:
  void SetUp() override {
    fs::remove_all(folder_);
    SetQuiet(true);
  }
  void TearDown() override {
    fs::remove_all(folder_);
    SetQuiet(false);
  }
  static CheckpointInfo Info(int64_t step) {
    return {.step = step,
            .sequences = 3 * step,
            .tokens = 100 * step,
            .loss = 1.25,
            .seconds = 0.1,
            .density = 0.75,
            .recipe = "lr = 1\nattention = \"anchor\"\n",
            .seed = ~0ull,
            .data_hash = 1ull << 63,
            .rope_hash = 5};
  }
  void Save(int64_t step, int64_t keep = 3) {
    Arenas arenas(static_cast<uint64_t>(step) * 10);
    SaveCheckpoint(folder_, Info(step), arenas.state(), keep);
  }
  std::vector<std::string> Names() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(folder_)) names.push_back(entry.path().filename().string());
    std::sort(names.begin(), names.end());
    return names;
  }
  void ExpectLoads(int64_t step) {
    Arenas arenas(12345);
    const auto info = LoadCheckpoint(folder_, arenas.state());
    ASSERT_TRUE(info.has_value());
    EXPECT_EQ(info->step, step);
    EXPECT_TRUE(arenas == Arenas(static_cast<uint64_t>(step) * 10));
  }
  fs::path folder_ = FreshPath("checkpoints");
};

TEST_F(CheckpointTest, ComesBackBitForBit) {
  Arenas none(1);
  EXPECT_FALSE(LoadCheckpoint(folder_, none.state()).has_value());
  Save(7);
  ExpectLoads(7);
  const CheckpointInfo want = Info(7), got = *LoadCheckpoint(folder_, none.state());
  EXPECT_EQ(got.sequences, want.sequences);
  EXPECT_EQ(got.tokens, want.tokens);
  EXPECT_EQ(got.loss, want.loss);
  EXPECT_EQ(got.seconds, want.seconds);
  EXPECT_EQ(got.density, want.density);
  EXPECT_EQ(got.recipe, want.recipe);
  EXPECT_EQ(got.seed, want.seed);
  EXPECT_EQ(got.data_hash, want.data_hash);
  EXPECT_EQ(got.rope_hash, want.rope_hash);
}

TEST_F(CheckpointTest, KeepsTheLastAndDropsAbandonedFutures) {
  for (const int64_t step : {8, 9, 10, 11, 1000000}) Save(step, 3);
  EXPECT_EQ(Names(), (std::vector<std::string>{"step_000010", "step_000011", "step_1000000"}));
  Save(12, 2);  // gone on from 11: what came after belongs to a run that is no more
  EXPECT_EQ(Names(), (std::vector<std::string>{"step_000011", "step_000012"}));
  Save(12, 2);
  ExpectLoads(12);
}

TEST_F(CheckpointTest, KeepsTheBestBesideTheLast) {
  for (const int64_t step : {1, 2, 3, 4}) {
    Arenas arenas(1);
    SaveCheckpoint(folder_, Info(step), arenas.state(), 2, /*best=*/1);
  }
  EXPECT_EQ(Names(), (std::vector<std::string>{"step_000001", "step_000003", "step_000004"}));
}

TEST_F(CheckpointTest, DamageFallsBackToTheOneBefore) {
  const std::function<void(const fs::path&)> damages[] = {
      [](const fs::path& c) { fs::resize_file(c / "state.safetensors", fs::file_size(c / "state.safetensors") - 1); },
      [](const fs::path& c) { fs::resize_file(c / "state.safetensors", 0); },
      [](const fs::path& c) { fs::remove(c / "state.safetensors"); },
      [](const fs::path& c) { fs::remove(c / "manifest.json"); },
      [](const fs::path& c) { fs::resize_file(c / "manifest.json", fs::file_size(c / "manifest.json") / 2); },
      [](const fs::path& c) {  // one flipped bit in the middle of the tensors
        std::fstream file(c / "state.safetensors", std::ios::in | std::ios::out | std::ios::binary);
        const auto at = static_cast<std::streamoff>(fs::file_size(c / "state.safetensors") / 2);
        file.seekg(at);
        const char byte = static_cast<char>(file.get() ^ 4);
        file.seekp(at);
        file.put(byte);
      }};
  for (const auto& damage : damages) {
    fs::remove_all(folder_);
    Save(1);
    Save(2);
    damage(folder_ / "step_000002");
    ExpectLoads(1);
    Save(2);
    ExpectLoads(2);
    damage(folder_ / "step_000001");
    damage(folder_ / "step_000002");
    Arenas arenas(1);
    EXPECT_THROW(LoadCheckpoint(folder_, arenas.state()), Error);
  }
}

TEST_F(CheckpointTest, EveryTruncationOfTheManifestIsNoticed) {
  Save(1);
  Save(2);
  const fs::path manifest = folder_ / "step_000002" / "manifest.json";
  const std::string text = ReadFile(manifest);
  for (size_t size = 0; size + 2 < text.size(); size += 3) {
    std::ofstream(manifest, std::ios::binary) << text.substr(0, size);
    Arenas arenas(3);
    EXPECT_EQ(LoadCheckpoint(folder_, arenas.state())->step, 1) << size;
  }
}

TEST_F(CheckpointTest, EveryChangedByteOfTheManifestIsNoticed) {
  Save(1);
  Save(2);
  const fs::path manifest = folder_ / "step_000002" / "manifest.json";
  const std::string text = ReadFile(manifest);
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == ' ' || text[i] == '\n') continue;  // between members: they say the same with fewer
    std::string changed = text;
    changed[i] = static_cast<char>(changed[i] ^ 1 << i % 8);
    std::ofstream(manifest, std::ios::binary) << changed;
    Arenas arenas(3);
    EXPECT_EQ(LoadCheckpoint(folder_, arenas.state())->step, 1) << changed.substr(i > 20 ? i - 20 : 0, 40);
  }
}

TEST_F(CheckpointTest, AFolderWithTheNameOfAnotherStepIsPassedOver) {
  Save(1);
  Save(2);
  fs::rename(folder_ / "step_000002", folder_ / "step_000003");
  ExpectLoads(1);
}

TEST_F(CheckpointTest, ACheckpointOfAnotherRunIsPassedOver) {
  Save(1);
  Save(2);
  const auto refuse_from = [&](int64_t step) {
    Arenas arenas(3);
    return LoadCheckpoint(folder_, arenas.state(), [&](const CheckpointInfo& info) {
      if (info.step >= step) Fail(ErrorKind::kUsage, "another recipe in {}", info.step);
    });
  };
  EXPECT_EQ(refuse_from(2)->step, 1);
  try {
    refuse_from(1);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUsage);
    EXPECT_NE(std::string(error.what()).find("another recipe in 2"), std::string::npos) << error.what();
  }
}

TEST_F(CheckpointTest, OtherModelsAndVersionsAreErrors) {
  Save(1);
  TinyDims wide;
  wide.mlp_width = 64;
  Arenas other(1, wide);
  try {
    LoadCheckpoint(folder_, other.state());
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kFormat);
    EXPECT_NE(std::string(error.what()).find("gate_proj"), std::string::npos) << error.what();
  }
  const fs::path manifest = folder_ / "step_000001" / "manifest.json";
  auto json = nlohmann::json::parse(ReadFile(manifest));
  for (const int format : {3, 1}) {  // a later one, and the one before, which had no checksum
    json["format"] = format;
    SealManifest(&json);
    if (format == 1) json.erase("checksum");
    WriteFileAtomically(manifest, json.dump());
    Arenas same(1);
    try {
      LoadCheckpoint(folder_, same.state());
      FAIL();
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kUnsupported) << error.what();
    }
  }
}

TEST_F(CheckpointTest, FullDiskLeavesTheLastGoodState) {
  Save(1);
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  const auto old = std::signal(SIGXFSZ, SIG_IGN);
  const auto bytes = fs::file_size(folder_ / "step_000001" / "state.safetensors");
  for (const rlim_t limit : {rlim_t{0}, rlim_t{1000}, static_cast<rlim_t>(bytes / 2), static_cast<rlim_t>(bytes - 1)}) {
    rlimit tight = before;
    tight.rlim_cur = limit;
    setrlimit(RLIMIT_FSIZE, &tight);
    ErrorKind kind = ErrorKind::kInternal;
    try {
      Save(2);
    } catch (const Error& error) {
      kind = error.kind();
    }
    setrlimit(RLIMIT_FSIZE, &before);
    EXPECT_EQ(kind, ErrorKind::kIo);
    EXPECT_EQ(Names(), std::vector<std::string>{"step_000001"});
    ExpectLoads(1);
  }
  std::signal(SIGXFSZ, old);
}

TEST(RopeHash, TellsRotationsApart) {
  ModelSpec spec = TinySpec();
  const uint64_t plain = RopeHash(spec);
  EXPECT_EQ(plain, RopeHash(spec));
  ModelSpec scaled = spec;
  scaled.rope = ApplyRopeText(spec.rope, "ntk:factor=2", spec.context);
  EXPECT_NE(plain, RopeHash(scaled));
  scaled.rope = ApplyRopeText(spec.rope, "theta=10001", spec.context);
  EXPECT_NE(plain, RopeHash(scaled));
  for (const char* numerics : {"bf16-inv-freq", "math=bf16", "qk=f32"}) {
    ModelSpec rounded = spec;
    rounded.rope.numerics = ParseRopeNumerics(numerics);
    EXPECT_NE(plain, RopeHash(rounded)) << numerics;
  }
}

TEST(Hash64, SeesEveryBitAndTheLength) {
  std::vector<std::byte> bytes(21);
  std::vector<uint64_t> seen = {Hash64(bytes), Hash64(bytes, 1), Hash64(std::span(bytes).first(20)), Hash64({})};
  for (size_t bit = 0; bit < bytes.size() * 8; ++bit) {
    bytes[bit / 8] ^= std::byte{1} << (bit % 8);
    seen.push_back(Hash64(bytes));
    bytes[bit / 8] ^= std::byte{1} << (bit % 8);
  }
  std::sort(seen.begin(), seen.end());
  EXPECT_EQ(std::adjacent_find(seen.begin(), seen.end()), seen.end());
}

class MetricsTest : public CheckpointTest {};

TEST_F(MetricsTest, ResumeDropsLaterAndBrokenLines) {
  MakeDirectories(folder_);
  const fs::path path = folder_ / "metrics.jsonl";
  {
    MetricsLog log(path, 0);
    for (int step = 1; step <= 4; ++step) log.Append({{"step", step}, {"loss", 0.5 * step}});
  }
  const std::string four = ReadFile(path);
  std::ofstream(path, std::ios::app) << "{\"step\": 5, \"lo";
  { MetricsLog log(path, 9); }
  EXPECT_EQ(ReadFile(path), four);
  {
    MetricsLog log(path, 2);
    log.Append({{"step", 3}});
  }
  EXPECT_EQ(ReadFile(path), "{\"loss\":0.5,\"step\":1}\n{\"loss\":1.0,\"step\":2}\n{\"step\":3}\n");
  EXPECT_THROW(MetricsLog(folder_ / "none" / "metrics.jsonl", 0), Error);
}

}  // namespace
}  // namespace hawser
