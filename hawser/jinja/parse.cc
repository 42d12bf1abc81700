#include <algorithm>
#include <array>
#include <charconv>
#include <initializer_list>

#include "hawser/base/error.h"
#include "hawser/jinja/lex.h"
#include "hawser/jinja/syntax.h"

namespace hawser::jinja {
namespace {

constexpr int kMaxDepth = 100;       // of brackets in brackets and statements in statements
constexpr int kMaxExpression = 250;  // of the tree of an expression

class Parser {
 public:
  explicit Parser(std::string_view source) : tokens_(Lex(source)) {}

  Block Run() {
    Block block = ParseBlock({});
    if (Now().kind != TokenKind::kEnd) Wrong(fmt::format("'{}' without its beginning", Now().text));
    return block;
  }

 private:
  /// Counts nesting while it lives.
  class Deeper {
   public:
    explicit Deeper(Parser* parser) : parser_(parser) {
      if (++parser->depth_ > kMaxDepth) parser->Wrong(fmt::format("nested deeper than {}", kMaxDepth));
    }
    ~Deeper() { --parser_->depth_; }
    Deeper(const Deeper&) = delete;
    Deeper& operator=(const Deeper&) = delete;

   private:
    Parser* parser_;
  };

  [[noreturn]] void Wrong(std::string_view what) const { Fail(ErrorKind::kFormat, "line {}: {}", Now().line, what); }

  const Token& Now() const { return tokens_[at_]; }
  const Token& Next() const { return tokens_[std::min(at_ + 1, tokens_.size() - 1)]; }
  Token Take() {
    Token token = tokens_[at_];
    if (at_ + 1 < tokens_.size()) ++at_;
    return token;
  }
  bool IsOperator(std::string_view text) const { return Now().kind == TokenKind::kOperator && Now().text == text; }
  bool IsName(std::string_view text) const { return Now().kind == TokenKind::kName && Now().text == text; }
  bool Skip(std::string_view text) {
    if (!IsOperator(text) && !IsName(text)) return false;
    Take();
    return true;
  }
  void Expect(std::string_view text) {
    if (!Skip(text)) Wrong(fmt::format("'{}' wanted, found {}", text, Found()));
  }
  std::string Found() const {
    switch (Now().kind) {
      case TokenKind::kEnd:
        return "the end of the template";
      case TokenKind::kOutputEnd:
        return "'}}'";
      case TokenKind::kStatementEnd:
        return "'%}'";
      default:
        return "'" + Now().text + "'";
    }
  }
  std::string ExpectName() {
    if (Now().kind != TokenKind::kName) Wrong("a name wanted, found " + Found());
    return Take().text;
  }
  void EndStatement() {
    if (Now().kind != TokenKind::kStatementEnd) Wrong("'%}' wanted, found " + Found());
    Take();
  }

  // Statements.

  /// Up to a statement whose name is one of `ends`, which is left for the caller, behind its "{%".
  Block ParseBlock(std::initializer_list<std::string_view> ends) {
    const Deeper deeper(this);
    Block block;
    for (;;) {
      switch (Now().kind) {
        case TokenKind::kEnd:
          if (ends.size() > 0) Wrong(fmt::format("'{}' wanted before the end of the template", *(ends.end() - 1)));
          return block;
        case TokenKind::kText: {
          Statement text;
          text.line = Now().line;
          text.text = Take().text;
          block.push_back(std::move(text));
          break;
        }
        case TokenKind::kOutputBegin: {
          Statement output;
          output.kind = Kind::kOutput;
          output.line = Take().line;
          output.expression = ParseTuple();
          if (Now().kind != TokenKind::kOutputEnd) Wrong("'}}' wanted, found " + Found());
          Take();
          block.push_back(std::move(output));
          break;
        }
        default: {
          for (const std::string_view end : ends) {
            if (Next().kind == TokenKind::kName && Next().text == end) {
              Take();
              return block;
            }
          }
          Take();
          block.push_back(ParseStatement());
        }
      }
    }
  }

