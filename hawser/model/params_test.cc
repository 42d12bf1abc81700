#include "hawser/model/params.h"

#include <cmath>
#include <cstring>
#include <limits>

#include "hawser/base/rng.h"
#include "hawser/testing/hostile.h"
#include "hawser/testing/tiny_model.h"

namespace hawser {
namespace {

TEST(SpecTest, CountsParametersAsTheLayoutHoldsThem) {
  for (const bool tie : {false, true}) {
    const ModelSpec spec = TinySpec({.vocab = 37,
                                     .layers = 3,
                                     .heads = 6,
                                     .kv_heads = 3,
                                     .head_dim = 10,
                                     .width = 17,
                                     .mlp_width = 29,
                                     .tie = tie});
    int64_t stored = 0, multiplied = 0;
    const ParamLayout layout(spec);
    for (const ParamInfo& info : layout.params()) {
      stored += info.size();
      if (!info.vector && info.role != Role::kEmbedding) multiplied += info.size();
    }
    if (tie) multiplied += 37 * 17;  // the embedding is multiplied with as the head
    EXPECT_EQ(NumParameters(spec), stored);
    EXPECT_DOUBLE_EQ(TrainingFlops(spec, 5, 0), 6.0 * static_cast<double>(multiplied) * 5);
    // 2 products of D multiply-adds a pair and head forward, 4 backward, 2 FLOPs each.
    EXPECT_DOUBLE_EQ(TrainingFlops(spec, 0, 7), 7.0 * 2 * (2 + 4) * 10 * 6 * 3);
  }
}

TEST(SpecTest, NamesTheFieldThatIsWrong) {
  struct Case {
    const char* field;
    void (*spoil)(ModelSpec&);
  };
  const Case cases[] = {
      {"vocab", [](ModelSpec& s) { s.vocab = 0; }},
      {"width", [](ModelSpec& s) { s.width = -1; }},
      {"layers", [](ModelSpec& s) { s.layers = 1 << 30; }},
      {"heads", [](ModelSpec& s) { s.heads = 0; }},
      {"kv_heads", [](ModelSpec& s) { s.kv_heads = 8; }},
      {"multiple of kv_heads", [](ModelSpec& s) { s.kv_heads = 3; }},
      {"head_dim", [](ModelSpec& s) { s.head_dim = 0; }},
      {"head_dim", [](ModelSpec& s) { s.head_dim = 257; }},
      {"mlp_width", [](ModelSpec& s) { s.mlp_width = 0; }},
      {"norm_eps", [](ModelSpec& s) { s.norm_eps = NAN; }},
      {"norm_eps", [](ModelSpec& s) { s.norm_eps = -1; }},
      {"norm_eps must be above 0 and at most 1, found 0", [](ModelSpec& s) { s.norm_eps = 0; }},
      {"norm_eps", [](ModelSpec& s) { s.norm_eps = INFINITY; }},
      {"context", [](ModelSpec& s) { s.context = 0; }},
      {"sliding_window", [](ModelSpec& s) { s.sliding_window = -1; }},
      {"bos", [](ModelSpec& s) { s.bos = 64; }},
      {"eos",
       [](ModelSpec& s) {
         s.eos = {2, -1};
       }},
      {"theta", [](ModelSpec& s) { s.rope.theta = 1; }},
      {"theta", [](ModelSpec& s) { s.rope.theta = NAN; }},
      {"rotary_dim", [](ModelSpec& s) { s.rope.rotary_dim = 0; }},
      {"rotary_dim", [](ModelSpec& s) { s.rope.rotary_dim = 10; }},
      {"even", [](ModelSpec& s) { s.rope.rotary_dim = 5; }},
      {"factor", [](ModelSpec& s) { s.rope.scaling.factor = 0.5; }},
      {"factor", [](ModelSpec& s) { s.rope.scaling.factor = INFINITY; }},
      {"at least 4", [](ModelSpec& s) { s.rope.scaling.kind = RopeKind::kNtk, s.rope.rotary_dim = 2; }},
      {"original", [](ModelSpec& s) { s.rope.scaling.kind = RopeKind::kYarn; }},
      {"beta_fast",
       [](ModelSpec& s) {
         s.rope.scaling = {.kind = RopeKind::kYarn, .original = 64, .beta_fast = 1, .beta_slow = 1};
       }},
      {"attention_factor",
       [](ModelSpec& s) { s.rope.scaling = {.kind = RopeKind::kYarn, .original = 64, .attention_factor = 0.0}; }},
      {"high_freq_factor",
       [](ModelSpec& s) {
         s.rope.scaling = {.kind = RopeKind::kLlama3, .original = 64, .low_freq_factor = 4, .high_freq_factor = 4};
       }},
  };
  EXPECT_NO_THROW(Validate(TinySpec()));
  for (const Case& c : cases) {
    ModelSpec spec = TinySpec();
    c.spoil(spec);
    ExpectError(ErrorKind::kFormat, {c.field}, [&] { Validate(spec); });
  }
}

TEST(SpecTest, TheLargestSpecStaysInRange) {
  ModelSpec spec = TinySpec();
  spec.vocab = 1 << 26;
  spec.width = 1 << 18;
  spec.layers = spec.heads = spec.kv_heads = 1 << 12;
  spec.head_dim = spec.rope.rotary_dim = 256;
  spec.mlp_width = 1 << 20;
  Validate(spec);
  const double exact = 2 * std::ldexp(1, 44) + 4096.0 * (4 * std::ldexp(1, 38) + 3 * std::ldexp(1, 38) + 2 * 262144.0);
  EXPECT_NEAR(static_cast<double>(NumParameters(spec)), exact, 1e-9 * exact);
  EXPECT_LT(exact * 8, static_cast<double>(std::numeric_limits<int64_t>::max()));
}

TEST(ParamsTest, GroupsAreAdjacentAndAligned) {
  Rng rng{11};
  for (int round = 0; round < 50; ++round) {
    const auto pick = [&](int low, int high) { return low + static_cast<int32_t>(rng.Below(high - low + 1)); };
    const int32_t kv = pick(1, 3);
    const ModelSpec spec = TinySpec({.vocab = pick(3, 70),
                                     .layers = pick(1, 3),
                                     .heads = kv * pick(1, 3),
                                     .kv_heads = kv,
                                     .head_dim = 2 * pick(4, 9),
                                     .width = pick(1, 33),
                                     .mlp_width = pick(1, 40),
                                     .tie = pick(0, 1) == 1});
    const ParamLayout layout(spec);
    int64_t end = 0;
    for (const ParamInfo& info : layout.params()) {
      const bool continues = info.role == Role::kKey || info.role == Role::kValue || info.role == Role::kUp;
      EXPECT_TRUE(continues ? info.offset == end : info.offset >= end && info.offset < end + 32) << info.name;
      EXPECT_TRUE(continues || info.offset % 32 == 0) << info.name;
      EXPECT_EQ(&layout.Find(info.role, info.layer), &info);
      end = info.offset + info.size();
    }
    EXPECT_GE(layout.size(), end);
    ParamStore store(spec, DType::kF32);
    for (int32_t layer = 0; layer < spec.layers; ++layer) {
      const Mat qkv = store.Qkv(layer), gate_up = store.MlpIn(layer);
      const Mat k = store.Get(Role::kKey, layer), v = store.Get(Role::kValue, layer);
      EXPECT_EQ(qkv.Row<float>(int64_t{spec.heads} * spec.head_dim), k.Row<float>(0));
      EXPECT_EQ(qkv.rows, store.Get(Role::kQuery, layer).rows + k.rows + v.rows);
      EXPECT_EQ(qkv.Row<float>(qkv.rows), v.Row<float>(v.rows));
      EXPECT_EQ(gate_up.Row<float>(spec.mlp_width), store.Get(Role::kUp, layer).Row<float>(0));
      EXPECT_EQ(gate_up.rows, 2 * spec.mlp_width);
    }
    const Role head = spec.tie_embeddings ? Role::kEmbedding : Role::kHead;
    EXPECT_EQ(store.Head().data, store.Get(head).data);
  }
}

TEST(ParamsTest, AskingForWhatIsNotThereIsABug) {
  ParamStore tied(TinySpec({.tie = true}), DType::kF32);
  ExpectError(ErrorKind::kInternal, {}, [&] { tied.Get(Role::kHead); });
  ExpectError(ErrorKind::kInternal, {}, [&] { tied.Get(Role::kQuery, 2); });
  ExpectError(ErrorKind::kInternal, {}, [&] { tied.Get(Role::kQuery); });
  const ParamStore cast = Cast(tied, DType::kBF16);
  ExpectError(ErrorKind::kInternal, {}, [&] { cast.Get(Role::kHead); });
}

TEST(ParamsTest, AStoreOfSomeParameters) {
  const ModelSpec spec = TinySpec({.vocab = 37, .heads = 6, .kv_heads = 3, .head_dim = 10, .width = 17});
  const ParamLayout all(spec);
  std::vector<ParamInfo> some;
  for (const ParamInfo& info : all.params()) {
    if (info.layer == 1 && info.role != Role::kGate && info.role != Role::kUp) some.push_back(info);
  }
  ParamStore store(spec, ParamLayout(some), DType::kBF16);
  EXPECT_TRUE(store.Get(Role::kEmbedding).empty());
  EXPECT_TRUE(store.Get(Role::kQuery, 0).empty());
  EXPECT_TRUE(store.Get(Role::kQuery, 7).empty());
  EXPECT_TRUE(store.MlpIn(1).empty());
  EXPECT_TRUE(store.Head().empty());
  EXPECT_EQ(store.Qkv(1).rows, (6 + 2 * 3) * 10);
  EXPECT_EQ(store.Get(Role::kValue, 1).data, store.Qkv(1).Rows(90, 30).data);
  EXPECT_LT(store.size(), all.size());
  for (const ParamInfo& info : store.layout().params()) {
    EXPECT_EQ(store.At(info).data, store.Get(info.role, info.layer).data) << info.name;
    EXPECT_LE(info.offset + info.size(), store.size());
    EXPECT_TRUE(info.role == Role::kKey || info.role == Role::kValue || info.offset % 32 == 0) << info.name;
  }
  EXPECT_TRUE(Cast(store, DType::kF32).Get(Role::kEmbedding).empty());
}

TEST(ParamsTest, InitializationHasItsMoments) {
  const ModelSpec spec = TinySpec({.vocab = 500, .layers = 8, .width = 64, .mlp_width = 300});
  ParamStore params(spec, DType::kF32);
  InitializeParams(params, 5);
  for (const ParamInfo& info : params.layout().params()) {
    const float* x = params.Get(info.role, info.layer).Row<float>(0);
    double sum = 0, squares = 0;
    for (int64_t i = 0; i < info.size(); ++i) sum += x[i], squares += static_cast<double>(x[i]) * x[i];
    const double n = static_cast<double>(info.size());
    if (info.vector) {
      EXPECT_EQ(sum, n) << info.name;
      continue;
    }
    // 0.02 at a width of 1024 is 0.08 at 64; projections into the residual have it over sqrt(2 * 8).
    const double std = info.role == Role::kDown || info.role == Role::kAttnOut ? 0.02 : 0.08;
    EXPECT_NEAR(sum / n, 0, 5 * std / std::sqrt(n)) << info.name;
    EXPECT_NEAR(std::sqrt(squares / n), std, 5 * std / std::sqrt(2 * n)) << info.name;
  }
}

TEST(ParamsTest, InitializationDependsOnSeedAndTensorAlone) {
  const auto make = [](const ModelSpec& spec, uint64_t seed) {
    ParamStore params(spec, DType::kF32);
    InitializeParams(params, seed);
    return params;
  };
  const ParamStore a = make(TinySpec({.layers = 1}), 1), b = make(TinySpec({.layers = 3, .tie = true}), 1),
                   c = make(TinySpec({.layers = 1}), 2);
  const auto same = [](ConstMat x, ConstMat y) {
    return std::memcmp(x.data, y.data, static_cast<size_t>(x.rows * x.cols) * 4) == 0;
  };
  EXPECT_TRUE(same(a.Get(Role::kEmbedding), b.Get(Role::kEmbedding)));
  EXPECT_TRUE(same(a.Get(Role::kQuery, 0), b.Get(Role::kQuery, 0)));
  EXPECT_FALSE(same(b.Get(Role::kQuery, 0), b.Get(Role::kQuery, 1)));
  EXPECT_FALSE(same(a.Get(Role::kGate, 0), a.Get(Role::kUp, 0)));
  EXPECT_FALSE(same(a.Get(Role::kQuery, 0), c.Get(Role::kQuery, 0)));
}

TEST(ParamsTest, CastRoundsOnce) {
  const ParamStore f32 = TinyModel(TinySpec(), 3);
  const ParamStore half = Cast(f32, DType::kBF16), back = Cast(half, DType::kF32);
  EXPECT_EQ(half.dtype(), DType::kBF16);
  EXPECT_EQ(half.spec(), f32.spec());
  int64_t changed = 0;
  for (int64_t i = 0; i < f32.size(); ++i) {
    const float x = f32.arena().Row<float>(0)[i];
    EXPECT_EQ(back.arena().Row<float>(0)[i], ToF32(ToBF16(x)));
    changed += back.arena().Row<float>(0)[i] != x;
  }
  EXPECT_GT(changed, f32.size() / 2);
}

}  // namespace
}  // namespace hawser
