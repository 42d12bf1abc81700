// tok/tokenizer.h - text <-> ids.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace hawser {

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  /// "tokenizer.json byte-level BPE", "llama2.c BPE", "SentencePiece BPE": for `info`.
  virtual std::string Kind() const = 0;
  virtual int32_t vocab_size() const = 0;  // ids are [0, vocab_size)

  /// Ids of `text`, without BOS or EOS. Text of special tokens is ordinary text unless `parse_special`: their ids never
  /// come out. `goes_on`: the text stands straight behind earlier text, so that the blank which some vocabularies put
  /// before a text does not belong there. Input that is not UTF-8 is taken byte by byte where the vocabulary has bytes.
  virtual std::vector<int32_t> Encode(std::string_view text, bool parse_special = false,
                                      bool goes_on = false) const = 0;

  /// Ids of `text` with the names of special tokens parsed, but not where a byte of the name is marked ('\1' in
  /// `marks`, which is as long as the text, UTF-8): there they are ordinary text. `goes_on` as for Encode. Here: a
  /// vocabulary without such names.
  virtual std::vector<int32_t> EncodeMarked(std::string_view text, std::string_view /*marks*/,
                                            bool goes_on = false) const {
    return Encode(text, /*parse_special=*/false, goes_on);
  }

  /// Bytes of the ids, exactly; BOS, EOS and other control pieces give nothing. With `at_start` the space that some
  /// vocabularies put before a text is taken off again.
  std::string Decode(const std::vector<int32_t>& ids, bool at_start = true) const;

  /// The bytes one id stands for (a leading space kept); empty for control pieces. Errors: kUsage for an id outside.
  virtual std::string Piece(int32_t id) const = 0;
  /// The piece as it is written in the vocabulary, for people.
  virtual std::string Display(int32_t id) const = 0;

  /// True where Encode puts a blank before the text that Decode takes off.
  virtual bool adds_dummy_prefix() const { return false; }

  /// The ids that a text begins with by the rule of the tokenizer's files: BOS for Llama, nothing for GPT-NeoX. Encode
  /// never adds them; bos.h says who does.
  const std::vector<int32_t>& prefix() const { return prefix_; }

  /// The chat template that came with the vocabulary (chat_template.h); empty: none.
  const std::string& chat_template() const { return chat_template_; }
  void set_chat_template(std::string text) { chat_template_ = std::move(text); }

  int32_t bos() const { return bos_; }
  int32_t eos() const { return eos_; }
  void set_bos(int32_t id) { bos_ = id; }
  void set_eos(int32_t id) { eos_ = id; }
  void set_prefix(std::vector<int32_t> ids) { prefix_ = std::move(ids); }

  /// Writes what a Hugging Face folder needs to load this tokenizer again, here and elsewhere: tokenizer.json and
  /// tokenizer_config.json (atomically).
  virtual void Save(const std::filesystem::path& folder) const = 0;

 protected:
  int32_t bos_ = -1;
  int32_t eos_ = -1;
  std::vector<int32_t> prefix_;
  std::string chat_template_;
};

/// Loads tokenizer.json, a llama2.c tokenizer.bin or a SentencePiece .model by content, or a folder that holds one of
/// them (tokenizer.json first). Errors: kIo, kFormat, kUnsupported naming file and what is missing.
std::unique_ptr<Tokenizer> LoadTokenizer(const std::filesystem::path& path);

}  // namespace hawser