  Statement ParseStatement() {
    Statement statement;
    statement.line = Now().line;
    const std::string name = ExpectName();
    if (name == "if") {
      ParseIf(statement);
    } else if (name == "for") {
      ParseFor(statement);
    } else if (name == "set") {
      ParseSet(statement);
    } else if (name == "macro") {
      ParseMacro(statement);
    } else if (name == "break" || name == "continue") {
      statement.kind = name == "break" ? Kind::kBreak : Kind::kContinue;
      EndStatement();
    } else if (name == "generation") {
      statement.kind = Kind::kBlock;
      EndStatement();
      statement.body = ParseBlock({"endgeneration"});
      Take();
      EndStatement();
    } else {
      constexpr std::array<std::string_view, 14> kOther = {"include", "import",    "from",  "extends",  "block",
                                                           "call",    "filter",    "with",  "do",       "autoescape",
                                                           "trans",   "pluralize", "debug", "recursive"};
      const bool known = std::find(kOther.begin(), kOther.end(), name) != kOther.end();
      Fail(known ? ErrorKind::kUnsupported : ErrorKind::kFormat,
           "line {}: the statement '{}' is not {}; known are if, for, set, macro, break, continue, generation, raw",
           statement.line, name, known ? "supported" : "known here");
    }
    return statement;
  }

  void ParseIf(Statement& statement) {
    statement.kind = Kind::kIf;
    for (;;) {
      Branch branch;
      branch.condition = ParseTuple();
      EndStatement();
      branch.body = ParseBlock({"elif", "else", "endif"});
      statement.branches.push_back(std::move(branch));
      if (Skip("elif")) continue;
      if (Skip("else")) {
        EndStatement();
        Branch other;
        other.body = ParseBlock({"endif"});
        statement.branches.push_back(std::move(other));
      }
      Expect("endif");
      EndStatement();
      return;
    }
  }

  std::vector<std::string> ParseTargets() {
    std::vector<std::string> names;
    const bool paren = Skip("(");
    do {
      names.push_back(ExpectName());
    } while (Skip(","));
    if (paren) Expect(")");
    return names;
  }

  void ParseFor(Statement& statement) {
    statement.kind = Kind::kFor;
    statement.names = ParseTargets();
    Expect("in");
    statement.expression = ParseTuple(/*with_condition=*/false);
    if (Skip("if")) statement.condition = ParseExpression();
    if (IsName("recursive")) Fail(ErrorKind::kUnsupported, "line {}: recursive loops are not supported", Now().line);
    EndStatement();
    statement.body = ParseBlock({"else", "endfor"});
    if (Skip("else")) {
      EndStatement();
      statement.otherwise = ParseBlock({"endfor"});
    }
    Expect("endfor");
    EndStatement();
  }

  void ParseSet(Statement& statement) {
    statement.kind = Kind::kSet;
    statement.names = ParseTargets();
    if (statement.names.size() == 1 && Skip(".")) statement.name = ExpectName();
    if (Skip("=")) {
      statement.expression = ParseTuple();
      EndStatement();
      return;
    }
    statement.kind = Kind::kSetBlock;
    if (statement.names.size() != 1) Wrong("a block is set to one name");
    while (IsOperator("|")) {
      Fail(ErrorKind::kUnsupported, "line {}: filters of a set block are not supported", Now().line);
    }
    EndStatement();
    statement.body = ParseBlock({"endset"});
    Take();
    EndStatement();
  }

  void ParseMacro(Statement& statement) {
    statement.kind = Kind::kMacro;
    statement.name = ExpectName();
    Expect("(");
    while (!IsOperator(")")) {
      statement.names.push_back(ExpectName());
      if (Skip("=")) {
        statement.defaults.push_back(ParseExpression());
      } else if (!statement.defaults.empty()) {
        Wrong("a parameter without a default behind one that has one");
      }
      if (!Skip(",")) break;
    }
    Expect(")");
    EndStatement();
    statement.body = ParseBlock({"endmacro"});
    Take();
    if (Now().kind == TokenKind::kName) Take();
    EndStatement();
  }

  // Expressions, from the loosest to the tightest.

