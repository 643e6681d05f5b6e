// Print the emotion stream: node subscribe.mjs [ENDPOINT]
import { Subscriber } from "zeromq";

const endpoint = process.argv[2] ?? "tcp://127.0.0.1:5563";
const socket = new Subscriber();
try {
  socket.connect(endpoint);
} catch (error) {
  console.error(`"${endpoint}" is no endpoint (${error.message}): expected tcp://HOST:PORT or ipc://FILE`);
  process.exit(1);
}
socket.subscribe("emotion.");
process.on("SIGINT", () => socket.close());

for await (const [, payload] of socket) {
  const message = JSON.parse(payload);
  if (message.type === "session.end") {
    console.log(`ended: ${message.reason}`);
    break;
  }
  if (message.type !== "emotion") continue;
  const felt = message.state === "abstain" ? undefined : message.emotions;
  const score = felt ? Math.max(...felt.scores).toFixed(2) : "-";
  console.log(message.time.wall, felt?.top ?? "unsure", score, message.state);
}
