// zoo/builtin.h - the small model that is part of the program, under the name `builtin`.
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace hawser {

struct BuiltinFile {
  std::string_view name;      // in the folder: "config.json", "model.safetensors", ...
  std::string_view contents;  // for the life of the program
};

/// The files of models/ that the build put into the program, a Hugging Face folder together.
std::span<const BuiltinFile> BuiltinModel();

/// Makes `folder` hold those files, writing (atomically) the ones that are not there or differ. Errors: kIo.
void UnpackBuiltinModel(const std::filesystem::path& folder);

/// The file or folder that MODEL names: `path` itself, but for `hf:ORG/NAME` (zoo/hub.h) and for `builtin`:
/// hawser/builtin in the user's cache (XDG_CACHE_HOME, else HOME/.cache), unpacked there. A folder of that name is
/// `./builtin`. Errors: kIo; kUsage where neither variable is set.
std::filesystem::path ResolveModel(const std::filesystem::path& path);

/// Whether `name` is `builtin` or one of a Hub, and no path.
bool IsModelName(const std::string& name);

}  // namespace hawser
