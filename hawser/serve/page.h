// serve/page.h - the page that the server shows: one file without anything from elsewhere (page.html); and what its API
// is, apart from the members that rows tell of (openapi.json; serve/api_doc.h).
#pragma once

#include <string_view>

namespace hawser {

std::string_view ChatPage();
std::string_view ApiFrame();

}  // namespace hawser
