// eval/haystack.h - the long texts that needles are hidden in, and where data are.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace hawser {

/// `path` in the first folder of data that has it (data_files.h), or where it was looked for first.
std::filesystem::path FindData(const std::filesystem::path& given, std::string_view path);

/// FindData. `option` gives the file itself. Errors: kIo where it is not there, with what to do.
std::filesystem::path NeedData(const std::filesystem::path& given, std::string_view path, std::string_view option);

/// Text of `words` words or more from the beginning of `source`, or all of it. "pg19": the books in pg19/test/ of the
/// data, in the order of their names; else a text, a folder of them (data/corpus.h), or {"text": ...} in a .json file.
/// Errors: kIo where there is none, kFormat for what is no text.
std::string ReadHaystack(const std::string& source, const std::filesystem::path& data_dir, int64_t words);

/// How results name it: "pg19", or the name of the file.
std::string HaystackLabel(const std::string& source);

}  // namespace hawser
