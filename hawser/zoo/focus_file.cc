#include "hawser/zoo/focus_file.h"

#include <map>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "hawser/base/error.h"
#include "hawser/base/hash.h"
#include "hawser/base/text.h"
#include "hawser/io/convert.h"
#include "hawser/io/safetensors.h"
#include "hawser/model/fingerprint.h"
#include "hawser/model/places.h"
#include "hawser/zoo/pairing.h"

namespace hawser {
namespace {

namespace fs = std::filesystem;

constexpr const char* kVersionKey = "hawser_focus";
constexpr const char* kChecksumKey = "checksum";

fs::path FileOf(const fs::path& path) {
  std::error_code code;
  return fs::is_directory(path, code) ? path / kFocusFileName : path;
}

std::vector<int64_t> ShapeInFile(const ParamInfo& info) {
  return info.vector ? std::vector<int64_t>{info.size()} : std::vector<int64_t>{info.rows, info.cols};
}

const std::string& Text(const TensorSource& source, const char* key) {
  const auto found = source.metadata.find(key);
  if (found == source.metadata.end()) Fail(ErrorKind::kFormat, "its metadata have no \"{}\"", key);
  return found->second;
}

int64_t Count(const TensorSource& source, const char* key) {
  const std::string& text = Text(source, key);
  const std::optional<int64_t> value = ParseNumber<int64_t>(text);
  if (!value || *value < 1 || *value > int64_t{1} << 30) {
    Fail(ErrorKind::kFormat, "\"{}\" of its metadata: wanted a number of tokens, found \"{}\"", key, text);
  }
  return *value;
}

std::string Hex(uint64_t hash) { return fmt::format("{:016x}", hash); }

/// Of all tensors, in the order of their names, and of how they lie there.
std::string Checksum(const TensorSource& source) {
  uint64_t hash = 0;
  for (const auto& [name, view] : source.tensors()) {
    const std::string what = fmt::format("{} {} {}", name, Name(view.dtype), ShapeText(view.shape));
    hash = Hash64(view.bytes, Hash64(std::as_bytes(std::span(what)), hash));
  }
  return Hex(hash);
}

void CheckOfModel(const TensorSource& source, const Weights& model) {
  const ModelSpec& spec = model.spec();
  if (Text(source, "model") != Hex(ValuesFingerprint(model))) {
    Fail(ErrorKind::kUsage, "these candidates were trained for another model (\"{}\", of the hash {}); this one has {}",
         Text(source, "base"), Text(source, "model"), Hex(ValuesFingerprint(model)));
  }
  if (Text(source, "rope") != PlacesText(spec)) {
    Fail(ErrorKind::kUsage, "these candidates were trained under rope \"{}\", the model is read under \"{}\"",
         Text(source, "rope"), PlacesText(spec));
  }
}

ParamStore ReadCandidates(const TensorSource& source, const ModelSpec& spec, bool adjacent) {
  ParamStore candidates(spec, CandidateLayout(ParamLayout(spec)), DType::kF32);
  for (const ParamInfo& info : candidates.layout().params()) {
    const TensorView* view = source.Find(info.name);
    if (view == nullptr) Fail(ErrorKind::kFormat, "tensor \"{}\" is not there", info.name);
    if (view->shape != ShapeInFile(info)) {
      Fail(ErrorKind::kFormat, "tensor \"{}\": wanted the shape {}, found {}", info.name, ShapeText(ShapeInFile(info)),
           ShapeText(view->shape));
    }
    const Mat to = candidates.At(info);
    ConvertToF32(view->dtype, view->bytes.data(), view->size(), to.Row<float>(0));
    if (adjacent && (info.role == Role::kQuery || info.role == Role::kKey)) {
      HalfToAdjacent(RowsOf(info, to), spec.head_dim);
    }
  }
  if (source.tensors().size() != candidates.layout().params().size()) {
    Fail(ErrorKind::kFormat, "{} tensors, wanted the {} of candidates alone", source.tensors().size(),
         candidates.layout().params().size());
  }
  return candidates;
}

}  // namespace

FocusAdapters ReadFocusAdapters(const fs::path& path, const Weights& model) {
  const fs::path file = FileOf(path);
  CheckFocus(model.spec());
  const TensorSource source = ReadSafetensors(file);
  return WithFrame(file.string(), [&] {
    if (!source.metadata.contains(kVersionKey)) {
      Fail(ErrorKind::kFormat, "holds no candidates of FocusLLM; train some with --objective focus");
    }
    if (Text(source, kVersionKey) != "1") {
      Fail(ErrorKind::kUnsupported, "candidates of version {}, this program reads 1", Text(source, kVersionKey));
    }
    CheckOfModel(source, model);
    const ModelSpec& spec = model.spec();
    FocusAdapters adapters{
        .shape = {.chunk = Count(source, "chunk"), .prompt = Count(source, "prompt"), .local = Count(source, "local")},
        .sync = Count(source, "sync"),
        .base = Text(source, "base")};
    const bool adjacent = spec.places == Places::kRope && spec.rope.pairing == RopePairing::kAdjacent;
    adapters.candidates =
        std::make_shared<const ParamStore>(Cast(ReadCandidates(source, spec, adjacent), model.dtype()));
    if (source.metadata.contains(kChecksumKey) && Text(source, kChecksumKey) != Checksum(source)) {
      Fail(ErrorKind::kFormat, "its tensors do not have the checksum that it names; the file is damaged");
    }
    return adapters;
  });
}

void SaveFocusAdapters(const ParamStore& candidates, const Weights& model, const FocusShape& shape, int64_t sync,
                       const std::string& base, DType dtype, const fs::path& path) {
  const ParamStore stored = Cast(candidates, dtype);
  std::vector<TensorToWrite> tensors;
  TensorSource written;  // in the order of a reader
  for (const ParamInfo& info : stored.layout().params()) {
    const std::vector<int64_t> shape = ShapeInFile(info);
    const auto bytes = static_cast<size_t>(*TensorBytes(shape, dtype));
    const TensorView view{dtype, shape, {static_cast<const std::byte*>(stored.At(info).data), bytes}};
    tensors.push_back({info.name, view, dtype});
    written.Add(info.name, view);
  }
  WriteSafetensors(path, std::move(tensors),
                   {{kVersionKey, "1"},
                    {"model", Hex(ValuesFingerprint(model))},
                    {"rope", PlacesText(model.spec())},
                    {"base", base},
                    {"chunk", fmt::format("{}", shape.chunk)},
                    {"prompt", fmt::format("{}", shape.prompt)},
                    {"local", fmt::format("{}", shape.local)},
                    {"sync", fmt::format("{}", sync)},
                    {kChecksumKey, Checksum(written)}});
}

}  // namespace hawser