  ExpressionPtr Make(Op op) const {
    auto expression = std::make_unique<Expression>();
    expression->op = op;
    expression->line = Now().line;
    return expression;
  }
  template <class... Parts>
  ExpressionPtr Make(Op op, ExpressionPtr first, Parts... parts) const {
    ExpressionPtr expression = Make(op);
    Adopt(*expression, std::move(first));
    (Adopt(*expression, std::move(parts)), ...);
    return expression;
  }

  /// Long chains of operators nest as deeply as brackets do; both are walked by recursion.
  void Deepen(Expression& parent, const Expression* child) const {
    if (child == nullptr) return;
    parent.depth = std::max(parent.depth, child->depth + 1);
    if (parent.depth > kMaxExpression) Wrong(fmt::format("an expression nested deeper than {}", kMaxExpression));
  }
  void Adopt(Expression& parent, ExpressionPtr child) const {
    Deepen(parent, child.get());
    parent.parts.push_back(std::move(child));
  }
  void AdoptArguments(Expression& parent) {
    parent.arguments = ParseArguments();
    for (const ExpressionPtr& argument : parent.arguments.positional) Deepen(parent, argument.get());
    for (const auto& [name, argument] : parent.arguments.named) Deepen(parent, argument.get());
  }

  /// One expression, or several with commas between.
  ExpressionPtr ParseTuple(bool with_condition = true) {
    ExpressionPtr first = with_condition ? ParseExpression() : ParseOr();
    if (!IsOperator(",")) return first;
    ExpressionPtr tuple = Make(Op::kTuple, std::move(first));
    while (Skip(",")) {
      if (Now().kind == TokenKind::kOutputEnd || Now().kind == TokenKind::kStatementEnd) break;
      Adopt(*tuple, with_condition ? ParseExpression() : ParseOr());
    }
    return tuple;
  }

  ExpressionPtr ParseExpression() {
    const Deeper deeper(this);
    ExpressionPtr value = ParseOr();
    while (Skip("if")) {
      ExpressionPtr condition = ParseOr();
      ExpressionPtr other = Skip("else") ? ParseExpression() : nullptr;
      value = Make(Op::kChoose, std::move(value), std::move(condition), std::move(other));
    }
    return value;
  }

  ExpressionPtr ParseOr() {
    ExpressionPtr left = ParseAnd();
    while (Skip("or")) left = Make(Op::kOr, std::move(left), ParseAnd());
    return left;
  }
  ExpressionPtr ParseAnd() {
    ExpressionPtr left = ParseNot();
    while (Skip("and")) left = Make(Op::kAnd, std::move(left), ParseNot());
    return left;
  }
  ExpressionPtr ParseNot() {
    const Deeper deeper(this);
    if (Skip("not")) return Make(Op::kNot, ParseNot());
    return ParseCompare();
  }

  ExpressionPtr ParseCompare() {
    ExpressionPtr left = ParseSum();
    ExpressionPtr chain;
    for (;;) {
      std::string name;
      for (const char* op : {"==", "!=", "<", ">", "<=", ">="}) {
        if (IsOperator(op)) name = op;
      }
      if (IsName("in")) name = "in";
      if (IsName("not") && Next().kind == TokenKind::kName && Next().text == "in") name = "not in";
      if (name.empty()) break;
      Take();
      if (name == "not in") Take();
      if (chain == nullptr) chain = Make(Op::kCompare, std::move(left));
      chain->names.push_back(std::move(name));
      Adopt(*chain, ParseSum());
    }
    return chain != nullptr ? std::move(chain) : std::move(left);
  }

