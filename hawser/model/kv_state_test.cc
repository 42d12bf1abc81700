#include "hawser/kv/state.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>

#include "hawser/base/hash.h"
#include "hawser/base/rng.h"
#include "hawser/device/registry.h"
#include "hawser/io/json.h"
#include "hawser/io/safetensors.h"
#include "hawser/model/decoder.h"
#include "hawser/model/fingerprint.h"
#include "hawser/model/kv_shape.h"
#include "hawser/testing/hostile.h"
#include "hawser/testing/tiny_model.h"

namespace hawser {
namespace {

class KvStateTest : public ::testing::Test {
 protected:
  KvStateTest() {
    Rng rng{.seed = 4, .stream = 9};
    flags_.resize(spec_.vocab);
    for (uint8_t& flag : flags_) flag = rng.Below(5) == 0;
    for (int i = 0; i < 90; ++i) ids_.push_back(static_cast<int32_t>(rng.Below(spec_.vocab)));
  }

  KvCache NewCache(const std::string& policy, DType dtype = DType::kF32) {
    return NewKvCache(backend_.get(), spec_, ParseKvForm(policy), flags_, dtype, 128);
  }
  std::vector<float> Feed(KvCache* cache, int begin, int end, int most) {
    Matrix logits(1, spec_.vocab);
    for (int t = begin; t < end; t += most) {
      decoder_->Extend({ids_.begin() + t, ids_.begin() + std::min(t + most, end)}, cache, logits);
    }
    return {logits.Row<float>(0), logits.Row<float>(0) + spec_.vocab};
  }
  void Save(const KvCache& cache, const nlohmann::json& notes = {}) {
    SaveKvState(cache, ModelFingerprint(params_), path_, notes);
  }
  nlohmann::json Load(KvCache* cache) { return LoadKvState(path_, ModelFingerprint(params_), cache); }
  void ExpectGoesOn(const std::string& policy);
  void ExpectRefused(const std::string& policy);  // damaged states of it
  void UnrotateKeys(const KvCache& cache);

