// serve/page.h - the page that the server shows: one file without anything from elsewhere (page.html).
#pragma once

#include <string_view>

namespace hawser {

std::string_view ChatPage();

}  // namespace hawser
