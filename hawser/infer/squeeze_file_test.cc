// Files of prefixes: what they say of themselves, and what damage does to them.
#include <gtest/gtest.h>

#include <cstring>

#include "hawser/base/file.h"
#include "hawser/base/parallel.h"
#include "hawser/base/rng.h"
#include "hawser/device/registry.h"
#include "hawser/infer/squeeze.h"
#include "hawser/io/safetensors.h"
#include "hawser/model/kv_shape.h"
#include "hawser/testing/hostile.h"
#include "hawser/testing/tiny_model.h"

namespace hawser {
namespace {

class SqueezeFileTest : public ::testing::Test {
 protected:
  SqueezeFileTest() { SetThreads(1); }  // steps this small are faster so
  ~SqueezeFileTest() override { SetThreads(0); }

  void Write(int32_t levels, const std::string& kv = "full") {
    std::vector<int32_t> ids;
    for (int i = 0; i < 90; ++i) ids.push_back(1 + i * 7 % 60);
    SavePrefixIndex(IndexPrefix(backend_.get(), &decoder_, Weights(params_), ids, ParseKvForm(kv), 0,
                                {.clusters = 0.3, .groups = 0.1, .levels = levels, .window = 8}),
                    path_);
  }
  std::shared_ptr<SqueezedReader> Open(const Weights& weights, int64_t declared = 0) {
    return OpenPrefix(backend_.get(), weights, path_, declared, ParseKeepRule("0.5"));
  }
  std::shared_ptr<SqueezedReader> Open() { return Open(Weights(params_)); }
  std::vector<float> Read(const std::shared_ptr<SqueezedReader>& reader) {
    KvCache cache = NewKvCache(backend_.get(), spec_, {}, {}, DType::kF32, 0);
    cache.Follow(reader);
    Matrix logits(1, spec_.vocab);
    const std::vector<int32_t> text = {5, 9, 30, 7};
    decoder_.Extend(text, &cache, logits);
    return {logits.Row<float>(0), logits.Row<float>(0) + spec_.vocab};
  }