  ModelSpec spec_ = TinySpec({.layers = 3});
  ParamStore params_ = LoudModel(spec_, 17);
  std::unique_ptr<Backend> backend_ = MakeBackend("cpu");
  std::optional<Decoder> decoder_{std::in_place, backend_.get(), &params_};
  std::vector<uint8_t> flags_;
  std::vector<int32_t> ids_;
  std::filesystem::path path_ = FreshFolder("kv_state") / "stream.kv";
};

const char* const kSavedPolicies[] = {"full",
                                      "window:5",
                                      "sink:3,7",
                                      "sink:2,5,positions=cachelen",
                                      "sep:2,6",
                                      "sep:2,6+9+all,full-layers=0",
                                      "fix:2,6,4",
                                      "sep-stream:2,3,4,14",
                                      "sep-stream:2,3,4,14,policy=full,positions=absolute",
                                      "sep-stream:2,3,4,14,accumulate=off",
                                      "sep-stream:2,3,4,14,policy=full,bounded=off",
                                      "full:dtype=q8_0",
                                      "sep:2,6+9+all,full-layers=0,dtype=q8_0",
                                      "sink:3,7,dtype=q8_0",
                                      "sep-stream:2,3,4,14,dtype=q8_0",
                                      "sep-stream:2,3,4,14,dtype=bf16"};

void KvStateTest::ExpectGoesOn(const std::string& policy) {
  for (const int stop : {1, 13, 47}) {
    KvCache whole = NewCache(policy), first = NewCache(policy), second = NewCache(policy);
    Feed(&whole, 0, stop, 7);
    Feed(&first, 0, stop, 7);
    Save(first, {{"turn", stop}});
    EXPECT_EQ(Load(&second)["turn"], stop);
    EXPECT_EQ(second.seen(), stop);
    for (int t = stop; t < 90; ++t) {
      const auto want = Feed(&whole, t, t + 1, 1), got = Feed(&second, t, t + 1, 1);
      ASSERT_EQ(got, want) << policy << " stopped at " << stop << ", t=" << t;
    }
    for (int32_t layer = 0; layer < spec_.layers; ++layer) {
      const auto a = whole.slots(layer), b = second.slots(layer);
      EXPECT_TRUE(std::ranges::equal(a, b)) << policy;
    }
    EXPECT_EQ(second.usage().mean, whole.usage().mean) << policy;
    EXPECT_EQ(second.usage().peak, whole.usage().peak) << policy;
    EXPECT_EQ(second.usage().ratio, whole.usage().ratio) << policy;
    EXPECT_EQ(second.separators_seen(), whole.separators_seen()) << policy;
  }
}

TEST_F(KvStateTest, GoesOnToTheBitAsIfItHadNeverStopped) {
  for (const char* policy : kSavedPolicies) ExpectGoesOn(policy);
}

TEST_F(KvStateTest, BilevelPositionsGoOnWhereTheyStood) {
  spec_.segments = {.places = 3, .separators = {2, 9, 30, 31, 47}};
  params_ = LoudModel(spec_, 17);
  decoder_.emplace(backend_.get(), &params_);
  for (const char* policy : {"full", "sep:2,6,dtype=q8_0", "sep-stream:2,3,4,14,positions=absolute"})
    ExpectGoesOn(policy);
}

TEST_F(KvStateTest, ReplayOfTheSameStepGivesTheSameLogits) {  // E11: nothing is rotated twice
  for (const char* policy : {"sep-stream:2,3,4,14", "sink:3,7", "sep-stream:2,3,4,14,dtype=q8_0"}) {
    KvCache cache = NewCache(policy);
    Feed(&cache, 0, 40, 9);
    Save(cache);
    const auto want = Feed(&cache, 40, 41, 1);
    for (int again = 0; again < 3; ++again) {
      KvCache restored = NewCache(policy);
      Load(&restored);
      Save(restored);
      EXPECT_EQ(Feed(&restored, 40, 41, 1), want) << policy;
    }
  }
}

TEST_F(KvStateTest, Bfloat16IsKeptAsItIs) {
  const ParamStore low = Cast(params_, DType::kBF16);
  Decoder decoder(backend_.get(), &low);
  KvCache a = NewCache("sep-stream:2,3,4,14", DType::kBF16), b = NewCache("sep-stream:2,3,4,14", DType::kBF16);
  const auto step = [&](KvCache* cache, int begin, int end) {
    Matrix logits(1, spec_.vocab);
    decoder.Extend({ids_.begin() + begin, ids_.begin() + end}, cache, logits);
    return std::vector<float>(logits.Row<float>(0), logits.Row<float>(0) + spec_.vocab);
  };
  step(&a, 0, 50);
  SaveKvState(a, ModelFingerprint(low), path_, {});
  LoadKvState(path_, ModelFingerprint(low), &b);
  EXPECT_EQ(step(&a, 50, 51), step(&b, 50, 51));
}

/// Turns the state into one of version 1, whose keys at ranks are as they came.
void KvStateTest::UnrotateKeys(const KvCache& cache) {
  const TensorSource file = ReadSafetensors(path_);
  std::vector<std::vector<std::byte>> hold;
  std::vector<TensorToWrite> tensors;
  uint64_t hash = 0;
  const auto add = [&](const std::string& name, bool keys) {
    const TensorView& view = *file.Find(name);
    std::vector<std::byte>& bytes = hold.emplace_back(view.bytes.begin(), view.bytes.end());
    if (keys) {
      Matrix rows(view.shape[0], view.shape[1]);
      std::memcpy(rows.Row<float>(0), bytes.data(), bytes.size());
      std::vector<int64_t> places;
      for (const SlotInfo& slot : cache.slots()) places.push_back(slot.index);
      const RopeFrequencies frequencies = ComputeFrequencies(spec_.rope, 128);
      std::vector<float> cos(places.size() * frequencies.inv_freq.size()), sin(cos.size());
      FillRopeTable(frequencies, places.data(), rows.rows(), cos.data(), sin.data());
      backend_->Rope({.x = rows,
                      .heads = spec_.kv_heads,
                      .head_dim = spec_.head_dim,
                      .half = spec_.rope.rotary_dim / 2,
                      .cos = cos.data(),
                      .sin = sin.data(),
                      .inverse = true});
      std::memcpy(bytes.data(), rows.Row<float>(0), bytes.size());
    }
    hash = Hash64(bytes, hash);
    tensors.push_back({name, {view.dtype, view.shape, bytes}, view.dtype});
  };
  hold.reserve(file.tensors().size());
  for (const char* name : {"index", "token", "flags"}) add(fmt::format("group.0.{}", name), false);
  for (int32_t l = 0; l < spec_.layers; ++l) {
    add(fmt::format("layer.{}.keys", l), true);
    add(fmt::format("layer.{}.values", l), false);
  }
  nlohmann::json state = ParseJson(file.metadata.at("state"));
  state["checksum"] = fmt::format("{:016x}", hash);
  const auto aside = path_.parent_path() / "raw.kv";
  WriteSafetensors(aside, std::move(tensors), {{"hawser_kv_state", "1"}, {"state", state.dump()}});
  std::filesystem::rename(aside, path_);
}

TEST_F(KvStateTest, StatesOfTheFirstVersionGoOn) {
  KvCache cache = NewCache("sink:3,7"), same = NewCache("sink:3,7");
  Feed(&cache, 0, 47, 7);
  Save(cache);
  UnrotateKeys(cache);
  Load(&same);
  for (int t = 47; t < 80; ++t) {
    const auto want = Feed(&cache, t, t + 1, 1), got = Feed(&same, t, t + 1, 1);
    for (size_t i = 0; i < want.size(); ++i) ASSERT_NEAR(got[i], want[i], 1e-3) << t;
  }
}

TEST_F(KvStateTest, WhatHeadsChoseIsSaved) {
  for (const char* policy : {"snapkv:40%,window=6", "expected:15", "tova:15", "tova:40%,dtype=q8_0"}) {
    KvCache cache = NewCache(policy), same = NewCache(policy);
    cache.BeginPrefill(40);
    Feed(&cache, 0, 40, 9);
    cache.EndPrefill();
    Feed(&cache, 40, 47, 1);
    Save(cache);
    Load(&same);
    for (KvCache* one : {&cache, &same}) {
      one->BeginPrefill(20);
      Feed(one, 47, 67, 20);
      one->EndPrefill();
    }
    for (int32_t head = 0; head < spec_.kv_heads; ++head) {
      for (int64_t slot = 0; slot < static_cast<int64_t>(cache.slots().size()); ++slot) {
        EXPECT_EQ(same.groups()[1].PlaceOf(head, slot), cache.groups()[1].PlaceOf(head, slot)) << policy;
      }
    }
    EXPECT_EQ(Feed(&same, 67, 90, 1), Feed(&cache, 67, 90, 1)) << policy;
    EXPECT_EQ(same.usage().mean, cache.usage().mean);
  }
}

TEST_F(KvStateTest, SaysWhatDiffers) {
  KvCache cache = NewCache("sep-stream:2,3,4,14");
  Feed(&cache, 0, 30, 30);
  Save(cache);
  const auto expect = [&](std::initializer_list<std::string_view> words, KvCache other) {
    ExpectError(ErrorKind::kUsage, words, [&] { Load(&other); });
    EXPECT_EQ(other.seen(), 0);
  };
  expect({"stream.kv", "cache policy: sep-stream:2,3,4,14, and this run has full"}, NewCache("full"));
  expect({"dtype: f32", "bf16"}, NewCache("sep-stream:2,3,4,14", DType::kBF16));
  expect({"cache policy: sep-stream:2,3,4,14, and this run has sep-stream:2,3,4,14,dtype=q8_0"},
         NewCache("sep-stream:2,3,4,14,dtype=q8_0"));
  expect({"set of separators"},
         NewKvCache(backend_.get(), spec_, ParseKvForm("sep-stream:2,3,4,14"), {}, DType::kF32, 128));
  ModelSpec stretched = spec_;
  stretched.rope = ApplyRopeText(spec_.rope, "ntk:factor=4", spec_.context);
  expect({"rope scheme", "default and 128"},
         NewKvCache(backend_.get(), stretched, ParseKvForm("sep-stream:2,3,4,14"), flags_, DType::kF32, 128));
  ModelSpec rounded = spec_;
  rounded.rope = ApplyRopeText(spec_.rope, "default:numerics=hf-f32", spec_.context);
  expect({"rope scheme"},
         NewKvCache(backend_.get(), rounded, ParseKvForm("sep-stream:2,3,4,14"), flags_, DType::kF32, 128));
  KvCache same = NewCache("sep-stream:2,3,4,14");
  const ParamStore other = LoudModel(spec_, 18);
  ExpectError(ErrorKind::kUsage, {"another model"}, [&] { LoadKvState(path_, ModelFingerprint(other), &same); });
  EXPECT_EQ(ReadKvStateInfo(path_).policy, "sep-stream:2,3,4,14");
  EXPECT_EQ(ReadKvStateInfo(path_).seen, 30);
  EXPECT_EQ(ReadKvStateInfo(path_).declared_length, 128);
  ExpectError(ErrorKind::kIo, {"absent.kv"},
              [&] { LoadKvState(path_.parent_path() / "absent.kv", ModelFingerprint(params_), &same); });
}

void KvStateTest::ExpectRefused(const std::string& policy) {
  KvCache cache = NewCache(policy);
  Feed(&cache, 0, 20, 20);
  Save(cache);
  std::ifstream stream(path_, std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(stream), {}};
  const auto read = [&] {
    KvCache fresh = NewCache(policy);
    Load(&fresh);
    Feed(&fresh, 20, 40, 3);  // what was read must be sound
  };
  // Every prefix would take long: cuts of the header, and some behind it.
  for (size_t size = 0; size < bytes.size(); size += size < 4000 ? 37 : 509) {
    WriteBytes(path_, std::string_view(bytes).substr(0, size));
    EXPECT_FALSE(EndsWell(read)) << "cut to " << size;
  }
  int refused = 0, tried = 0;
  Rng rng{.seed = 1};
  for (int i = 0; i < 800; ++i, ++tried) {
    std::string flipped = bytes;
    flipped[rng.Below(bytes.size())] ^= static_cast<char>(1 << rng.Below(8));
    WriteBytes(path_, flipped);
    try {
      read();
    } catch (const Error& error) {
      EXPECT_NE(error.kind(), ErrorKind::kInternal) << error.what();
      ++refused;
    }
  }
  EXPECT_GT(refused, tried * 8 / 10);  // what is left are blanks and names of the metadata
  // What the state says of itself: counters and notes too.
  const size_t begin = bytes.find("\"state\":\""), end = bytes.find("\",\"state_hash\"");
  ASSERT_LT(begin, end);
  ASSERT_NE(end, bytes.npos);
  for (size_t at = begin + std::string_view("\"state\":\"").size(); at < end; at += 3) {
    std::string flipped = bytes;
    flipped[at] ^= 1;  // digits stay digits
    WriteBytes(path_, flipped);
    EXPECT_FALSE(EndsWell(read)) << bytes.substr(at - 5, 10);
  }
  WriteBytes(path_, bytes);
  read();
}

TEST_F(KvStateTest, DamagedFilesAreRefused) {
  for (const char* policy : {"sep-stream:1,1,1,4", "sep-stream:1,1,1,4,dtype=q8_0"}) ExpectRefused(policy);
}

}  // namespace
}  // namespace hawser
