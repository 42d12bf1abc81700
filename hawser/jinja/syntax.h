// jinja/syntax.h - a template as a tree: what parse.cc makes and render.cc walks.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "hawser/jinja/value.h"

namespace hawser::jinja {

struct Expression;
using ExpressionPtr = std::unique_ptr<Expression>;

enum class Op : uint8_t {
  kLiteral,    // value
  kName,       // name
  kList,       // parts
  kTuple,      // parts
  kDict,       // parts: key, value, key, value, ...
  kNot,        // parts[0]
  kNegative,   // parts[0]
  kPositive,   // parts[0]
  kAnd,        // parts[0], parts[1]
  kOr,         //
  kCompare,    // parts[0] names[0] parts[1] names[1] parts[2] ...: all must hold
  kAdd,        // parts[0], parts[1]
  kSubtract,   //
  kMultiply,   //
  kDivide,     //
  kFloor,      // a // b
  kModulo,     //
  kPower,      //
  kConcat,     // a ~ b ~ ...
  kChoose,     // parts: value, condition, other (may be null)
  kAttribute,  // parts[0].name
  kIndex,      // parts[0][parts[1]]
  kSlice,      // parts[0][parts[1]:parts[2]:parts[3]], each may be null
  kCall,       // parts[0](arguments)
  kFilter,     // parts[0] | name(arguments)
  kTest        // parts[0] is name(arguments)
};

struct CallArguments {
  std::vector<ExpressionPtr> positional;
  std::vector<std::pair<std::string, ExpressionPtr>> named;
};

struct Expression {
  Op op = Op::kLiteral;
  int line = 0;
  int depth = 1;  // of its tree
  Value value;
  std::string name;
  std::vector<std::string> names;
  std::vector<ExpressionPtr> parts;
  CallArguments arguments;
};

struct Statement;
using Block = std::vector<Statement>;

enum class Kind : uint8_t { kText, kOutput, kIf, kFor, kSet, kSetBlock, kMacro, kBreak, kContinue, kBlock };

struct Branch {
  ExpressionPtr condition;  // null: else
  Block body;
};

struct Statement {
  Kind kind = Kind::kText;
  int line = 0;
  std::string text;                     // kText
  std::vector<std::string> names;       // targets of kFor and kSet, parameters of kMacro
  std::string name;                     // of a macro, or of the attribute that kSet puts: {% set names[0].name = ... %}
  ExpressionPtr expression;             // printed, iterated over, or assigned
  ExpressionPtr condition;              // of kFor: which elements
  std::vector<ExpressionPtr> defaults;  // of a macro's last parameters
  std::vector<Branch> branches;         // kIf
  Block body;                           // kFor, kSetBlock, kMacro, kBlock
  Block otherwise;                      // kFor: where there was no element
};

/// Whitespace as chat templates are written for: the newline behind a statement goes (trim_blocks), and so do the
/// blanks before one that begins a line (lstrip_blocks), and one newline at the end of the template. Errors: kFormat
/// naming the line; kUnsupported for statements of Jinja that are not read here.
Block Parse(std::string_view source);

}  // namespace hawser::jinja
