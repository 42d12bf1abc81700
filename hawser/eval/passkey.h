// eval/passkey.h - passkey retrieval: a number hidden in a dull text, in each of the published layouts.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace hawser {

enum class PasskeyLayout : uint8_t { kLandmark, kYarn, kPose, kPi, kFocusLlm, kLlamaCpp, kInfiniteBench, kYarnHard };

/// How long a text is counted in: characters of the filler, or whole fillers.
enum class PasskeyUnit : uint8_t { kCharacters, kFillers };

struct PasskeyVariant {
  std::string_view name;
  PasskeyLayout layout;
  PasskeyUnit unit;
  int64_t max_new;
  std::string_view summary;
};
std::span<const PasskeyVariant> PasskeyVariants();

/// The prompt with `before` units of filler in front of the key and `after` behind it. Not for kInfiniteBench and
/// kYarnHard, whose texts are given.
std::string PasskeyPrompt(PasskeyLayout layout, int64_t before, int64_t after, std::string_view key);

/// By the rule of the variant: the first number (landmark, yarn, pose, pi, llamacpp), the first digits (infinitebench),
/// the whole answer (focusllm), its beginning (yarn-hard).
bool PasskeyFound(std::string_view variant, std::string_view answer, std::string_view key);

/// k_max of Position Interpolation: the largest distance such that the share found is 0.2 or more at it and at every
/// smaller one. `found`: distances and shares, in any order; shares at one distance are averaged. 0: not even the
/// least.
double LargestDistance(std::vector<std::pair<double, double>> found);

/// "1st", "2nd", "3rd", "4th", "11th".
std::string Ordinal(int64_t n);

/// Whether the first run of digits in the answer, as a number, is `key`.
bool FirstNumberIs(std::string_view answer, std::string_view key);
/// Whether the first run of digits is `key` to the digit.
bool FirstDigitsAre(std::string_view answer, std::string_view key);

}  // namespace hawser
