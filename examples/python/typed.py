"""Print the emotion stream with checked, typed messages: ``python typed.py [ENDPOINT]``."""

import sys

from runtime.endpoint import DEFAULT_ENDPOINT, EndpointError
from runtime.stream import Emotion, SessionEnd, subscribe

endpoint = sys.argv[1] if len(sys.argv) > 1 else DEFAULT_ENDPOINT
try:
    for message in subscribe(endpoint):
        match message:
            case Emotion(emotions=felt, state=state) if felt and state != "abstain":
                print(message.time.wall, felt.top, f"{max(felt.scores):.2f}", state, flush=True)
            case Emotion(state=state):
                print(message.time.wall, "unsure", "-", state, flush=True)
            case SessionEnd(reason=reason):
                print(f"ended: {reason}", flush=True)
                break
            case _:
                pass
except EndpointError as error:
    sys.exit(str(error))
except KeyboardInterrupt:
    pass
