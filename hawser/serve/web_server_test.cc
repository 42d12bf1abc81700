// How long clients may take; scripts/test_serve.py tries the rest of the server over sockets.
#include "hawser/serve/web_server.h"

#include <gtest/gtest.h>

#include <boost/asio.hpp>
#include <chrono>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <thread>

#include "hawser/serve/lived_time.h"

namespace hawser {
namespace {

namespace asio = boost::asio;
using Tcp = asio::ip::tcp;

TEST(LivedTime, CountsNoMoreThanTwoStepsAtOnce) {
  const LivedTime::Clock::time_point begin;
  const std::chrono::seconds s(1);
  LivedTime lived(s, begin);
  EXPECT_EQ(lived.After(60 * s), 61 * s);
  lived.Beat(begin + s);
  EXPECT_EQ(lived.now(), s);
  lived.Beat(begin + 3601 * s);  // a machine that slept
  EXPECT_EQ(lived.now(), 3 * s);
  lived.Beat(begin + 3602 * s);
  EXPECT_EQ(lived.now(), 4 * s);
}

/// A server of clients that may rest for a second.
class WebServerTest : public ::testing::Test {
 protected:
  using Handler = std::function<void(const WebRequest&, WebReply&)>;

  void Serve(Handler handler) {
    server_ = std::make_unique<WebServer>(
        WebOptions{.port = 0, .idle = std::chrono::seconds(1)},
        [handler](const WebRequest& request, const std::shared_ptr<WebReply>& reply) { handler(request, *reply); },
        [](int) { return std::string("{}"); });
    run_ = std::async(std::launch::async, [this] { server_->Run(); });
  }
  ~WebServerTest() override {
    server_->Stop(std::chrono::seconds(1));
    run_.get();
  }

  Tcp::socket Client() {
    Tcp::socket socket(loop_);
    socket.connect({asio::ip::make_address("127.0.0.1"), server_->port()});
    return socket;
  }
  static void Ask(Tcp::socket& socket, const std::string& path) {
    asio::write(socket, asio::buffer("GET " + path + " HTTP/1.1\r\nHost: a\r\n\r\n"));
  }
  /// What comes until the client is cut off or has `end`.
  static std::string Answer(Tcp::socket& socket, const std::string& end) {
    std::string answer;
    boost::system::error_code ended;
    asio::read_until(socket, asio::dynamic_buffer(answer), end, ended);
    return answer;
  }

  asio::io_context loop_;
  std::unique_ptr<WebServer> server_;
  std::future<void> run_;
};

TEST_F(WebServerTest, TimeInWhichItStandsStillIsNoRestOfItsClients) {
  std::promise<void> stands;
  Serve([&](const WebRequest& request, WebReply& reply) {
    if (request.path != "/stall") return reply.Send(200, "text/plain", "here");
    reply.Begin(200, "text/plain");
    reply.OnGone([&] {  // in its loop
      stands.set_value();
      std::this_thread::sleep_for(std::chrono::milliseconds(1500));
    });
    reply.Write("now");
  });
  Tcp::socket resting = Client();
  Ask(resting, "/");
  ASSERT_NE(Answer(resting, "here").find("200 OK"), std::string::npos);
  {
    Tcp::socket leaving = Client();
    Ask(leaving, "/stall");
    ASSERT_NE(Answer(leaving, "now").find("200 OK"), std::string::npos);
  }
  stands.get_future().wait();
  Tcp::socket next = Client();  // is heard when the loop is back, and has seen to those who rested too long
  Ask(next, "/");
  EXPECT_NE(Answer(next, "here").find("200 OK"), std::string::npos);
  Ask(resting, "/");
  EXPECT_NE(Answer(resting, "here").find("200 OK"), std::string::npos);
  EXPECT_EQ(Answer(resting, "more"), "") << "a client that rests is let go";
}

TEST_F(WebServerTest, AClientThatTakesItsAnswerSlowlyGetsAllOfIt) {
  constexpr size_t kSize = 24 << 20;
  Serve([](const WebRequest&, WebReply& reply) { reply.Send(200, "text/plain", std::string(kSize, 'a') + "end"); });
  Tcp::socket slow = Client();
  slow.set_option(asio::socket_base::receive_buffer_size(1 << 16));
  Ask(slow, "/");
  std::string answer;
  boost::system::error_code ended;
  for (int i = 0; i < 12 && !ended; ++i) {  // more than a second in all
    asio::read(slow, asio::dynamic_buffer(answer), asio::transfer_exactly(256 << 10), ended);
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
  }
  const auto more = [&](const boost::system::error_code& error, size_t) -> size_t {
    return error || answer.ends_with("end") ? 0 : 1 << 16;
  };
  asio::read(slow, asio::dynamic_buffer(answer), more, ended);
  EXPECT_TRUE(answer.ends_with("end")) << answer.size() << " bytes";
}

TEST_F(WebServerTest, AClientThatHasSentMoreIsMissedWhenItLeaves) {
  std::promise<void> gone;
  Serve([&](const WebRequest&, WebReply& reply) {
    reply.Begin(200, "text/plain");
    reply.OnGone([&] { gone.set_value(); });
    reply.Write("now");
  });
  Tcp::socket leaving = Client();
  Ask(leaving, "/");
  ASSERT_NE(Answer(leaving, "now\r\n").find("200 OK"), std::string::npos);
  Ask(leaving, "/next");
  auto seen = gone.get_future();
  EXPECT_EQ(seen.wait_for(std::chrono::milliseconds(500)), std::future_status::timeout) << "it is still there";
  leaving.shutdown(Tcp::socket::shutdown_send);
  EXPECT_EQ(seen.wait_for(std::chrono::seconds(20)), std::future_status::ready);
}

}  // namespace
}  // namespace hawser
