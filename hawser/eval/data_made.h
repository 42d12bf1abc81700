// eval/data_made.h - data files that are made from those of a public place, as their authors have them in other forms.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace hawser {

/// The contents of one file of the place. `number` of `count` that are fetched.
using PartFetcher = std::function<std::string(const std::string& path, int64_t number, int64_t count)>;

/// Rows of a CSV file (RFC 4180): fields may stand in quotes, and hold line ends and doubled quotes then.
std::vector<std::vector<std::string>> CsvRows(std::string_view text);

/// Lines {"subject", "question", "choices", "answer"} of all subjects of MMLU in alphabetical order. The place has a
/// CSV a subject, `place`/SUBJECT_PART.csv, whose rows behind the first are the question, four choices and the number
/// of the right one. Errors: kFormat, and those of `fetch`.
std::string MakeMmluDev(std::string_view place, const PartFetcher& fetch);
std::string MakeMmluTest(std::string_view place, const PartFetcher& fetch);

/// The examples of a task's YAML file, `place`, as a JSON list of {"question", "target"}. A text there may run on over
/// lines that stand further in. Errors: as above.
std::string MakeGsm8kExamples(std::string_view place, const PartFetcher& fetch);

/// Lines {"id", "question", "choices", "labels", "answerKey"} of ARC from a file that has more in each question,
/// `place`. Errors: as above.
std::string MakeArc(std::string_view place, const PartFetcher& fetch);
/// The same for the test set of ARC-Challenge, in the order and with the keys of its leaderboard. What `place` lacks
/// comes from a file of all its questions in that order.
std::string MakeArcChallengeTest(std::string_view place, const PartFetcher& fetch);

/// WikiText-2's raw test set from a copy without its blank rows, `place`. They stand where those of the set with
/// <unk> do.
std::string MakeWikitext(std::string_view place, const PartFetcher& fetch);

/// Questions of HotpotQA as its authors have them, from the form with a list a field, `place`.
std::string MakeHotpot(std::string_view place, const PartFetcher& fetch);

}  // namespace hawser
