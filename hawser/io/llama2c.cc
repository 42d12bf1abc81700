#include "hawser/io/llama2c.h"

#include <array>
#include <cstring>
#include <limits>

#include "hawser/base/error.h"

namespace hawser {
namespace {

constexpr uint32_t kLlama2cMagic = 0x616b3432;
constexpr size_t kHeaderV1 = 256;
constexpr size_t kDims = 7;

class Reader {
 public:
  explicit Reader(std::span<const std::byte> bytes) : bytes_(bytes) {}

  template <class T>
  T Take(const char* what) {
    T value;
    std::memcpy(&value, TakeBytes(sizeof(T), what).data(), sizeof(T));
    return value;
  }
  std::span<const std::byte> TakeBytes(size_t count, const char* what) {
    if (count > bytes_.size() - at_) {
      Fail(ErrorKind::kFormat, "truncated: {} needs bytes {} to {}, the file has {}", what, at_, at_ + count,
           bytes_.size());
    }
    at_ += count;
    return bytes_.subspan(at_ - count, count);
  }
  void Seek(size_t at) { at_ = at; }
  size_t left() const { return bytes_.size() - at_; }

 private:
  std::span<const std::byte> bytes_;
  size_t at_ = 0;
};

void ParseDims(Reader& reader, Llama2c& model) {
  struct Field {
    const char* name;
    int64_t Llama2c::*member;
  };
  constexpr std::array<Field, kDims> kFields = {{{"dim", &Llama2c::width},
                                                 {"hidden_dim", &Llama2c::mlp_width},
                                                 {"n_layers", &Llama2c::layers},
                                                 {"n_heads", &Llama2c::heads},
                                                 {"n_kv_heads", &Llama2c::kv_heads},
                                                 {"vocab_size", &Llama2c::vocab},
                                                 {"max_seq_len", &Llama2c::context}}};
  for (const Field& field : kFields) {
    int64_t value = reader.Take<int32_t>("the header");
    // The legacy form marks a head of its own by a negative vocabulary size.
    if (model.legacy && field.member == &Llama2c::vocab) {
      model.tied = value > 0;
      value = value < 0 ? -value : value;
    }
    if (value < 1 || value > std::numeric_limits<int32_t>::max()) {
      Fail(ErrorKind::kFormat, "header field {} is {}; this is no llama2.c checkpoint", field.name, value);
    }
    model.*field.member = value;
  }
  if (model.width % model.heads != 0 || model.heads % model.kv_heads != 0) {
    Fail(ErrorKind::kFormat,
         "this is no llama2.c checkpoint: dim {}, n_heads {} and n_kv_heads {} must each be a multiple of the next",
         model.width, model.heads, model.kv_heads);
  }
}

void TakeTensor(Reader& reader, Llama2c& model, const char* name, std::vector<int64_t> shape) {
  const std::optional<int64_t> bytes = TensorBytes(shape, DType::kF32);
  if (!bytes) Fail(ErrorKind::kFormat, "{} {} is too large", name, ShapeText(shape));
  const auto data = reader.TakeBytes(static_cast<size_t>(*bytes), name);
  model.tensors.Add(name, {DType::kF32, std::move(shape), data});
}

Llama2c ParseLlama2c(MappedFile file) {
  Llama2c model;
  Reader reader(model.tensors.Hold(std::move(file)));
  model.legacy = reader.Take<uint32_t>("the header") != kLlama2cMagic;
  if (model.legacy) {
    reader.Seek(0);
    ParseDims(reader, model);
  } else {
    const int32_t version = reader.Take<int32_t>("the version");
    if (version != 1) {
      Fail(ErrorKind::kUnsupported, "llama2.c version {} is not supported; known are version 1 and the legacy form",
           version);
    }
    ParseDims(reader, model);
    const uint8_t shared = reader.Take<uint8_t>("the header");
    if (shared > 1) Fail(ErrorKind::kFormat, "header field shared_classifier must be 0 or 1, found {}", shared);
    model.tied = shared == 1;
    reader.Seek(0);
    reader.TakeBytes(kHeaderV1, "the header");
  }

  const int64_t C = model.width, F = model.mlp_width, L = model.layers, V = model.vocab;
  const int64_t kv = C / model.heads * model.kv_heads;
  const auto take = [&](const char* name, std::vector<int64_t> shape) {
    TakeTensor(reader, model, name, std::move(shape));
  };
  const auto take_attention = [&] {
    take("wq", {L, C, C});
    take("wk", {L, kv, C});
    take("wv", {L, kv, C});
    take("wo", {L, C, C});
  };
  const auto take_mlp = [&] {
    take("w1", {L, F, C});
    take("w2", {L, C, F});
    take("w3", {L, F, C});
  };
  if (model.legacy) {
    take("tok_embeddings", {V, C});
    take("attention_norm", {L, C});
    take_attention();
    take("ffn_norm", {L, C});
    take_mlp();
    take("norm", {C});
    take("freq_cos", {model.context, C / model.heads / 2});
    take("freq_sin", {model.context, C / model.heads / 2});
  } else {
    take("attention_norm", {L, C});
    take("ffn_norm", {L, C});
    take("norm", {C});
    take("tok_embeddings", {V, C});
    take_attention();
    take_mlp();
  }
  if (!model.tied) take("output", {V, C});
  if (reader.left() != 0) {
    Fail(ErrorKind::kFormat, "{} bytes after the last tensor; the header does not describe this file", reader.left());
  }
  return model;
}

}  // namespace

Llama2c ReadLlama2c(const std::filesystem::path& path) {
  MappedFile file(path);
  return WithFrame(path.string(), [&] { return ParseLlama2c(std::move(file)); });
}

}  // namespace hawser
