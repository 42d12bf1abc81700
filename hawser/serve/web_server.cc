#include "hawser/serve/web_server.h"

#include <fmt/format.h>
#include <poll.h>

#include <boost/asio.hpp>
#include <boost/asio/ssl.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <boost/beast/ssl.hpp>
#include <optional>
#include <set>

#include "hawser/base/error.h"
#include "hawser/base/progress.h"
#include "hawser/serve/lived_time.h"
#include "hawser/serve/pending_reply.h"

namespace hawser {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
using Tcp = asio::ip::tcp;
using boost::system::error_code;

/// Percent signs decoded; nothing where one is wrong.
std::optional<std::string> Decoded(std::string_view text) {
  std::string decoded;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      decoded += text[i];
      continue;
    }
    int value = 0;
    for (size_t k = i + 1; k <= i + 2; ++k) {
      if (k >= text.size() || std::isxdigit(static_cast<unsigned char>(text[k])) == 0) return std::nullopt;
      const char c = static_cast<char>(std::tolower(static_cast<unsigned char>(text[k])));
      value = value * 16 + (c <= '9' ? c - '0' : c - 'a' + 10);
    }
    decoded += static_cast<char>(value);
    i += 2;
  }
  return decoded;
}

}  // namespace

const std::string& WebRequest::Header(const std::string& name) const {
  static const std::string none;
  const auto found = headers.find(name);
  return found == headers.end() ? none : found->second;
}

struct WebServer::Impl {
  WebOptions options;
  Handler handler;
  std::function<std::string(int)> refused;
  bool stopping = false, ended = false;  // the loop's thread alone, as the next
  std::set<class ConnectionBase*> open;  // connections; they outlive the loop no longer than its handlers
  std::atomic<size_t> count = 0;
  asio::io_context loop{1};
  asio::ssl::context tls{asio::ssl::context::tls_server};
  Tcp::acceptor acceptor{loop};
  asio::signal_set signals{loop};
  asio::steady_timer deadline{loop}, beat{loop};
  LivedTime lived;
  asio::thread_pool workers;

  explicit Impl(const WebOptions& o)
      : options(o),
        lived(std::min<LivedTime::Clock::duration>(LivedTime::Clock::duration(o.idle) / 8, std::chrono::seconds(1)),
              LivedTime::Clock::now()),
        workers(static_cast<size_t>(o.workers)) {}
  void Accept();
  void Beat();
  void Open(Tcp::socket socket);
  void Opened(class ConnectionBase* connection) {
    open.insert(connection);
    count = open.size();
  }
  void Closed(class ConnectionBase* connection) {
    open.erase(connection);
    count = open.size();
    if (stopping && !ended && open.empty()) loop.stop();
  }
};

class ConnectionBase {
 public:
  virtual ~ConnectionBase() = default;
  /// Closes where no answer is under way, else once it is complete.
  virtual void Leave() = 0;
  /// Closes. An answer under way learns that its client is gone, and lets go of the connection.
  virtual void Abandon() = 0;
  /// Abandons it where its client has had its time, or has gone unseen.
  virtual void Expire() = 0;
};

/// One client. Everything but the calls of WebReply runs on the loop's thread.
template <class Stream>
class Connection : public ConnectionBase, public ReplyClient, public std::enable_shared_from_this<Connection<Stream>> {
 public:
  template <class... Args>
  explicit Connection(WebServer::Impl* server, Args&&... args) : server_(server), stream_(std::forward<Args>(args)...) {
    server_->Opened(this);
  }
  ~Connection() override { server_->Closed(this); }

  void Start() {
    if constexpr (!std::is_same_v<Stream, beast::tcp_stream>) {
      Await();
      stream_.async_handshake(asio::ssl::stream_base::server, [self = this->shared_from_this()](error_code error) {
        if (!error) self->Read();
      });
    } else {
      Read();
    }
  }

  void Leave() override {
    leaving_ = true;
    if (!reply_) Close();
  }

  void Abandon() override {
    const auto self = this->shared_from_this();  // the answer may hold the last one
    Lost();
  }

  void Expire() override {
    if ((due_ && *due_ <= server_->lived.now()) || (early_ && HasLeft())) Abandon();
  }

 private:
  /// Its client has `most` to do what it is to do now.
  void Await(std::chrono::seconds most) { due_ = server_->lived.After(most); }
  void Await() { Await(server_->options.idle); }

