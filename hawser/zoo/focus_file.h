// zoo/focus_file.h - candidates' projections (model/focus.h) in a file. Format: safetensors, tensors named as in
// CandidateLayout, rotary channels paired in halves. Metadata `hawser_focus` (version 1), `model`
// (ValuesFingerprint, 16 hex digits), `rope` (PlacesText), `base` (the model's name, for people), `chunk`, `prompt`,
// `local`, `sync`: how to read with them where nothing else is said, and `checksum` of the tensors (16 hex digits; the
// first files have none).
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "hawser/base/dtype.h"
#include "hawser/model/focus.h"

namespace hawser {

inline constexpr const char* kFocusFileName = "focus.safetensors";  // in the folder of a run

struct FocusAdapters {
  FocusShape shape;
  int64_t sync = 1;
  std::string base;
  std::shared_ptr<const ParamStore> candidates;  // in the dtype of activations, paired as the model is
};

/// `path`: the file, or a folder that has it. Errors: kIo; kFormat for a file that holds no candidates or is damaged;
/// kUnsupported for another version, and as CheckFocus; kUsage where they are of another model or rope.
FocusAdapters ReadFocusAdapters(const std::filesystem::path& path, const Weights& model);

/// Errors: kIo. `candidates`: F32, of a model that pairs halves; stored in `dtype`.
void SaveFocusAdapters(const ParamStore& candidates, const Weights& model, const FocusShape& shape, int64_t sync,
                       const std::string& base, DType dtype, const std::filesystem::path& path);

}  // namespace hawser
