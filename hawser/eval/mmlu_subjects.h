// eval/mmlu_subjects.h - the 57 subjects of MMLU by category.
#pragma once

#include <span>
#include <string_view>
#include <vector>

namespace hawser {

struct MmluCategory {
  std::string_view name;
  std::string_view subjects;  // in alphabetical order, by blanks
};
std::span<const MmluCategory> MmluCategories();

/// All of them, in alphabetical order.
std::vector<std::string_view> MmluSubjects();

}  // namespace hawser
