#include "hawser/serve/page.h"

#define HAWSER_BUILTIN(symbol, name) extern "C" const char symbol[], symbol##_end[];
#include "hawser_page.inc"
#undef HAWSER_BUILTIN

namespace hawser {

std::string_view ChatPage() {
  return {hawser_page_page_html, static_cast<size_t>(hawser_page_page_html_end - hawser_page_page_html)};
}

std::string_view ApiFrame() {
  return {hawser_page_openapi_json, static_cast<size_t>(hawser_page_openapi_json_end - hawser_page_openapi_json)};
}

}  // namespace hawser
