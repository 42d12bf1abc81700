// eval/picture_file.h - pictures as files: SVG, PNG or PDF by the name.
#pragma once

#include <filesystem>
#include <string_view>

namespace hawser {

/// Errors: kUsage for a name that ends in none of .svg, .png and .pdf; kUnsupported for .png and .pdf where this build
/// has no librsvg. Call it before work that a wrong name would waste.
void CheckPictureName(const std::filesystem::path& path);

/// Writes `svg` atomically as the name of `path` says: a PNG has two pixels for one of the picture's, a PDF is drawn in
/// lines and letters. Both are light. Errors: those of CheckPictureName, kIo.
void WritePicture(const std::filesystem::path& path, std::string_view svg);

}  // namespace hawser
