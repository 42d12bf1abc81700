#include "hawser/tok/separators.h"

#include <algorithm>
#include <array>
#include <span>

#include "hawser/base/error.h"
#include "hawser/base/progress.h"
#include "hawser/base/text.h"

namespace hawser {
namespace {

struct Preset {
  std::string_view name;
  std::vector<int32_t> ids;
};

/// The lists of HKUDS/SepLLM (training, training-free and streaming code) and of transformers' SepCache.
const std::array<Preset, 6>& Presets() {
  static const std::array<Preset, 6> presets = {{
      {"neox-9", {15, 13, 32, 2, 28, 27, 209, 186, 187}},
      {"neox-20",
       {15, 13, 32, 2, 28, 27, 209, 186, 187, 964, 1157, 3736, 2195, 3706, 1163, 2490, 50276, 586, 4928, 50275}},
      {"llama3-9", {13, 11, 30, 0, 26, 25, 198, 220, 128000}},
      {"llama3-17", {13, 11, 30, 0, 26, 25, 198, 220, 662, 1174, 949, 758, 2652, 551, 720, 256, 262}},
      {"llama3-18", {13, 11, 30, 0, 26, 25, 198, 220, 662, 1174, 949, 758, 2652, 551, 720, 256, 262, 128000}},
      {"falcon-13", {25, 23, 42, 12, 38, 37, 193, 4610, 204, 258, 1212, 23787, 466}},
  }};
  return presets;
}

bool Separates(const std::string& piece) {
  const bool marked = piece.find_first_of(".,?!;:\n") != std::string::npos;
  const bool blank = !piece.empty() && piece.find_first_not_of(" \t") == std::string::npos;
  return marked || blank;
}

void AddPreset(const Tokenizer& tokenizer, const Preset& preset, std::vector<uint8_t>* flags) {
  for (const int32_t id : preset.ids) {
    const bool inside = id < tokenizer.vocab_size();
    if (!inside || (id != tokenizer.bos() && !Separates(tokenizer.Piece(id)))) {
      Fail(ErrorKind::kUsage,
           "separators: {} is made for another vocabulary: its id {} {} here; use the rule 'text' or ids of your own",
           preset.name, id,
           inside ? fmt::format("is '{}'", tokenizer.Display(id))
                  : fmt::format("is outside the {} ids", tokenizer.vocab_size()));
    }
    (*flags)[static_cast<size_t>(id)] = 1;
  }
}

}  // namespace

std::vector<uint8_t> SeparatorFlags(const Tokenizer& tokenizer, std::string_view form) {
  const int32_t vocab = tokenizer.vocab_size();
  std::vector<uint8_t> flags(static_cast<size_t>(vocab));
  if (form.empty()) form = "text";
  for (const std::string_view part : SplitAt(form, '+')) {
    if (part == "text") {
      for (int32_t id = 0; id < vocab; ++id) flags[static_cast<size_t>(id)] |= Separates(tokenizer.Piece(id)) ? 1 : 0;
      continue;
    }
    if (const auto id = ParseNumber<int64_t>(part)) {
      if (*id < 0 || *id >= vocab) {
        Fail(ErrorKind::kUsage, "separators '{}': id {} is outside the vocabulary of {} tokens, 0 to {}", form, *id,
             vocab, vocab - 1);
      }
      flags[static_cast<size_t>(*id)] = 1;
      continue;
    }
    std::string_view name = part;
    if (name.starts_with("sepllm-")) name.remove_prefix(7);
    const auto preset = std::ranges::find(Presets(), name, &Preset::name);
    if (preset == Presets().end()) {
      std::vector<std::string_view> known = {"text", "an id"};
      for (const Preset& p : Presets()) known.push_back(p.name);
      Fail(ErrorKind::kUsage, "separators '{}': unknown '{}'{}", form, part,
           SuggestName(part, std::span<const std::string_view>(known)));
    }
    AddPreset(tokenizer, *preset, &flags);
  }
  return flags;
}

std::string SeparatorWarning(const std::vector<uint8_t>& flags, std::string_view form) {
  const auto count = static_cast<size_t>(std::ranges::count(flags, uint8_t{1}));
  if (form.empty()) form = "text";
  if (count == 0) {
    return fmt::format("warning: separators '{}' match none of {} tokens: nothing but initial tokens and window stays",
                       form, flags.size());
  }
  if (2 * count > flags.size()) {
    return fmt::format("warning: separators '{}' match {} of {} tokens ({:.0f} % of the vocabulary): little is dropped",
                       form, count, flags.size(),
                       100.0 * static_cast<double>(count) / static_cast<double>(flags.size()));
  }
  return "";
}

std::vector<uint8_t> ModelSeparators(const Tokenizer* tokenizer, std::string_view form, int32_t vocab) {
  if (tokenizer == nullptr) return {};
  std::vector<uint8_t> flags = SeparatorFlags(*tokenizer, form);
  if (const std::string warning = SeparatorWarning(flags, form); !warning.empty()) LogLine(warning);
  for (size_t id = static_cast<size_t>(vocab); id < flags.size(); ++id) {
    if (flags[id] != 0 && !form.empty() && form != "text") {
      Fail(ErrorKind::kUsage, "separators '{}': id {} is outside the model's vocabulary of {}", form, id, vocab);
    }
  }
  flags.resize(static_cast<size_t>(vocab));
  return flags;
}

}  // namespace hawser
