"""Print the emotion stream with nothing but pyzmq: ``python plain.py [ENDPOINT]``."""

import json
import sys

import zmq

endpoint = sys.argv[1] if len(sys.argv) > 1 else "tcp://127.0.0.1:5563"
socket = zmq.Context().socket(zmq.SUB)
try:
    socket.connect(endpoint)
except zmq.ZMQError as error:
    sys.exit(f"{endpoint!r} is no endpoint ({error}): expected tcp://HOST:PORT or ipc://FILE")
socket.subscribe("emotion.")

try:
    while True:
        _topic, payload = socket.recv_multipart()
        message = json.loads(payload)
        if message["type"] == "session.end":
            print(f"ended: {message['reason']}", flush=True)
            break
        if message["type"] != "emotion":
            continue
        felt = message.get("emotions")
        sure = felt is not None and message["state"] != "abstain"
        top = felt["top"] if sure else "unsure"
        score = f"{max(felt['scores']):.2f}" if sure else "-"
        print(message["time"]["wall"], top, score, message["state"], flush=True)
except KeyboardInterrupt:
    pass