  // What an answer asks of it; these come from any thread.
  size_t most_unsent() const override { return server_->options.unsent_bytes; }
  void PostWrite(std::shared_ptr<PendingReply> reply) override {
    asio::post(server_->loop, [self = this->shared_from_this(), reply = std::move(reply)] { self->WriteNext(reply); });
  }
  void PostLost() override {
    asio::post(server_->loop, [self = this->shared_from_this()] { self->Lost(); });
  }

  void Read() {
    parser_.emplace();
    parser_->body_limit(server_->options.body_bytes);
    parser_->header_limit(static_cast<uint32_t>(server_->options.header_bytes));
    Await();
    blank_bytes_ = 0;
    ReadHeader();
  }

  /// Behind blank lines, which old clients send after a body (RFC 9112, section 2.2). They are few.
  void ReadHeader() {
    for (; buffer_.size() > 0 && blank_bytes_ < 16; ++blank_bytes_, buffer_.consume(1)) {
      const char next = *static_cast<const char*>(buffer_.data().data());
      if (next != (blank_bytes_ % 2 == 0 ? '\r' : '\n')) break;
    }
    const auto self = this->shared_from_this();
    if (buffer_.size() == 0 && blank_bytes_ < 16) {
      stream_.async_read_some(buffer_.prepare(4096), [self](error_code error, size_t n) {
        if (error) return self->GotRequest(error == asio::error::eof ? error_code(http::error::end_of_stream) : error);
        self->buffer_.commit(n);
        self->ReadHeader();
      });
      return;
    }
    if (blank_bytes_ % 2 != 0) return Refuse(400);  // half a line's end
    http::async_read_header(stream_, buffer_, *parser_, [self](error_code error, size_t) { self->GotHeader(error); });
  }

  /// Clients with large bodies ask whether to send them.
  void GotHeader(error_code error) {
    if (error) return GotRequest(error);
    const auto& message = parser_->get();
    const auto expects = message[http::field::expect];
    if (expects.empty() || message.version() < 11) return ReadBody();
    if (!beast::iequals(expects, "100-continue")) return Refuse(417);
    writing_ = "HTTP/1.1 100 Continue\r\n\r\n";
    asio::async_write(stream_, asio::buffer(writing_), [self = this->shared_from_this()](error_code failed, size_t) {
      failed ? self->Close() : self->ReadBody();
    });
  }

  void ReadBody() {
    http::async_read(stream_, buffer_, *parser_,
                     [self = this->shared_from_this()](error_code error, size_t) { self->GotRequest(error); });
  }

  void GotRequest(error_code error) {
    if (error == http::error::end_of_stream || error == asio::error::operation_aborted) return Close();
    if (error) {
      int status = 0;
      if (error == http::error::body_limit) status = 413;
      if (error == http::error::header_limit) status = 431;
      if (status == 0 && error.category() == http::make_error_code(http::error::bad_method).category()) status = 400;
      if (status == 0) return Close();  // the connection itself
      return Refuse(status);
    }
    const auto& message = parser_->get();
    // One way to say how long a request is, so that nobody in front of this server reads another.
    const bool two_lengths =
        (message.count(http::field::transfer_encoding) > 0 &&
         (message.count(http::field::content_length) > 0 || !message.chunked() || message.version() < 11)) ||
        message[http::field::content_length].find(',') != beast::string_view::npos;
    if (two_lengths || message.count(http::field::content_length) > 1 || message.count(http::field::host) > 1 ||
        (message.version() >= 11 && message.count(http::field::host) == 0)) {
      return Refuse(400);
    }
    WebRequest request;
    request.method = std::string(message.method_string());
    const std::string target(message.target());
    const size_t mark = target.find('?');
    const auto path = Decoded(std::string_view(target).substr(0, mark));
    if (!path || target.empty() || target[0] != '/') return Refuse(400);
    request.path = *path;
    if (mark != target.npos) request.query = target.substr(mark + 1);
    for (const auto& field : message) {
      std::string name(field.name_string());
      for (char& c : name) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
      request.headers[name] = std::string(field.value());
    }
    const bool keep_alive = message.keep_alive() && !server_->stopping;
    const unsigned version = message.version();
    request.body = std::move(parser_->get().body());
    const bool head = request.method == "HEAD";
    reply_ = std::make_shared<PendingReply>(this->shared_from_this(), std::move(request), version, keep_alive, head);
    due_.reset();
    Watch();
    asio::post(server_->workers, [server = server_, reply = reply_] {
      const std::optional<WebRequest> request = reply->TakeRequest();
      if (!request) return;
      try {
        server->handler(*request, reply);
      } catch (const std::exception& error) {
        LogLine(fmt::format("{} {}: {}", request->method, request->path, error.what()));
        reply->Send(500, "application/json", server->refused(500), {});
        reply->End();
      }
    });
  }

