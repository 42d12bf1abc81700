#include "hawser/io/llama2c.h"

#include <cstring>
#include <limits>

#include "hawser/testing/hostile.h"
#include "hawser/testing/test_data.h"

namespace hawser {
namespace {

namespace fs = std::filesystem;

struct Header {
  int32_t dim = 16, hidden = 5, layers = 2, heads = 2, kv_heads = 1, vocab = 3, context = 4;
};

std::string Ints(std::initializer_list<int32_t> values) {
  std::string bytes;
  for (const int32_t value : values) bytes.append(reinterpret_cast<const char*>(&value), 4);
  return bytes;
}
std::string Dims(const Header& h) { return Ints({h.dim, h.hidden, h.layers, h.heads, h.kv_heads, h.vocab, h.context}); }

/// `count` floats that continue to count up from `*next`.
std::string Floats(int64_t count, float* next) {
  std::string bytes;
  for (int64_t i = 0; i < count; ++i, *next += 1) bytes.append(reinterpret_cast<const char*>(next), 4);
  return bytes;
}

constexpr Header kTiny;
constexpr int kQ = 16 * 16, kKv = 8 * 16, kMlp = 5 * 16;  // of one layer

std::string LegacyFile(Header h) {
  float next = 0;
  const int floats =
      3 * 16 + 2 * (16 + kQ + kKv + kKv + kQ + 16 + 3 * kMlp) + 16 + 2 * 4 * 4 + (h.vocab < 0 ? 3 * 16 : 0);
  return Dims(h) + Floats(floats, &next);
}

std::string V1File(const Header& h, uint8_t shared) {
  float next = 0;
  std::string bytes = Ints({0x616b3432, 1}) + Dims(h) + static_cast<char>(shared);
  bytes.resize(256, '\0');
  return bytes + Floats(2 * 2 * 16 + 16 + 3 * 16 + 2 * (2 * kQ + 2 * kKv + 3 * kMlp) + (shared ? 0 : 3 * 16), &next);
}

float First(const Llama2c& model, const char* name) {
  float value = -1;
  std::memcpy(&value, model.tensors.Find(name)->bytes.data(), sizeof(value));
  return value;
}

class Llama2cTest : public ::testing::Test {
 protected:
  fs::path path_ = FreshFolder("llama2c") / "model.bin";
  Llama2c Read(const std::string& bytes) {
    WriteBytes(path_, bytes);
    return ReadLlama2c(path_);
  }
};

// First elements are the running counts of the floats before each array in the published export scripts.
TEST_F(Llama2cTest, ReadsVersion1InItsOrder) {
  const Llama2c model = Read(V1File(kTiny, 0));
  EXPECT_FALSE(model.legacy || model.tied);
  EXPECT_EQ(model.kv_heads, 1);
  EXPECT_EQ(model.context, 4);
  int64_t at = 0;
  for (const auto& [name, count] : {std::pair{"attention_norm", 32},
                                    {"ffn_norm", 32},
                                    {"norm", 16},
                                    {"tok_embeddings", 48},
                                    {"wq", 2 * kQ},
                                    {"wk", 2 * kKv},
                                    {"wv", 2 * kKv},
                                    {"wo", 2 * kQ},
                                    {"w1", 2 * kMlp},
                                    {"w2", 2 * kMlp},
                                    {"w3", 2 * kMlp},
                                    {"output", 48}}) {
    EXPECT_EQ(First(model, name), static_cast<float>(at)) << name;
    EXPECT_EQ(model.tensors.Find(name)->size(), count) << name;
    at += count;
  }
  EXPECT_EQ(model.tensors.Find("wk")->shape, (std::vector<int64_t>{2, 8, 16}));
  EXPECT_EQ(model.tensors.Find("w2")->shape, (std::vector<int64_t>{2, 16, 5}));
}

TEST_F(Llama2cTest, ReadsTheLegacyFormInItsOrder) {
  Header own_head;
  own_head.vocab = -3;
  const Llama2c model = Read(LegacyFile(own_head));
  EXPECT_TRUE(model.legacy);
  EXPECT_FALSE(model.tied);
  EXPECT_EQ(model.vocab, 3);
  int64_t at = 0;
  for (const auto& [name, count] : {std::pair{"tok_embeddings", 48},
                                    {"attention_norm", 32},
                                    {"wq", 2 * kQ},
                                    {"wk", 2 * kKv},
                                    {"wv", 2 * kKv},
                                    {"wo", 2 * kQ},
                                    {"ffn_norm", 32},
                                    {"w1", 2 * kMlp},
                                    {"w2", 2 * kMlp},
                                    {"w3", 2 * kMlp},
                                    {"norm", 16}}) {
    EXPECT_EQ(First(model, name), static_cast<float>(at)) << name;
    at += count;
  }
  EXPECT_EQ(First(model, "output"), static_cast<float>(at + 2 * 4 * 4));  // after the two position tables
  EXPECT_TRUE(Read(LegacyFile(kTiny)).tied);
  EXPECT_EQ(Read(LegacyFile(kTiny)).tensors.Find("output"), nullptr);
}

TEST_F(Llama2cTest, RefusesHostileHeaderFields) {
  constexpr int32_t kMin = std::numeric_limits<int32_t>::min(), kMax = std::numeric_limits<int32_t>::max();
  struct Field {
    const char* name;
    int32_t Header::*member;
  };
  for (const Field& field : {Field{"dim", &Header::dim},
                             {"hidden_dim", &Header::hidden},
                             {"n_layers", &Header::layers},
                             {"n_heads", &Header::heads},
                             {"n_kv_heads", &Header::kv_heads},
                             {"vocab_size", &Header::vocab},
                             {"max_seq_len", &Header::context}}) {
    for (const int32_t value : {kMin, -1, 0, kMax}) {
      SCOPED_TRACE(fmt::format("{} = {}", field.name, value));
      Header header;
      header.*field.member = value;
      // A value below 1 is named; one too large makes the file too short, or its sizes overflow. Only two are legal: a
      // negative legacy vocabulary (but the head is missing here), and any context where there are no position tables.
      const std::string_view named = value < 1 ? field.name : "";
      const bool vocab = field.member == &Header::vocab, context = field.member == &Header::context;
      if (context && value == kMax) {
        EXPECT_EQ(Read(V1File(header, 1)).context, kMax);
      } else {
        ExpectError(ErrorKind::kFormat, {path_.string(), named}, [&] { Read(V1File(header, 1)); });
      }
      ExpectError(ErrorKind::kFormat, {path_.string(), vocab && value < 0 ? "" : named},
                  [&] { Read(LegacyFile(header)); });
    }
  }
  const Header all_large{kMax, kMax, kMax, kMax, kMax, kMax, kMax};
  ExpectError(ErrorKind::kFormat, {"too large"}, [&] { Read(V1File(all_large, 1)); });
  Header uneven;
  uneven.heads = 3;
  ExpectError(ErrorKind::kFormat, {"n_heads 3"}, [&] { Read(V1File(uneven, 1)); });
}

TEST_F(Llama2cTest, RefusesOtherVersionsSizesAndFlags) {
  std::string file = V1File(kTiny, 1);
  file[4] = 2;
  ExpectError(ErrorKind::kUnsupported, {"version 2", "version 1"}, [&] { Read(file); });
  file = V1File(kTiny, 1);
  file[36] = 2;
  ExpectError(ErrorKind::kFormat, {"shared_classifier"}, [&] { Read(file); });
  ExpectError(ErrorKind::kFormat, {"1 bytes after"}, [&] { Read(V1File(kTiny, 1) + "x"); });
  ExpectError(ErrorKind::kFormat, {"4 bytes after"}, [&] { Read(LegacyFile(kTiny) + "xxxx"); });
  ExpectError(ErrorKind::kFormat, {"truncated"}, [&] { Read(""); });
}

TEST_F(Llama2cTest, SurvivesTruncationAndFlippedBits) {
  Header small{8, 1, 1, 1, 1, 1, 1};
  float next = 0;
  const std::string legacy = Dims(small) + Floats(8 + 8 + 4 * 64 + 8 + 3 * 8 + 8 + 8, &next);
  std::string v1 = Ints({0x616b3432, 1}) + Dims(small) + "\x01";
  v1.resize(256, '\0');
  v1 += Floats(8 + 8 + 8 + 8 + 4 * 64 + 3 * 8, &next);
  const auto read = [&] {
    const Llama2c model = ReadLlama2c(path_);
    for (const auto& [name, view] : model.tensors.tensors()) {
      const std::vector<std::byte> copy(view.bytes.begin(), view.bytes.end());  // every byte is there
      EXPECT_EQ(static_cast<int64_t>(copy.size()), TensorBytes(view.shape, view.dtype)) << name;
    }
  };
  WriteBytes(path_, legacy);
  EXPECT_TRUE(EndsWell(read));
  ExpectTruncationsFail(path_, legacy, read);
  EXPECT_GT(FlipBits(path_, legacy, 28, read), 150);
  WriteBytes(path_, v1);
  EXPECT_TRUE(EndsWell(read));
  ExpectTruncationsFail(path_, v1, read);
  EXPECT_GT(FlipBits(path_, v1, 37, read), 150);
}

TEST(Llama2cDataTest, BothFilesOfStories260kHoldTheSameTensors) {
  HAWSER_NEEDS_DATA("models/stories260k");
  const fs::path folder = TestData() / "models" / "stories260k";
  const Llama2c v1 = ReadLlama2c(folder / "checkpoint_v1.bin"), legacy = ReadLlama2c(folder / "checkpoint_legacy.bin");
  EXPECT_EQ(v1.width, 64);
  EXPECT_EQ(v1.vocab, 512);
  EXPECT_TRUE(v1.tied && legacy.tied && legacy.legacy && !v1.legacy);
  ASSERT_EQ(v1.tensors.tensors().size(), 11u);
  ASSERT_EQ(legacy.tensors.tensors().size(), 13u);  // and two tables of rotations
  for (const auto& [name, view] : v1.tensors.tensors()) {
    const TensorView* other = legacy.tensors.Find(name);
    ASSERT_NE(other, nullptr) << name;
    EXPECT_EQ(view.shape, other->shape) << name;
    EXPECT_TRUE(std::equal(view.bytes.begin(), view.bytes.end(), other->bytes.begin(), other->bytes.end())) << name;
  }
}

}  // namespace
}  // namespace hawser