  ExpressionPtr ParseSum() {
    ExpressionPtr left = ParseConcat();
    for (;;) {
      const Op op = IsOperator("+") ? Op::kAdd : IsOperator("-") ? Op::kSubtract : Op::kLiteral;
      if (op == Op::kLiteral) return left;
      Take();
      left = Make(op, std::move(left), ParseConcat());
    }
  }
  ExpressionPtr ParseConcat() {
    ExpressionPtr left = ParseProduct();
    if (!IsOperator("~")) return left;
    ExpressionPtr all = Make(Op::kConcat, std::move(left));
    while (Skip("~")) Adopt(*all, ParseProduct());
    return all;
  }
  ExpressionPtr ParseProduct() {
    ExpressionPtr left = ParsePower();
    for (;;) {
      const Op op = IsOperator("*")    ? Op::kMultiply
                    : IsOperator("/")  ? Op::kDivide
                    : IsOperator("//") ? Op::kFloor
                    : IsOperator("%")  ? Op::kModulo
                                       : Op::kLiteral;
      if (op == Op::kLiteral) return left;
      Take();
      left = Make(op, std::move(left), ParsePower());
    }
  }
  ExpressionPtr ParsePower() {
    ExpressionPtr left = ParseUnary(true);
    while (Skip("**")) left = Make(Op::kPower, std::move(left), ParseUnary(true));
    return left;
  }

  ExpressionPtr ParseUnary(bool filters) {
    const Deeper deeper(this);
    ExpressionPtr value;
    if (Skip("-")) {
      value = Make(Op::kNegative, ParseUnary(false));
    } else if (Skip("+")) {
      value = Make(Op::kPositive, ParseUnary(false));
    } else {
      value = ParsePrimary();
    }
    value = ParsePostfix(std::move(value));
    return filters ? ParseFilters(std::move(value)) : std::move(value);
  }

  ExpressionPtr ParsePrimary() {
    const Token& now = Now();
    switch (now.kind) {
      case TokenKind::kName:
        return ParseName();
      case TokenKind::kString: {
        ExpressionPtr text = Make(Op::kLiteral);
        std::string all;
        while (Now().kind == TokenKind::kString) all += Take().text;  // neighbours are one
        text->value = Text(std::move(all));
        return text;
      }
      case TokenKind::kInteger:
      case TokenKind::kFloat:
        return ParseNumber();
      default:
        break;
    }
    if (Skip("(")) {
      if (Skip(")")) return Make(Op::kTuple);
      ExpressionPtr first = ParseExpression();
      if (IsOperator(",")) {
        first = Make(Op::kTuple, std::move(first));
        while (Skip(",")) {
          if (IsOperator(")")) break;
          Adopt(*first, ParseExpression());
        }
      }
      Expect(")");
      return first;
    }
    if (Skip("[")) {
      ExpressionPtr list = Make(Op::kList);
      while (!IsOperator("]")) {
        Adopt(*list, ParseExpression());
        if (!Skip(",")) break;
      }
      Expect("]");
      return list;
    }
    if (Skip("{")) {
      ExpressionPtr dict = Make(Op::kDict);
      while (!IsOperator("}")) {
        Adopt(*dict, ParseExpression());
        Expect(":");
        Adopt(*dict, ParseExpression());
        if (!Skip(",")) break;
      }
      Expect("}");
      return dict;
    }
    Wrong("an expression wanted, found " + Found());
  }

  ExpressionPtr ParseName() {
    const std::string name = Now().text;
    ExpressionPtr literal = Make(Op::kLiteral);
    if (name == "true" || name == "True") {
      literal->value = true;
    } else if (name == "false" || name == "False") {
      literal->value = false;
    } else if (name == "none" || name == "None") {
      literal->value = Value::None{};
    } else {
      for (const char* word : {"if", "else", "elif", "and", "or", "not", "in", "is", "for"}) {
        if (name == word) Wrong(fmt::format("an expression wanted, found '{}'", name));
      }
      literal->op = Op::kName;
      literal->name = name;
    }
    Take();
    return literal;
  }

  ExpressionPtr ParseNumber() {
    ExpressionPtr number = Make(Op::kLiteral);
    const Token token = Take();
    const char *begin = token.text.data(), *end = begin + token.text.size();
    if (token.kind == TokenKind::kInteger) {
      int64_t value = 0;
      if (std::from_chars(begin, end, value).ec != std::errc())
        Wrong(fmt::format("the number {} is too large", token.text));
      number->value = value;
    } else {
      double value = 0;
      if (std::from_chars(begin, end, value).ec != std::errc())
        Wrong(fmt::format("the number {} is out of range", token.text));
      number->value = value;
    }
    return number;
  }

