// What a server answers before it has a model, and what is left of it at its end; scripts/test_serve.py tries the rest
// over sockets.
#include "hawser/serve/service.h"

#include <gtest/gtest.h>

#include <atomic>
#include <boost/asio.hpp>
#include <chrono>
#include <cstdint>
#include <future>
#include <memory>
#include <new>
#include <string>
#include <thread>

#include "hawser/base/error.h"
#include "hawser/base/limits.h"
#include "hawser/base/out_of_memory.h"
#include "hawser/base/parallel.h"

namespace hawser {
namespace {

std::string AnswerTo(uint16_t port, const std::string& request) {
  boost::asio::io_context loop;
  boost::asio::ip::tcp::socket socket(loop);
  socket.connect({boost::asio::ip::make_address("127.0.0.1"), port});
  boost::asio::write(socket, boost::asio::buffer(request));
  std::string answer;
  boost::system::error_code ended;
  boost::asio::read(socket, boost::asio::dynamic_buffer(answer), ended);
  return answer;
}

TEST(Service, TellsThatTheModelIsBeingLoadedAndWhyItIsNot) {
  Service service({.port = 0}, "", std::chrono::seconds(1));
  std::promise<void> asked;
  std::future<void> run = std::async(std::launch::async, [&] {
    service.Run(/*signals=*/false, [&]() -> ServedModel {
      asked.get_future().wait();
      Fail(ErrorKind::kFormat, "no such model");
    });
  });
  for (const char* path : {"/health", "/v1/models", "/"}) {
    const std::string answer =
        AnswerTo(service.port(), std::string("GET ") + path + " HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    EXPECT_TRUE(answer.starts_with("HTTP/1.1 503 ")) << answer;
    EXPECT_NE(answer.find("Retry-After: "), answer.npos) << answer;
    EXPECT_NE(answer.find("\"type\":\"unavailable_error\""), answer.npos) << answer;
  }
  asked.set_value();
  try {
    run.get();
    FAIL();
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "no such model");
  }
}

TEST(Service, ComputesWithAsManyThreadsAsItsCaller) {
  Service service({.port = 0}, "", std::chrono::seconds(1));
  SetThreads(NumThreads() + 3);
  int found = 0;
  EXPECT_THROW(service.Run(/*signals=*/false,
                           [&]() -> ServedModel {
                             found = NumThreads();
                             Fail(ErrorKind::kFormat, "no such model");
                           }),
               Error);
  EXPECT_EQ(found, NumThreads());
  SetThreads(0);
}

TEST(WebServer, AnswersUnderWayAtTheEndAreLetGo) {
  std::promise<void> asked;
  std::weak_ptr<WebReply> answer;
  std::atomic<int> gone = 0;
  const auto handler = [&](const WebRequest&, const std::shared_ptr<WebReply>& reply) {
    answer = reply;
    reply->OnGone([&] { ++gone; });
    asked.set_value();
  };
  auto server = std::make_unique<WebServer>(WebOptions{.port = 0}, handler, [](int) { return std::string(); });
  std::future<void> run = std::async(std::launch::async, [&] { server->Run(); });
  std::future<std::string> client =
      std::async(std::launch::async, AnswerTo, server->port(), "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
  asked.get_future().wait();
  server->Stop(std::chrono::milliseconds(0));
  run.get();
  EXPECT_EQ(gone, 1);
  EXPECT_EQ(client.get(), "");
  server.reset();
  EXPECT_TRUE(answer.expired());
}

TEST(WebServer, RequestsOfClientsThatLeftWhileTheyWaitedAreDropped) {
  std::promise<void> asked, released;
  std::atomic<int> handled = 0;
  const auto handler = [&](const WebRequest&, const std::shared_ptr<WebReply>& reply) {
    if (++handled == 1) {
      asked.set_value();
      released.get_future().wait();
    }
    reply->Send(200, "text/plain", "a");
  };
  WebServer server({.port = 0, .workers = 1}, handler, [](int) { return std::string(); });
  std::future<void> run = std::async(std::launch::async, [&] { server.Run(); });
  const std::string request = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
  std::future<std::string> first = std::async(std::launch::async, AnswerTo, server.port(), request);
  asked.get_future().wait();
  const auto wait_for = [&](size_t connections) {
    while (server.connections() != connections) std::this_thread::yield();
  };
  {
    boost::asio::io_context loop;
    boost::asio::ip::tcp::socket socket(loop);
    socket.connect({boost::asio::ip::make_address("127.0.0.1"), server.port()});
    boost::asio::write(socket, boost::asio::buffer(request));
    wait_for(2);
  }
  wait_for(1);
  released.set_value();
  EXPECT_TRUE(first.get().starts_with("HTTP/1.1 200 "));
  EXPECT_TRUE(AnswerTo(server.port(), request).starts_with("HTTP/1.1 200 "));
  EXPECT_EQ(handled, 2);
  server.Stop(std::chrono::seconds(1));
  run.get();
}

TEST(Service, FaultsOfItsOwnAreToldByNameAndALackOfMemoryToBeTriedAgain) {
  const ApiError inner = OwnFault(Error(ErrorKind::kInternal, "a secret"));
  EXPECT_EQ(inner.status(), 500);
  EXPECT_EQ(inner.Body().find("secret"), std::string::npos);
  EXPECT_NE(inner.Body().find("under fault-"), std::string::npos);
  EXPECT_EQ(OwnFault(std::bad_alloc()).status(), 503);
  try {
    CheckFits("a buffer", INT64_MAX);
    FAIL();
  } catch (const OutOfMemory& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUsage);
    EXPECT_EQ(OwnFault(error).status(), 503);
  }
}

}  // namespace
}  // namespace hawser
