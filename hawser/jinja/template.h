// jinja/template.h - the part of Jinja (https://jinja.palletsprojects.com) that chat templates are written in.
//   statements   if, for (with if, else, unpacking, break, continue), set (names, attributes of a namespace, blocks),
//                macro, generation (its body), raw
//   expressions  arithmetic, ~, comparison, in, and/or/not, inline if, calls, attributes, indices, slices, filters,
//   tests
// Text from outside stays marked as such on its way through (value.h).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "hawser/jinja/value.h"

namespace hawser::jinja {

struct RenderLimits {
  int64_t steps = 10'000'000;       // statements and expressions evaluated
  size_t bytes = size_t{64} << 20;  // of text made
  std::optional<int64_t> now = {};  // seconds since 1970 that strftime_now goes by; none: the clock
};

class Template {
 public:
  /// Errors: kFormat naming the line; kUnsupported naming the statement.
  explicit Template(std::string_view source);
  Template(Template&&) noexcept;
  Template& operator=(Template&&) noexcept;
  ~Template();

  /// `globals`: a dict of what the template may name. Beside it there are range, dict, namespace, raise_exception and
  /// strftime_now. Errors: kFormat naming the line (a value of the wrong type, an undefined name used, limits reached);
  /// kUnsupported naming a filter, test or method; kUsage with the text that raise_exception was given.
  Text Render(const Value& globals, const RenderLimits& limits = {}) const;

 private:
  struct Tree;
  std::unique_ptr<Tree> tree_;
};

}  // namespace hawser::jinja