  ModelSpec spec_ = TinySpec({.layers = 2});
  ParamStore params_ = LoudModel(spec_, 17);
  std::unique_ptr<Backend> backend_ = MakeBackend("cpu");
  Decoder decoder_{backend_.get(), &params_};
  std::filesystem::path path_ = FreshFolder("squeeze_file") / "prefix.idx";
};

TEST_F(SqueezeFileTest, ComesBackAsItWas) {
  for (const int32_t levels : {1, 2}) {
    for (const char* kv : {"full", "full:dtype=bf16", "full:dtype=q8_0"}) {
      Write(levels, kv);
      const std::string bytes = ReadFile(path_);
      const auto reader = Open();
      const PrefixIndex& index = reader->index();
      EXPECT_EQ(index.tokens(), 90);
      EXPECT_EQ(index.levels, levels);
      EXPECT_EQ(index.window, 8);
      const std::vector<float> logits = Read(reader);
      SavePrefixIndex(index, path_.parent_path() / "again.idx");
      EXPECT_EQ(ReadFile(path_.parent_path() / "again.idx"), bytes);
      EXPECT_EQ(Read(Open()), logits);
    }
  }
}

TEST_F(SqueezeFileTest, SaysWhoseItIs) {
  Write(2);
  const ParamStore other = LoudModel(spec_, 18);
  ExpectError(ErrorKind::kUsage, {"prefix.idx", "another model"}, [&] { Open(Weights(other)); });
  const ParamStore half = Cast(params_, DType::kBF16);
  ExpectError(ErrorKind::kUsage, {"indexed in f32", "this run has bf16", "pass --dtype f32", "another model"},
              [&] { Open(Weights(half)); });
  ModelSpec spec = spec_;
  spec.rope = ApplyRopeText(spec_.rope, "ntk:factor=4", spec_.context);
  ExpectError(ErrorKind::kUsage, {"another rope", "ntk:factor=4"}, [&] { Open(Weights(params_).WithSpec(spec)); });
  spec.rope = ApplyRopeText(spec_.rope, "theta=5e5", spec_.context);
  ExpectError(ErrorKind::kUsage, {"another rope"}, [&] { Open(Weights(params_).WithSpec(spec)); });
  EXPECT_EQ(Open(Weights(params_), 4096)->tokens(), 90);  // no place depends on it
  ExpectError(ErrorKind::kIo, {"absent.idx"},
              [&] { OpenPrefix(backend_.get(), Weights(params_), path_.parent_path() / "absent.idx", 0, {}); });
  WriteSafetensors(path_, {}, {});
  ExpectError(ErrorKind::kFormat, {"no index of a prefix"}, [&] { Open(); });
  for (const char* version : {"1", "3"}) {
    WriteSafetensors(path_, {}, {{"hawser_prefix_index", version}});
    ExpectError(ErrorKind::kUnsupported, {std::string("version ") + version, "hawser index"}, [&] { Open(); });
  }
}

TEST_F(SqueezeFileTest, SaysForWhichLengthItIs) {
  ModelSpec spec = spec_;
  spec.rope = ApplyRopeText(spec_.rope, "dynamic:factor=4", spec_.context);
  const Weights weights = Weights(params_).WithSpec(spec);
  Decoder decoder(backend_.get(), weights);
  const std::vector<int32_t> ids(60, 7);
  SavePrefixIndex(IndexPrefix(backend_.get(), &decoder, weights, ids, {}, 512, {.window = 8}), path_);
  EXPECT_EQ(Open(weights, 512)->tokens(), 60);
  ExpectError(ErrorKind::kUsage, {"declared length of 512 tokens, and this run has 1024: pass --context 512"},
              [&] { Open(weights, 1024); });
}

TEST_F(SqueezeFileTest, DamagedFilesAreRefused) {
  for (const char* kv : {"full", "full:dtype=q8_0"}) {
    Write(2, kv);
    const std::string bytes = ReadFile(path_);
    const auto read = [&] { Read(Open()); };
    for (size_t size = 0; size < bytes.size(); size += size < 6000 ? 61 : 1511) {
      WriteBytes(path_, std::string_view(bytes).substr(0, size));
      EXPECT_FALSE(EndsWell(read)) << "cut to " << size;
    }
    uint64_t header = 0;
    std::memcpy(&header, bytes.data(), sizeof(header));
    Rng rng{.seed = 1};
    int refused = 0;
    constexpr int kTried = 500;
    for (int i = 0; i < kTried; ++i) {
      std::string flipped = bytes;
      flipped[rng.Below(8 + header)] ^= static_cast<char>(1 << rng.Below(8));
      WriteBytes(path_, flipped);
      try {
        read();
      } catch (const Error& error) {
        EXPECT_NE(error.kind(), ErrorKind::kInternal) << error.what();
        ++refused;
      }
    }
    EXPECT_GT(refused, kTried * 7 / 10);  // what is left are blanks
    for (int i = 0; i < 50; ++i) {
      std::string flipped = bytes;
      flipped[8 + header + rng.Below(bytes.size() - 8 - header)] ^= static_cast<char>(1 << rng.Below(8));
      WriteBytes(path_, flipped);
      ExpectError(ErrorKind::kFormat, {"prefix.idx", "checksum"}, [&] { Open(); });
    }
    WriteBytes(path_, bytes);
    read();
  }
}

/// A file whose checksum agrees, with one value of one tensor changed.
TEST_F(SqueezeFileTest, RangesThatDoNotFitAreRefused) {
  Write(2);
  const std::string bytes = ReadFile(path_);
  struct Change {
    const char* tensor;
    size_t element;
    int32_t value;
  };
  for (const Change& change : {Change{"layer.0.clusters", 0, 0},
                               {"layer.0.clusters", 1, 1 << 30},
                               {"layer.1.clusters", 3, -5},
                               {"layer.0.heads", 1, 0},
                               {"layer.0.heads", 2, 9999},
                               {"layer.1.groups.clusters", 1, 0},
                               {"layer.1.groups.heads", 0, 1},
                               {"layer.0.centroids", 0, 0x7f800000},
                               {"ids", 3, -1},
                               {"ids", 3, 64},
                               {"quantiles", 5, 0x7fc00000},
                               {"quantiles", 0, 0x41000000}}) {
    WriteBytes(path_, bytes);
    const TensorSource file = ReadSafetensors(path_);
    std::vector<TensorToWrite> tensors;
    std::vector<std::vector<std::byte>> hold;
    for (const auto& [name, view] : file.tensors()) {
      TensorView copy = view;
      if (name == change.tensor) {
        hold.emplace_back(view.bytes.begin(), view.bytes.end());
        std::memcpy(hold.back().data() + 4 * change.element, &change.value, 4);
        copy.bytes = hold.back();
      }
      tensors.push_back({name, copy, view.dtype});
    }
    ASSERT_EQ(hold.size(), 1u) << change.tensor;
    // The checksum is not looked at twice: a file that was made to deceive has the right one.
    std::map<std::string, std::string> metadata = file.metadata;
    TensorSource changed;
    for (const TensorToWrite& tensor : tensors) changed.Add(tensor.name, tensor.view);
    std::string& about = metadata["index"];
    const std::string key = "\"checksum\":\"";
    const size_t at = about.find(key) + key.size();
    about.replace(at, 16, fmt::format("{:016x}", PrefixChecksum(changed)));
    metadata.erase("format");
    const auto hostile = path_.parent_path() / "hostile.idx";
    WriteSafetensors(hostile, tensors, metadata);
    std::filesystem::rename(hostile, path_);
    ExpectError(ErrorKind::kFormat, {"prefix.idx"}, [&] { Open(); });
  }
}

}  // namespace
}  // namespace hawser
