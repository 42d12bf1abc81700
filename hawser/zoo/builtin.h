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

/// The file or folder that MODEL names: `path` itself, but for `hf:ORG/NAME` (zoo/hub.h) and for `builtin`, where
/// nothing of that name lies in the working directory: hawser/builtin in the user's cache (XDG_CACHE_HOME, else
/// HOME/.cache), unpacked there. Errors: kIo; kUsage where neither variable is set.
std::filesystem::path ResolveModel(const std::filesystem::path& path);

/// Whether `name`, said in a file that lies in `folder`, is `builtin` or one of a Hub, and no path from there.
bool IsModelName(const std::string& name, const std::filesystem::path& folder);

}  // namespace hawser
