// data/corpus.h - where documents come from.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "hawser/data/packer.h"
#include "hawser/tok/tokenizer.h"

namespace hawser {

/// `.txt` files are one document each; `.jsonl` files one document a line (key `text`, optional `source`); folders are
/// walked in lexicographic order of file names. Errors: kIo, kFormat (empty, not UTF-8 with the byte offset, no
/// documents, a line that is not JSON with its number).
struct TextDocument {
  std::string source;  // for tags: the `source` key, else the file's folder name
  std::string path;
  std::string text;
};
std::vector<std::filesystem::path> ListDataFiles(const std::vector<std::filesystem::path>& paths);
std::vector<TextDocument> ReadDocuments(const std::vector<std::filesystem::path>& files);

/// Tokenises in parallel, in order; ids are the documents' places in the list.
std::vector<Document> TokenizeDocuments(const std::vector<TextDocument>& texts, const Tokenizer& tokenizer);

}  // namespace hawser
