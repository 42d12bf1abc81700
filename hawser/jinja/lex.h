// jinja/lex.h - a template as tokens. For this room alone.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace hawser::jinja {

enum class TokenKind : uint8_t {
  kText,         // outside of braces
  kOutputBegin,  // {{
  kOutputEnd,
  kStatementBegin,  // {%
  kStatementEnd,
  kName,
  kString,
  kInteger,
  kFloat,
  kOperator,
  kEnd
};

struct Token {
  TokenKind kind = TokenKind::kEnd;
  int line = 1;
  std::string text;
};

/// Errors: kFormat naming the line: braces, strings and comments that do not end, characters that begin nothing.
std::vector<Token> Lex(std::string_view source);

}  // namespace hawser::jinja
