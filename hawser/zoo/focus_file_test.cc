#include "hawser/zoo/focus_file.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <functional>
#include <map>
#include <string>

#include "hawser/base/error.h"
#include "hawser/base/file.h"
#include "hawser/base/folder.h"
#include "hawser/io/safetensors.h"
#include "hawser/model/fingerprint.h"
#include "hawser/model/places.h"
#include "hawser/testing/test_folder.h"
#include "hawser/testing/tiny_model.h"
#include "hawser/zoo/pairing.h"

namespace hawser {
namespace {

namespace fs = std::filesystem;

class FocusFile : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = FreshFolder("focus_file");
    InitializeCandidates(LoudModel(spec_, 6), &candidates_);
    Save(file());
  }
  void TearDown() override { fs::remove_all(folder_); }

  fs::path file() const { return folder_ / kFocusFileName; }
  void Save(const fs::path& path) const {
    SaveFocusAdapters(candidates_, Weights(weights_), kShape, /*sync=*/2, "models/small", DType::kF32, path);
  }
  /// Of what Save writes, with one thing changed.
  void Change(const std::function<void(std::vector<TensorToWrite>*, std::map<std::string, std::string>*)>& change) {
    Save(folder_ / "whole");
    const TensorSource source = ReadSafetensors(folder_ / "whole");
    std::vector<TensorToWrite> tensors;
    for (const auto& [name, view] : source.tensors()) tensors.push_back({name, view, view.dtype});
    std::map<std::string, std::string> metadata = source.metadata;
    change(&tensors, &metadata);
    WriteSafetensors(file(), std::move(tensors), std::move(metadata));
  }
  void ExpectError(const Weights& model, ErrorKind kind, const std::string& reason) const {
    try {
      ReadFocusAdapters(file(), model);
      ADD_FAILURE() << "was taken: " << reason;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), kind) << error.what();
      EXPECT_NE(std::string(error.what()).find(reason), std::string::npos) << error.what();
      EXPECT_NE(std::string(error.what()).find(kFocusFileName), std::string::npos) << error.what();
    }
  }

  static constexpr FocusShape kShape = {.chunk = 32, .prompt = 8, .local = 24};
  const ModelSpec spec_ = [] {
    ModelSpec spec = TinySpec({.layers = 2});
    spec.block.qkv_bias = true;
    return spec;
  }();
  const ParamStore weights_ = LoudModel(spec_, 5);
  ParamStore candidates_{spec_, CandidateLayout(weights_.layout()), DType::kF32};
  fs::path folder_;
};

TEST_F(FocusFile, ComesBackToTheBit) {
  for (const fs::path& path : {file(), folder_}) {
    const FocusAdapters read = ReadFocusAdapters(path, Weights(weights_));
    EXPECT_EQ(read.shape, kShape);
    EXPECT_EQ(read.sync, 2);
    EXPECT_EQ(read.base, "models/small");
    EXPECT_EQ(std::memcmp(read.candidates->arena().data, candidates_.arena().data,
                          static_cast<size_t>(candidates_.size()) * sizeof(float)),
              0);
  }
}

// The model in BF16, and with its channels paired the other way, is the same model.
TEST_F(FocusFile, TheModelMayLieInAnotherWay) {
  const ParamStore rounded = Cast(weights_, DType::kBF16);
  const FocusAdapters low = ReadFocusAdapters(file(), Weights(rounded));
  EXPECT_EQ(low.candidates->dtype(), DType::kBF16);
  EXPECT_EQ(ValuesFingerprint(Weights(rounded)), ValuesFingerprint(Weights(weights_)));

  ParamStore adjacent = Cast(weights_, DType::kF32);
  ChangeSpec(&adjacent, [&](ModelSpec& spec) { spec.rope.pairing = RopePairing::kAdjacent; });
  ParamStore expected = Cast(candidates_, DType::kF32);
  for (ParamStore* store : {&adjacent, &expected}) {
    for (const ParamInfo& info : store->layout().params()) {
      if (info.role != Role::kQuery && info.role != Role::kKey) continue;
      HalfToAdjacent(RowsOf(info, store->At(info)), spec_.head_dim);
    }
  }
  const FocusAdapters turned = ReadFocusAdapters(file(), Weights(adjacent));
  EXPECT_EQ(std::memcmp(turned.candidates->arena().data, expected.arena().data,
                        static_cast<size_t>(expected.size()) * sizeof(float)),
            0);
}

