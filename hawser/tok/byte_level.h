// tok/byte_level.h - the alphabet of byte-level BPE: 256 bytes as 256 printable characters, and a vocabulary made of a
// list of words.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace hawser {

/// The pattern that GPT-2 (and GPT-NeoX, Pythia, MPT) cuts text with.
inline constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

/// Appends `text` (UTF-8, escaped bytes as EscapeInvalidUtf8 makes them) byte by byte in the printable alphabet:
/// 0x21..0x7E, 0xA1..0xAC and 0xAE..0xFF stand for themselves, the 68 others are U+0100, U+0101, ... in order.
void AppendByteLevel(std::string_view text, std::string& out);
void AppendByteLevel(uint8_t byte, std::string& out);

/// The bytes that `text` stands for; false where it holds a character outside the alphabet.
bool ByteLevelToBytes(std::string_view text, std::string& out);

/// A tokenizer.json in which every word is one id. Ids: 0..255 the bytes, then the merged pieces (words and what they
/// are built of), then <|bos|> and <|eos|>; texts begin with <|bos|>. A word that starts a text has no blank, one
/// inside has: list both forms
/// ("the", " the") where both occur. Any other text falls apart into smaller pieces and bytes.
/// Errors: kUsage for a word that is empty, not UTF-8, or that the pattern cuts in two ("it's").
std::string ByteLevelTokenizerJson(const std::vector<std::string>& words);

/// The "model" of such a file. whole_words: words of the vocabulary are taken before any merge.
nlohmann::json BpeModelJson(nlohmann::json vocab, nlohmann::json merges, bool whole_words);

}  // namespace hawser
