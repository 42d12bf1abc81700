// data/corpus.h - where documents come from.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "hawser/data/document_set.h"
#include "hawser/data/packer.h"
#include "hawser/tok/tokenizer.h"

namespace hawser {

/// Files of documents, by their ending:
///   .jsonl   a line is a document: {"text": "...", "source": "name"}, or tokenised: {"input_ids": [1, 5, ...]} with
///            "source" a name, or a list that cuts the ids into documents: [{"source": "name", "start": 0, "end": 40},
///            ...], each from the end of the one before ("start" may be left out) and the last to the end of the ids.
///            A source that is not given is the name of the file's folder. Blank lines are skipped. Loss on a part
///            only:
///            {"prompt": "...", "completion": "..."} is the text of both, trained on the completion; "weights", a
///            number from 0 up for each of "input_ids", says how much each token counts when it is the target
///   .tokens  tokenised documents (shards.h)
///   others   one document of text
/// Folders are walked, subfolders too, for `.txt`, `.jsonl` and `.tokens` in lexicographic order of their paths.
/// Errors: kIo, kFormat (empty, not UTF-8 with the byte offset, no documents, a line that is not JSON, ids outside the
/// vocabulary or outside every document, each with the number of the line).
struct TextDocument {
  std::string source;  // for tags: the `source` key, else the file's folder name
  std::string path;
  std::string text;
  int64_t prompt_bytes = 0;  // leading ones, whose tokens the loss leaves out
};
std::vector<std::filesystem::path> ListDataFiles(const std::vector<std::filesystem::path>& paths);
/// Text alone: a tokenised file is an error.
std::vector<TextDocument> ReadDocuments(const std::vector<std::filesystem::path>& files);

/// The last `held_out` files in lexicographic order are kept for validation. Errors: kUsage if no file is left.
struct FileSplit {
  std::vector<std::filesystem::path> train, validation;
};
FileSplit HoldOutFiles(std::vector<std::filesystem::path> files, int64_t held_out);

/// The byte at which `text` stops being UTF-8, or -1.
int64_t InvalidUtf8At(std::string_view text);

/// Tokenises in parallel, in order; ids are the documents' places in the list. A text with a prompt is tokenised as a
/// whole; its prompt is the tokens that it begins with as the prompt alone does. A token that the completion changes or
/// joins is of the completion.
std::vector<Document> TokenizeDocuments(const std::vector<TextDocument>& texts, const Tokenizer& tokenizer);

struct TokenisedDocument {
  std::string source;
  std::vector<int32_t> ids;    // without BOS and EOS
  std::vector<float> weights;  // of each in the loss; empty: 1 each
};

/// Every document of every file in order. Text is tokenised in parallel some
/// megabytes at a time, so that more than fits in memory can pass through; what the tokenizer puts before a text
/// is taken off a tokenised document. Errors: as ReadDocuments; kUsage for a shard of another tokenizer.
void TokenizeFiles(const std::vector<std::filesystem::path>& files, const Tokenizer& tokenizer,
                   const std::function<void(TokenisedDocument)>& take);

/// The same documents to train on: text in memory, shards in their files.
DocumentSet LoadDocuments(const std::vector<std::filesystem::path>& files, const Tokenizer& tokenizer);
void AddDocuments(const std::vector<std::filesystem::path>& files, const Tokenizer& tokenizer, DocumentSet* set);

}  // namespace hawser