TEST_F(FocusFile, OfAnotherModelOrRopeIsRefused) {
  const ParamStore other = LoudModel(spec_, 7);
  ExpectError(Weights(other), ErrorKind::kUsage, "trained for another model (\"models/small\"");
  for (const Role role : {Role::kDown, Role::kQuery, Role::kKey, Role::kValue}) {
    ParamStore touched = Cast(weights_, DType::kF32);
    touched.Get(role, 1).Row<float>(1)[3] += 1;
    ExpectError(Weights(touched), ErrorKind::kUsage, "another model");
  }
  ModelSpec wide = spec_;
  ApplyPlaces("ntk:factor=2", spec_.context, 2 * spec_.context, &wide);
  ExpectError(Weights(weights_).WithSpec(wide), ErrorKind::kUsage, "read under \"ntk:factor=2");
}

TEST_F(FocusFile, DamagedFilesAreNamed) {
  const Weights model(weights_);
  using Tensors = std::vector<TensorToWrite>;
  using Metadata = std::map<std::string, std::string>;
  Change([](Tensors*, Metadata* metadata) { metadata->erase("hawser_focus"); });
  ExpectError(model, ErrorKind::kFormat, "holds no candidates");
  Change([](Tensors*, Metadata* metadata) { (*metadata)["hawser_focus"] = "2"; });
  ExpectError(model, ErrorKind::kUnsupported, "version 2");
  for (const char* key : {"chunk", "prompt", "local", "sync"}) {
    for (const char* value : {"", "0", "-1", "7x", "99999999999999999999"}) {
      Change([&](Tensors*, Metadata* metadata) { (*metadata)[key] = value; });
      ExpectError(model, ErrorKind::kFormat, fmt::format("\"{}\" of its metadata", key));
    }
    Change([&](Tensors*, Metadata* metadata) { metadata->erase(key); });
    ExpectError(model, ErrorKind::kFormat, fmt::format("no \"{}\"", key));
  }
  Change([](Tensors* tensors, Metadata*) { tensors->pop_back(); });
  ExpectError(model, ErrorKind::kFormat, "is not there");
  Change([](Tensors* tensors, Metadata*) { std::swap(tensors->front().name, tensors->back().name); });
  ExpectError(model, ErrorKind::kFormat, "wanted the shape");
  Change([](Tensors* tensors, Metadata*) {
    tensors->push_back(tensors->front());
    tensors->back().name = "another";
  });
  ExpectError(model, ErrorKind::kFormat, "of candidates alone");
  Change([](Tensors* tensors, Metadata*) {  // the same tensor of two layers
    std::swap((*tensors)[1].view, (*tensors)[tensors->size() / 2 + 1].view);
  });
  ExpectError(model, ErrorKind::kFormat, "checksum");
  Change([](Tensors* tensors, Metadata*) {
    for (TensorToWrite& tensor : *tensors) tensor.dtype = DType::kBF16;
  });
  ExpectError(model, ErrorKind::kFormat, "checksum");
  Save(folder_ / "whole");
  std::string bytes = ReadFile(folder_ / "whole");
  bytes[bytes.size() - 6] ^= 1;
  WriteFileAtomically(file(), bytes);
  ExpectError(model, ErrorKind::kFormat, "checksum");
  WriteFileAtomically(file(), "nothing of the kind");
  ExpectError(model, ErrorKind::kFormat, "");
}

}  // namespace
}  // namespace hawser