  /// Learns that the client has gone while its answer is made.
  void Watch() {
    auto& socket = beast::get_lowest_layer(stream_).socket();
    socket.async_wait(Tcp::socket::wait_read, [self = this->shared_from_this(), reply = reply_](error_code error) {
      if (error || reply != self->reply_) return;
      auto& socket = beast::get_lowest_layer(self->stream_).socket();
      char byte = 0;
      error_code peeked;
      socket.non_blocking(true, peeked);
      const size_t n = socket.receive(asio::buffer(&byte, 1), Tcp::socket::message_peek, peeked);
      const bool closed = peeked ? peeked != asio::error::would_block : n == 0;
      if (closed) return self->Lost();
      self->early_ = true;
    });
  }

  /// Watch sees no end behind what has come early: the next request, or the last words of TLS.
  bool HasLeft() {
    pollfd of = {beast::get_lowest_layer(stream_).socket().native_handle(), POLLRDHUP, 0};
    return poll(&of, 1, 0) > 0;
  }

  void Refuse(int status) {
    reply_ = std::make_shared<PendingReply>(this->shared_from_this(), WebRequest(), 11, /*keep_alive=*/false,
                                            /*head=*/false);
    reply_->Send(status, "application/json", server_->refused(status), {});
  }

  void WriteNext(const std::shared_ptr<PendingReply>& reply) {
    if (reply != reply_) return;
    bool complete = false;
    auto next = reply->Next(&complete);
    if (!next) {
      if (complete) Finish();
      return;
    }
    writing_ = std::move(*next);
    if (writing_.empty()) return WriteNext(reply);
    // Each part that it takes gives it time for the next one.
    const auto part = [this](error_code error, size_t) {
      if (!error) Await();
      return error ? 0 : size_t{64} << 10;
    };
    asio::async_write(stream_, asio::buffer(writing_), part,
                      [self = this->shared_from_this(), reply](error_code error, size_t) {
                        if (error) return self->Lost();
                        if (reply == self->reply_) self->due_.reset();
                        self->WriteNext(reply);
                      });
  }

  void Finish() {
    const bool keep = reply_->keep_alive() && !leaving_;
    reply_->Forget();
    reply_.reset();
    early_ = false;
    error_code ignored;
    beast::get_lowest_layer(stream_).socket().cancel(ignored);  // the watch
    if (!keep) return Drain();
    asio::post(server_->loop, [self = this->shared_from_this()] { self->Read(); });
  }

  void Lost() {
    if (const auto reply = std::exchange(reply_, nullptr)) reply->Lost();
    Close();
  }

  /// Says that nothing more comes, and reads what is still under way for a moment, so that the answer is not cut off by
  /// a reset.
  void Drain() {
    error_code ignored;
    auto& socket = beast::get_lowest_layer(stream_).socket();
    socket.shutdown(Tcp::socket::shutdown_send, ignored);
    drained_ = 0;
    Await(std::chrono::seconds(2));
    DrainMore();
  }
  void DrainMore() {
    auto& lowest = beast::get_lowest_layer(stream_);
    lowest.async_read_some(asio::buffer(drain_), [self = this->shared_from_this()](error_code error, size_t n) {
      self->drained_ += n;
      if (error || self->drained_ > (1 << 20)) return self->Close();
      self->DrainMore();
    });
  }

  void Close() {
    due_.reset();
    error_code ignored;
    auto& socket = beast::get_lowest_layer(stream_).socket();
    socket.shutdown(Tcp::socket::shutdown_both, ignored);
    socket.close(ignored);
  }

  WebServer::Impl* server_;
  Stream stream_;
  beast::flat_buffer buffer_;
  std::optional<http::request_parser<http::string_body>> parser_;
  std::shared_ptr<PendingReply> reply_;  // to the request under way
  std::string writing_;
  int blank_bytes_ = 0;  // in front of the request
  std::array<char, 4096> drain_;
  size_t drained_ = 0;
  std::optional<LivedTime::Clock::duration> due_;  // none: the client waits
  bool leaving_ = false;
  bool early_ = false;  // something has come while an answer is made
};

