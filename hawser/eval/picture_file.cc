#include "hawser/eval/picture_file.h"

#include <algorithm>
#include <string>

#include "hawser/base/error.h"
#include "hawser/base/file.h"

#ifdef HAWSER_RSVG
#include <cairo-pdf.h>
#include <librsvg/rsvg.h>

#include <memory>
#endif

namespace hawser {
namespace {

std::string Suffix(const std::filesystem::path& path) {
  std::string suffix = path.extension().string();
  std::ranges::transform(suffix, suffix.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return suffix;
}

#ifdef HAWSER_RSVG
template <auto Free>
struct Deleter {
  template <class T>
  void operator()(T* object) const {
    Free(object);
  }
};
using Handle = std::unique_ptr<RsvgHandle, Deleter<g_object_unref>>;
using Surface = std::unique_ptr<cairo_surface_t, Deleter<cairo_surface_destroy>>;
using Context = std::unique_ptr<cairo_t, Deleter<cairo_destroy>>;

cairo_status_t Append(void* to, const unsigned char* bytes, unsigned int size) {
  static_cast<std::string*>(to)->append(reinterpret_cast<const char*>(bytes), size);
  return CAIRO_STATUS_SUCCESS;
}

/// Draws the picture over the whole surface. Errors: kInternal with the library's words.
void Render(RsvgHandle* handle, cairo_surface_t* surface, double width, double height) {
  const Context context(cairo_create(surface));
  const RsvgRectangle whole{0, 0, width, height};
  GError* error = nullptr;
  if (rsvg_handle_render_document(handle, context.get(), &whole, &error) == 0) {
    const std::string words = error != nullptr ? error->message : "unknown error";
    g_clear_error(&error);
    Fail(ErrorKind::kInternal, "librsvg cannot draw the picture: {}", words);
  }
  if (cairo_status(context.get()) != CAIRO_STATUS_SUCCESS) {
    Fail(ErrorKind::kInternal, "cairo cannot draw the picture: {}",
         cairo_status_to_string(cairo_status(context.get())));
  }
}

std::string Converted(std::string_view svg, bool pdf) {
  constexpr double kScale = 2;  // pixels of a PNG
  GError* error = nullptr;
  const Handle handle(rsvg_handle_new_from_data(reinterpret_cast<const guint8*>(svg.data()), svg.size(), &error));
  if (handle == nullptr) {
    const std::string words = error != nullptr ? error->message : "unknown error";
    g_clear_error(&error);
    Fail(ErrorKind::kInternal, "librsvg cannot read the picture: {}", words);
  }
  double width = 0, height = 0;
  if (rsvg_handle_get_intrinsic_size_in_pixels(handle.get(), &width, &height) == 0) {
    Fail(ErrorKind::kInternal, "a picture without a size");
  }
  std::string bytes;
  if (pdf) {
    const Surface surface(cairo_pdf_surface_create_for_stream(Append, &bytes, width, height));
    Render(handle.get(), surface.get(), width, height);
    cairo_surface_finish(surface.get());
    return bytes;
  }
  const Surface surface(cairo_image_surface_create(CAIRO_FORMAT_ARGB32, static_cast<int>(kScale * width),
                                                   static_cast<int>(kScale * height)));
  Render(handle.get(), surface.get(), kScale * width, kScale * height);
  if (cairo_surface_write_to_png_stream(surface.get(), Append, &bytes) != CAIRO_STATUS_SUCCESS) {
    Fail(ErrorKind::kInternal, "cairo cannot write a PNG of {:.0f} x {:.0f}", kScale * width, kScale * height);
  }
  return bytes;
}
#else
std::string Converted(std::string_view, bool) { Fail(ErrorKind::kInternal, "no librsvg"); }
#endif

}  // namespace

void CheckPictureName(const std::filesystem::path& path) {
  const std::string suffix = Suffix(path);
  if (suffix == ".svg") return;
  if (suffix != ".png" && suffix != ".pdf") {
    Fail(ErrorKind::kUsage, "{}: wanted a name that ends in .svg, .png or .pdf", path.string());
  }
#ifndef HAWSER_RSVG
  Fail(ErrorKind::kUnsupported,
       "{}: this build writes .svg alone; for PNG and PDF install librsvg (librsvg2-dev) and build again",
       path.string());
#endif
}

void WritePicture(const std::filesystem::path& path, std::string_view svg) {
  CheckPictureName(path);
  const std::string suffix = Suffix(path);
  if (suffix == ".svg") return WriteFileAtomically(path, svg);
  WriteFileAtomically(path, Converted(svg, suffix == ".pdf"));
}

}  // namespace hawser