  CallArguments ParseArguments() {
    CallArguments arguments;
    Expect("(");
    while (!IsOperator(")")) {
      if (IsOperator("*") || IsOperator("**")) {
        Fail(ErrorKind::kUnsupported, "line {}: unpacked arguments are not supported", Now().line);
      }
      if (Now().kind == TokenKind::kName && Next().kind == TokenKind::kOperator && Next().text == "=") {
        std::string name = Take().text;
        Take();
        arguments.named.emplace_back(std::move(name), ParseExpression());
      } else {
        if (!arguments.named.empty()) Wrong("a positional argument behind a named one");
        arguments.positional.push_back(ParseExpression());
      }
      if (!Skip(",")) break;
    }
    Expect(")");
    return arguments;
  }

  ExpressionPtr ParsePostfix(ExpressionPtr value) {
    for (;;) {
      if (Skip(".")) {
        ExpressionPtr attribute;
        if (Now().kind == TokenKind::kInteger) {
          ExpressionPtr index = ParseNumber();
          attribute = Make(Op::kIndex, std::move(value), std::move(index));
        } else {
          attribute = Make(Op::kAttribute, std::move(value));
          attribute->name = ExpectName();
        }
        value = std::move(attribute);
      } else if (IsOperator("[")) {
        value = ParseSubscript(std::move(value));
      } else if (IsOperator("(")) {
        ExpressionPtr call = Make(Op::kCall, std::move(value));
        AdoptArguments(*call);
        value = std::move(call);
      } else {
        return value;
      }
    }
  }

  ExpressionPtr ParseSubscript(ExpressionPtr value) {
    Expect("[");
    std::vector<ExpressionPtr> bounds;
    const auto bound = [&] { bounds.push_back(IsOperator(":") || IsOperator("]") ? nullptr : ParseExpression()); };
    bound();
    bool slice = false;
    while (bounds.size() < 3 && Skip(":")) {
      slice = true;
      bound();
    }
    Expect("]");
    if (!slice) {
      if (bounds[0] == nullptr) Wrong("an index wanted between '[' and ']'");
      return Make(Op::kIndex, std::move(value), std::move(bounds[0]));
    }
    ExpressionPtr part = Make(Op::kSlice, std::move(value));
    bounds.resize(3);
    for (ExpressionPtr& b : bounds) Adopt(*part, std::move(b));
    return part;
  }

  /// `| filter(...)`, `is test ...` and calls of their results.
  ExpressionPtr ParseFilters(ExpressionPtr value) {
    for (;;) {
      if (Skip("|")) {
        ExpressionPtr filter = Make(Op::kFilter, std::move(value));
        filter->name = ExpectName();
        if (IsOperator("(")) AdoptArguments(*filter);
        value = std::move(filter);
      } else if (Skip("is")) {
        const bool negated = Skip("not");
        ExpressionPtr test = Make(Op::kTest, std::move(value));
        test->name = ExpectName();
        if (IsOperator("(")) {
          AdoptArguments(*test);
        } else if (BeginsTestArgument()) {
          test->arguments.positional.push_back(ParsePostfix(ParsePrimary()));
          Deepen(*test, test->arguments.positional.back().get());
        }
        value = negated ? Make(Op::kNot, std::move(test)) : std::move(test);
      } else if (IsOperator("(")) {
        ExpressionPtr call = Make(Op::kCall, std::move(value));
        AdoptArguments(*call);
        value = std::move(call);
      } else {
        return value;
      }
    }
  }

  bool BeginsTestArgument() const {
    switch (Now().kind) {
      case TokenKind::kString:
      case TokenKind::kInteger:
      case TokenKind::kFloat:
        return true;
      case TokenKind::kOperator:
        return Now().text == "[" || Now().text == "{";
      case TokenKind::kName:
        for (const char* word : {"else", "or", "and", "is", "if", "not", "in"}) {
          if (Now().text == word) return false;
        }
        return true;
      default:
        return false;
    }
  }

  std::vector<Token> tokens_;
  size_t at_ = 0;
  int depth_ = 0;
};

}  // namespace

Block Parse(std::string_view source) { return Parser(source).Run(); }

}  // namespace hawser::jinja
