// base/utf8.h - whether bytes are UTF-8, and how bytes that are none, as names of files may be, stand in files of
// UTF-8.
#pragma once

#include <string>
#include <string_view>

namespace hawser {

/// Unicode's table 3-7: nothing overlong, no surrogates, nothing beyond U+10FFFF.
bool IsUtf8(std::string_view text);

/// `bytes` as they are where they are UTF-8, else as a file: URI (RFC 8089), which BytesOfText takes back. Text that
/// begins like one is written so too.
std::string TextOfBytes(std::string_view bytes);
std::string BytesOfText(std::string_view text);

}  // namespace hawser
