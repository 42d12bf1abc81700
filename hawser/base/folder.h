// base/folder.h - a folder that is replaced as a whole.
#pragma once

#include <filesystem>
#include <functional>
#include <string>

namespace hawser {

/// Lets `write` fill a new folder beside `path`, which then takes the place of `path` in one step (two where the file
/// system knows no exchange), so that a kill at any time leaves the old content or the new. Entries of the old folder
/// for whose names `stale` is false are kept. What a killed process left of its new folder is removed. If anything
/// fails `path` is what it was. Errors: those of `write`, and kIo naming the path.
void ReplaceFolder(const std::filesystem::path& path, const std::function<bool(const std::string& name)>& stale,
                   const std::function<void(const std::filesystem::path& folder)>& write);

}  // namespace hawser
