// Print the emotion stream: ./subscribe [ENDPOINT]
#include <zmq.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

using nlohmann::json;

// The next part of a message; libzmq owns the bytes until they are copied.
static bool receive(void *socket, std::string &part) {
  zmq_msg_t message;
  zmq_msg_init(&message);
  const bool good = zmq_msg_recv(&message, socket, 0) >= 0;
  if (good) part.assign(static_cast<const char *>(zmq_msg_data(&message)), zmq_msg_size(&message));
  zmq_msg_close(&message);
  return good;
}

static void print(const json &message) {
  const std::string state = message["state"], wall = message["time"]["wall"];
  if (state == "abstain" || !message.contains("emotions")) {
    std::printf("%s unsure - %s\n", wall.c_str(), state.c_str());
    return;
  }
  const json &felt = message["emotions"];
  const auto scores = felt["scores"].get<std::vector<double>>();
  const std::string top = felt["top"];
  std::printf("%s %s %.2f %s\n", wall.c_str(), top.c_str(), *std::max_element(scores.begin(), scores.end()),
              state.c_str());
}

int main(int argc, char **argv) {
  const char *endpoint = argc > 1 ? argv[1] : "tcp://127.0.0.1:5563";
  const std::unique_ptr<void, int (*)(void *)> context(zmq_ctx_new(), zmq_ctx_term);
  const std::unique_ptr<void, int (*)(void *)> socket(zmq_socket(context.get(), ZMQ_SUB), zmq_close);
  if (zmq_connect(socket.get(), endpoint) != 0) {
    std::fprintf(stderr, "\"%s\" is no endpoint (%s): expected tcp://HOST:PORT or ipc://FILE\n", endpoint,
                 zmq_strerror(zmq_errno()));
    return 1;
  }
  zmq_setsockopt(socket.get(), ZMQ_SUBSCRIBE, "emotion.", 8);
  std::setvbuf(stdout, nullptr, _IOLBF, BUFSIZ);

  std::string topic, payload;
  while (receive(socket.get(), topic) && receive(socket.get(), payload)) {
    const json message = json::parse(payload);
    if (message["type"] == "session.end") {
      std::printf("ended: %s\n", message["reason"].get<std::string>().c_str());
      break;
    }
    if (message["type"] == "emotion") print(message);
  }
}