void WebServer::Impl::Accept() {
  acceptor.async_accept([this](error_code error, Tcp::socket socket) {
    if (stopping) return;
    if (error) {
      // Out of descriptors, or a client that left at once: others may fare better in a moment.
      deadline.expires_after(std::chrono::milliseconds(20));
      deadline.async_wait([this](error_code) {
        if (!stopping) Accept();
      });
      return;
    }
    try {
      Open(std::move(socket));
    } catch (const std::exception& failed) {  // out of memory, say: this client is gone, others go on
      LogLine(fmt::format("a connection could not be opened: {}", failed.what()));
    }
    Accept();
  });
}

void WebServer::Impl::Beat() {
  lived.Beat(LivedTime::Clock::now());
  for (ConnectionBase* connection : std::set(open)) connection->Expire();
  beat.expires_after(lived.step());
  beat.async_wait([this](error_code error) {
    if (!error) Beat();
  });
}

void WebServer::Impl::Open(Tcp::socket socket) {
  error_code ignored;
  socket.set_option(Tcp::no_delay(true), ignored);
  // What a client takes is to be seen soon: a buffer tells of it when a third is empty, and grows to megabytes.
  socket.set_option(asio::socket_base::send_buffer_size(128 << 10), ignored);
  if (open.size() >= options.connections) {
    socket.close(ignored);
  } else if (options.certificate.empty()) {
    std::make_shared<Connection<beast::tcp_stream>>(this, std::move(socket))->Start();
  } else {
    std::make_shared<Connection<beast::ssl_stream<beast::tcp_stream>>>(this, std::move(socket), tls)->Start();
  }
}

WebServer::WebServer(const WebOptions& options, Handler handler, std::function<std::string(int)> refused)
    : impl_(std::make_unique<Impl>(options)) {
  impl_->handler = std::move(handler);
  impl_->refused = std::move(refused);
  try {
    if (!options.certificate.empty()) {
      impl_->tls.use_certificate_chain_file(options.certificate);
      impl_->tls.use_private_key_file(options.key, asio::ssl::context::pem);
      impl_->tls.set_options(asio::ssl::context::no_sslv2 | asio::ssl::context::no_sslv3 |
                             asio::ssl::context::no_tlsv1 | asio::ssl::context::no_tlsv1_1);
    }
  } catch (const std::exception& error) {
    Fail(ErrorKind::kUsage, "TLS with {} and {}: {}", options.certificate, options.key, error.what());
  }
  try {
    Tcp::resolver resolver(impl_->loop);
    const Tcp::endpoint address = *resolver.resolve(options.host, std::to_string(options.port)).begin();
    impl_->acceptor.open(address.protocol());
    impl_->acceptor.set_option(asio::socket_base::reuse_address(true));
    impl_->acceptor.bind(address);
    impl_->acceptor.listen(asio::socket_base::max_listen_connections);
  } catch (const std::exception& error) {
    Fail(ErrorKind::kUsage, "cannot listen on {}:{}: {}", options.host, options.port, error.what());
  }
}

WebServer::~WebServer() {
  impl_->workers.join();
  impl_->stopping = impl_->ended = true;
}

uint16_t WebServer::port() const { return impl_->acceptor.local_endpoint().port(); }
size_t WebServer::connections() const { return impl_->count; }

void WebServer::Run(const std::function<void()>& on_signal) {
  if (on_signal) {
    impl_->signals.add(SIGINT);
    impl_->signals.add(SIGTERM);
    impl_->signals.async_wait([on_signal](error_code error, int) {
      if (!error) on_signal();
    });
  }
  impl_->Accept();
  impl_->Beat();
  const auto work = asio::make_work_guard(impl_->loop);
  for (bool over = false; !over;) {
    try {
      impl_->loop.run();
      over = true;
    } catch (const std::exception& error) {  // out of memory, say: the client whose turn it was is gone, others go on
      LogLine(fmt::format("a connection has failed: {}", error.what()));
    }
  }
  impl_->ended = true;
  // Connections that are left go with the loop's objects; others may still hold replies, which do nothing.
  for (ConnectionBase* connection : std::set(impl_->open)) connection->Abandon();
  impl_->workers.join();
}

void WebServer::Stop(std::chrono::milliseconds most) {
  asio::post(impl_->loop, [this, most] {
    if (impl_->stopping) return;
    impl_->stopping = true;
    error_code ignored;
    impl_->acceptor.close(ignored);
    impl_->signals.cancel(ignored);
    if (impl_->open.empty()) return impl_->loop.stop();
    for (ConnectionBase* connection : std::set(impl_->open)) connection->Leave();
    impl_->deadline.expires_after(most);
    impl_->deadline.async_wait([this](error_code error) {
      if (!error) impl_->loop.stop();
    });
  });
}

}  // namespace hawser
