#include "hawser/zoo/load.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <string_view>
#include <utility>

#include "hawser/base/file.h"
#include "hawser/base/huge_pages.h"
#include "hawser/base/parallel.h"
#include "hawser/base/progress.h"
#include "hawser/io/convert.h"
#include "hawser/io/llama2c.h"
#include "hawser/quant/block.h"
#include "hawser/tok/gguf_vocab.h"
#include "hawser/zoo/builtin.h"
#include "hawser/zoo/focus_file.h"
#include "hawser/zoo/gguf_families.h"
#include "hawser/zoo/gguf_model.h"
#include "hawser/zoo/hf_config.h"
#include "hawser/zoo/hf_files.h"
#include "hawser/zoo/hf_tensors.h"
#include "hawser/zoo/pairing.h"

namespace hawser {
namespace {

namespace fs = std::filesystem;

/// A model whose tensors are found and checked, but not read.
struct OpenModel {
  LoadedModel model;                            // params empty
  TensorSource source;                          // owns what `pieces` show
  std::vector<std::vector<TensorView>> pieces;  // of each of ParamLayout::params(), one after another
  std::shared_ptr<const void> owner;            // of pieces that do not lie in the source
  bool adjacent = false;                        // query and key rows pair adjacent channels
};

// Hugging Face folders.

ModelSpec FolderSpec(const fs::path& folder) {
  const fs::path path = folder / kConfig;
  if (!Exists(path))
    Fail(ErrorKind::kIo, "{}: no {} in this folder; MODEL is a folder that has one, a .gguf or a llama2.c .bin",
         folder.string(), kConfig);
  const std::string text = ReadFile(path);
  const ModelSpec config = WithFrame(path.string(), [&] { return ParseHfConfig(text); });
  const fs::path side_path = folder / kSideFile;
  const std::string side = Exists(side_path) ? ReadFile(side_path) : "";
  ModelSpec spec = WithFrame((side.empty() ? path : side_path).string(), [&] { return MergeSideFile(config, side); });
  if (const fs::path generation = folder / kGenerationConfig; Exists(generation)) {
    const std::string members = ReadFile(generation);
    WithFrame(generation.string(), [&] { MergeGenerationConfig(members, spec); });
  }
  return spec;
}

/// Whether a tied configuration comes with a head of its own, which then is used.
void Untie(const fs::path& folder, const TensorSource& source, ModelSpec& spec) {
  if (spec.tie_embeddings && WithFrame(folder.string(), [&] { return HasOwnHead(source, spec); }))
    spec.tie_embeddings = false;
}

OpenModel OpenFolder(const fs::path& folder) {
  OpenModel open;
  if (!Exists(folder / "config.json") && Exists(folder / kFocusFileName)) {
    Fail(ErrorKind::kUsage,
         "{}: a run that trained FocusLLM's candidates beside a model that stayed as it is: give that model, and this "
         "folder with --focus",
         folder.string());
  }
  open.model.format = "Hugging Face folder";
  open.model.spec = FolderSpec(folder);
  open.source = OpenHfTensors(folder);
  const bool tied = open.model.spec.tie_embeddings;
  Untie(folder, open.source, open.model.spec);
  if (open.model.spec.tie_embeddings != tied) {
    LogLine(fmt::format("{}: tie_word_embeddings is true, but the head is not the embedding; it is used as it is",
                        folder.string()));
  }
  open.pieces = WithFrame(folder.string(), [&] { return MatchHfTensors(open.source, open.model.spec); });
  open.model.file_dtype = open.pieces.front().front().dtype;
  return open;
}

// llama2.c files.

ModelSpec Llama2cSpec(const Llama2c& file) {
  ModelSpec spec;
  const auto narrow = [](int64_t value) { return static_cast<int32_t>(value); };  // checked by the reader
  spec.vocab = narrow(file.vocab);
  spec.width = narrow(file.width);
  spec.layers = narrow(file.layers);
  spec.heads = narrow(file.heads);
  spec.kv_heads = narrow(file.kv_heads);
  spec.head_dim = narrow(file.width / file.heads);
  spec.mlp_width = narrow(file.mlp_width);
  spec.norm_eps = 1e-5f;
  spec.tie_embeddings = file.tied;
  spec.context = file.context;
  spec.rope.theta = 10000.0;
  spec.rope.rotary_dim = spec.head_dim;
  // Its tokenizers have BOS 1 and EOS 2, and its models were trained on texts divided by BOS alone.
  if (spec.vocab > 2) {
    spec.bos = 1;
    spec.eos = {2, 1};
  }
  Validate(spec);
  return spec;
}

std::string_view Llama2cName(Role role) {
  switch (role) {
    case Role::kEmbedding:
      return "tok_embeddings";
    case Role::kAttnNorm:
      return "attention_norm";
    case Role::kQuery:
      return "wq";
    case Role::kKey:
      return "wk";
    case Role::kValue:
      return "wv";
    case Role::kAttnOut:
      return "wo";
    case Role::kMlpNorm:
      return "ffn_norm";
    case Role::kGate:
      return "w1";
    case Role::kUp:
      return "w3";
    case Role::kDown:
      return "w2";
    case Role::kFinalNorm:
      return "norm";
    case Role::kHead:
      return "output";
    default:  // its models have no others
      break;
  }
  return "";
}

/// The legacy form brings tables of rotations, which are computed anew here. Errors: kUnsupported where they differ.
void CheckTables(const TensorSource& tensors, const ModelSpec& spec) {
  const TensorView *cos = tensors.Find("freq_cos"), *sin = tensors.Find("freq_sin");
  if (cos == nullptr || sin == nullptr) return;
  const RopeFrequencies frequencies = ComputeFrequencies(spec.rope, spec.context);
  const int64_t half = spec.head_dim / 2;
  std::vector<float> row_cos(static_cast<size_t>(half)), row_sin(row_cos.size());
  const auto near = [&](const TensorView& view, int64_t at, float wanted, double error) {
    float found;
    std::memcpy(&found, view.bytes.data() + at * static_cast<int64_t>(sizeof(found)), sizeof(found));
    return std::abs(found - wanted) <= error;
  };
  for (int64_t position = 0; position < spec.context; ++position) {
    FillRopeTable(frequencies, &position, 1, row_cos.data(), row_sin.data());
    const double error = 1e-4 + 1e-6 * static_cast<double>(position);  // of an angle in f32
    for (int64_t i = 0; i < half; ++i) {
      if (near(*cos, position * half + i, row_cos[static_cast<size_t>(i)], error) &&
          near(*sin, position * half + i, row_sin[static_cast<size_t>(i)], error)) {
        continue;
      }
      Fail(ErrorKind::kUnsupported,
           "its tables of rotations are not those of theta {} (pair {} at position {}); other bases and scalings are "
           "read from Hugging Face folders only",
           spec.rope.theta, i, position);
    }
  }
}

OpenModel OpenLlama2c(const fs::path& path) {
  OpenModel open;
  Llama2c file = ReadLlama2c(path);
  open.model.format = file.legacy ? "llama2.c legacy" : "llama2.c v1";
  open.model.spec = WithFrame(path.string(), [&] { return Llama2cSpec(file); });
  WithFrame(path.string(), [&] { CheckTables(file.tensors, open.model.spec); });
  open.adjacent = true;
  const ParamLayout layout(open.model.spec);
  for (const ParamInfo& info : layout.params()) {
    const TensorView* stacked = file.tensors.Find(Llama2cName(info.role));
    HAWSER_CHECK(stacked != nullptr);
    const size_t bytes = static_cast<size_t>(info.size()) * SizeOf(stacked->dtype);
    const size_t layer = static_cast<size_t>(std::max(info.layer, 0));
    HAWSER_CHECK((layer + 1) * bytes <= stacked->bytes.size());
    open.pieces.push_back({{stacked->dtype, {info.size()}, stacked->bytes.subspan(layer * bytes, bytes)}});
  }
  open.source = std::move(file.tensors);
  return open;
}

// GGUF files.

bool IsGguf(const fs::path& path) {
  const MappedFile file(path);
  return file.bytes().size() >= 4 && std::memcmp(file.bytes().data(), "GGUF", 4) == 0;
}

/// The type that most bytes are stored in.
DType MainType(const std::vector<std::vector<TensorView>>& pieces) {
  std::map<DType, size_t> bytes;
  for (const std::vector<TensorView>& views : pieces) {
    for (const TensorView& view : views) bytes[view.dtype] += view.bytes.size();
  }
  return std::max_element(bytes.begin(), bytes.end(), [](const auto& a, const auto& b) { return a.second < b.second; })
      ->first;
}

OpenModel OpenGguf(const fs::path& path, bool tokenizer) {
  OpenModel open;
  GgufFile file = ReadGguf(path);
  open.model.format = "GGUF";
  WithFrame(path.string(), [&] {
    open.adjacent = GgufArchitectureOf(file).adjacent;
    open.model.spec = GgufSpec(file);
    GgufPieces pieces = MatchGguf(file, open.model.spec);
    for (TensorView& view : pieces.views) open.pieces.push_back({std::move(view)});
    open.owner = std::move(pieces.owner);
    if (tokenizer) open.model.tokenizer = GgufTokenizer(file);
  });
  open.model.file_dtype = MainType(open.pieces);
  open.source = std::move(file.tensors);
  return open;
}

// Tokenizers.

void CheckVocab(const Tokenizer& tokenizer, const fs::path& path, const ModelSpec& spec) {
  if (tokenizer.vocab_size() > spec.vocab) {
    Fail(ErrorKind::kFormat,
         "{}: the tokenizer has {} ids, the model only {}; pass the model's own by --tokenizer FILE", path.string(),
         tokenizer.vocab_size(), spec.vocab);
  }
}

std::shared_ptr<Tokenizer> FindTokenizer(const fs::path& model, const fs::path& given, const ModelSpec& spec) {
  fs::path path = given.empty() ? given : ResolveModel(given);
  if (path.empty() && IsFolder(model)) {
    for (const char* name : {"tokenizer.json", "tokenizer.model", "tokenizer.bin"}) {
      if (Exists(model / name)) path = model;
    }
  }
  if (path.empty()) return nullptr;
  std::shared_ptr<Tokenizer> tokenizer = LoadTokenizer(path);
  CheckVocab(*tokenizer, path, spec);
  if (tokenizer->bos() < 0 && spec.bos < tokenizer->vocab_size()) tokenizer->set_bos(spec.bos);
  if (tokenizer->eos() < 0 && !spec.eos.empty() && spec.eos.front() < tokenizer->vocab_size()) {
    tokenizer->set_eos(spec.eos.front());
  }
  return tokenizer;
}

/// Names the files that are something else.
void CheckModelFile(const fs::path& path) {
  if (!Exists(path)) {
    Fail(ErrorKind::kIo, "{}: no such file or folder; MODEL is a Hugging Face folder, a .gguf or a llama2.c .bin",
         path.string());
  }
  if (path.extension() == ".safetensors" || path.extension() == ".json") {
    Fail(ErrorKind::kUnsupported, "{}: pass the folder that holds config.json, not a file in it", path.string());
  }
}

OpenModel Open(const fs::path& name, const fs::path& tokenizer) {
  const fs::path path = ResolveModel(name);
  if (!IsFolder(path)) CheckModelFile(path);
  OpenModel open = IsFolder(path) ? OpenFolder(path)
                   : IsGguf(path) ? OpenGguf(path, tokenizer.empty())
                                  : OpenLlama2c(path);
  if (open.model.tokenizer == nullptr) {
    open.model.tokenizer = FindTokenizer(path, tokenizer, open.model.spec);
  } else {
    CheckVocab(*open.model.tokenizer, path, open.model.spec);
  }
  return open;
}

}  // namespace

LoadedModel InspectModel(const fs::path& path, const fs::path& tokenizer) {
  return std::move(Open(path, tokenizer).model);
}

LoadedModel LoadModel(const fs::path& path, const fs::path& tokenizer) {
  OpenModel open = Open(path, tokenizer);
  LoadedModel model = std::move(open.model);
  model.params = ParamStore(model.spec, DType::kF32);
  const std::vector<ParamInfo>& infos = model.params.layout().params();
  for (size_t i = 0; i < infos.size(); ++i) {
    const ParamInfo& info = infos[i];
    const Mat weight = model.params.At(info);
    float* next = weight.Row<float>(0);
    for (const TensorView& piece : open.pieces[i]) {
      ConvertToF32(piece.dtype, piece.bytes.data(), piece.size(), next);
      next += piece.size();
    }
    HAWSER_CHECK(next == weight.Row<float>(0) + info.size());
    if (open.adjacent && (info.role == Role::kQuery || info.role == Role::kKey)) {
      AdjacentToHalf(RowsOf(info, weight), model.spec.head_dim);
    }
  }
  return model;
}

namespace {

/// Whether kernels can read a tensor where it lies.
bool LiesReady(const std::vector<TensorView>& pieces, const ParamInfo& info, DType activations, bool all_f32) {
  if (pieces.size() != 1 || info.vector) return false;
  const DType dtype = pieces[0].dtype;
  if (dtype != activations && (all_f32 || (dtype != DType::kF16 && !IsBlocked(dtype)))) return false;
  if (IsBlocked(dtype)) return true;
  return reinterpret_cast<uintptr_t>(pieces[0].bytes.data()) % SizeOf(dtype) == 0;
}

/// A tensor in memory of its own, in the dtype of activations.
std::shared_ptr<const Matrix> Converted(const std::vector<TensorView>& pieces, const ParamInfo& info,
                                        DType activations) {
  auto matrix = std::make_shared<Matrix>(info.rows, info.cols, activations);
  constexpr int64_t kPiece = 1 << 16;  // values; whole blocks of every type
  std::vector<float> values(static_cast<size_t>(std::min(kPiece, info.size())));
  auto* to = static_cast<std::byte*>(matrix->view().data);
  for (const TensorView& piece : pieces) {
    for (int64_t begin = 0; begin < piece.size(); begin += kPiece) {
      const int64_t count = std::min(kPiece, piece.size() - begin);
      ConvertToF32(piece.dtype, piece.bytes.data() + *RowBytes(piece.dtype, begin), count, values.data());
      ConvertFromF32(values.data(), count, activations, to);
      to += count * static_cast<int64_t>(SizeOf(activations));
    }
  }
  return matrix;
}

}  // namespace

namespace {

/// What lies ready in the maps of `source` moves into huge pages as long as this lives.
struct MovingSource {
  MovingSource(TensorSource held, const std::vector<ConstMat>& ready)
      : source(std::move(held)), pages(Spans(source, ready)) {}

