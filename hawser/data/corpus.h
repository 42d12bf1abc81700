// data/corpus.h - where documents come from.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "hawser/data/packer.h"
#include "hawser/tok/tokenizer.h"

namespace hawser {

/// `.jsonl` files hold one document a line (key `text`, optional `source`; blank lines are skipped); any other file
/// that is named is one document. Folders are walked, subfolders too, for `.txt` and `.jsonl` in lexicographic order of
/// their paths. Errors: kIo, kFormat (empty, not UTF-8 with the byte offset, no documents, a line that is not JSON
/// with its number).
struct TextDocument {
  std::string source;  // for tags: the `source` key, else the file's folder name
  std::string path;
  std::string text;
};
std::vector<std::filesystem::path> ListDataFiles(const std::vector<std::filesystem::path>& paths);
std::vector<TextDocument> ReadDocuments(const std::vector<std::filesystem::path>& files);

/// The last `held_out` files in lexicographic order are kept for validation. Errors: kUsage if no file is left.
struct FileSplit {
  std::vector<std::filesystem::path> train, validation;
};
FileSplit HoldOutFiles(std::vector<std::filesystem::path> files, int64_t held_out);

/// The byte at which `text` stops being UTF-8, or -1.
int64_t InvalidUtf8At(std::string_view text);

/// Tokenises in parallel, in order; ids are the documents' places in the list, tags the tokens of "source\n".
std::vector<Document> TokenizeDocuments(const std::vector<TextDocument>& texts, const Tokenizer& tokenizer);

}  // namespace hawser