  /// Of each file the bytes from the first tensor on to the last.
  static std::vector<std::span<const std::byte>> Spans(const TensorSource& source, const std::vector<ConstMat>& ready) {
    std::vector<std::span<const std::byte>> spans;
    for (const MappedFile& file : source.files()) {
      const std::byte* begin = file.bytes().data() + file.bytes().size();
      const std::byte* end = file.bytes().data();
      for (const ConstMat& tensor : ready) {
        const auto* data = static_cast<const std::byte*>(tensor.data);
        if (data < file.bytes().data() || data >= file.bytes().data() + file.bytes().size()) continue;
        begin = std::min(begin, data);
        end = std::max(end, data + StoredBytes(tensor));
      }
      if (begin < end) spans.emplace_back(begin, end);
    }
    return spans;
  }

  TensorSource source;
  HugePages pages;
};

}  // namespace

ModelToRun LoadModelToRun(const fs::path& path, const fs::path& tokenizer, std::optional<DType> dtype) {
  OpenModel open = Open(path, tokenizer);
  const DType activations = dtype.value_or(open.model.file_dtype == DType::kBF16 ? DType::kBF16 : DType::kF32);
  ModelSpec spec = open.model.spec;
  if (open.adjacent) {
    spec.rope.pairing = RopePairing::kAdjacent;
    if (spec.local_rope) spec.local_rope->pairing = RopePairing::kAdjacent;
  }
  const ParamLayout layout(spec);
  std::vector<ConstMat> tensors, ready;
  std::vector<std::shared_ptr<const void>> owners;
  for (size_t i = 0; i < layout.params().size(); ++i) {
    const ParamInfo& info = layout.params()[i];
    const std::vector<TensorView>& pieces = open.pieces[i];
    if (LiesReady(pieces, info, activations, dtype == DType::kF32)) {
      const DType lies = pieces[0].dtype;
      const int64_t ld = IsBlocked(lies) ? *RowBytes(lies, info.cols) : info.cols;
      tensors.push_back({pieces[0].bytes.data(), lies, info.rows, info.cols, ld});
      ready.push_back(tensors.back());
      continue;
    }
    std::shared_ptr<const Matrix> matrix = Converted(pieces, info, activations);
    tensors.push_back(matrix->view());
    owners.push_back(std::move(matrix));
  }
  owners.push_back(std::make_shared<MovingSource>(std::move(open.source), ready));
  owners.push_back(std::move(open.owner));
  return {std::move(open.model), Weights(spec, activations, std::move(tensors), std::move(owners))};
}

ModelSpec LoadSpec(const fs::path& name) {
  const fs::path path = ResolveModel(name);
  if (IsFolder(path)) {
    ModelSpec spec = FolderSpec(path);
    if (spec.tie_embeddings && HasHfTensors(path)) Untie(path, OpenHfTensors(path), spec);
    return spec;
  }
  CheckModelFile(path);
  if (IsGguf(path)) {
    const GgufFile file = ReadGguf(path);
    return WithFrame(path.string(), [&] { return GgufSpec(file); });
  }
  const Llama2c file = ReadLlama2c(path);
  return WithFrame(path.string(), [&] { return Llama2cSpec(file); });
}

}  // namespace hawser
